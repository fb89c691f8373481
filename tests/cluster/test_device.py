"""Which card a worker asks about itself, and that a card that says nothing stops nobody."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.device import NO_CARD, Card, CardWatch, host_peak_bytes

UUIDS = ("GPU-11111111-aaaa", "GPU-22222222-bbbb", "GPU-22229999-cccc")


class Nvml:
    """A driver with three cards; a card is its number."""

    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *, knows: bool = True) -> None:
        self.knows, self.asked = knows, 0

    def nvmlInit(self) -> None:  # noqa: N802  # the library's own names
        if not self.knows:
            raise OSError("no driver")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(UUIDS)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        return range(len(UUIDS))[number]

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:  # noqa: N802
        return UUIDS[handle].encode()

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, part: str) -> int:  # noqa: N802
        return {"MIG-of-2": 2}[part]

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        self.asked += 1
        return 1000 * (100 + handle)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        raise RuntimeError("not supported")

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=75)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=80 * 2**30)


BLIND = SimpleNamespace()  # a torch without a card


@pytest.mark.parametrize(
    ("visible", "device", "card"),
    [
        (None, "cuda", 0),
        (None, "cuda:2", 2),
        ("1", "cuda", 1),
        ("2,0", "cuda:1", 0),
        (UUIDS[1], "cuda", 1),
        ("GPU-2222999", "cuda:0", 2),  # as many letters as it takes
        ("MIG-of-2", "cuda", 2),
    ],
)
def test_the_card_is_the_one_that_the_process_may_see(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, card: int
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    said = CardWatch(device, nvml=Nvml(), torch=BLIND).sample()
    assert said == Card(power_w=100 + card, utilization=0.75, total_bytes=80 * 2**30)  # it knows no temperature


def test_a_card_is_known_by_the_name_that_torch_has_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    cuda = SimpleNamespace(
        get_device_properties=lambda number: SimpleNamespace(uuid="22229999-cccc"),
        max_memory_reserved=lambda: 5 * 2**30,
        mem_get_info=lambda: (2**30, 24 * 2**30),
    )
    said = CardWatch("cuda:0", nvml=Nvml(), torch=SimpleNamespace(cuda=cuda)).sample()
    assert (said.power_w, said.peak_bytes, said.total_bytes) == (102, 5 * 2**30, 24 * 2**30)


@pytest.mark.parametrize("visible", ["", "-1", "7", "GPU-nobody", "MIG-nobody", "NoDevFiles"])
def test_where_no_such_card_is_nothing_is_known(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert CardWatch("cuda", nvml=Nvml(), torch=BLIND).sample() == NO_CARD


def test_without_a_driver_nothing_is_known() -> None:
    assert CardWatch("cuda", nvml=Nvml(knows=False), torch=BLIND).sample() == NO_CARD


def test_a_model_on_the_cpu_has_no_card_whatever_the_machine_has() -> None:
    assert CardWatch("cpu", nvml=Nvml(), torch=BLIND).sample() == NO_CARD


def test_a_card_is_asked_once_a_second_at_most() -> None:
    now, nvml = [0.0], Nvml()
    watch = CardWatch("cuda:0", nvml=nvml, torch=BLIND, clock=lambda: now[0])
    for now[0] in (0.0, 0.5, 0.9, 1.0, 1.2):
        watch.sample()
    assert nvml.asked == 2


def test_memory_of_a_process_is_what_it_held_at_most() -> None:
    held = bytearray(64 * 2**20)
    held[::4096] = b"x" * len(held[::4096])  # touched, so that the machine has to give it
    before = host_peak_bytes()
    del held
    assert host_peak_bytes() >= before > 64 * 2**20
