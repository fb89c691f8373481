from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import pytest

from jobs import lease as leases
from jobs.lease import Claim, Lease
from mapper.errors import BusyError, MosaicError, StoreError
from mapper.storage import Folder


def holder(mosaic: Path) -> dict[str, Any] | None:
    path = mosaic / ".resmap" / "lease.json"
    return json.loads(path.read_text()) if path.exists() else None


def left_behind(mosaic: Path, **changes: Any) -> None:
    """A lease as another driver would have left it."""
    fields = {"run": "other", "host": socket.gethostname(), "pid": 1, "process": "?", "id": "x", "at": time.time()}
    path = mosaic / ".resmap" / "lease.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields | changes))


def dead_pid() -> int:
    over = subprocess.Popen([sys.executable, "-c", ""])
    over.wait(20)
    return over.pid


def test_a_lease_is_there_while_it_is_held_and_gone_afterwards(tmp_path: Path) -> None:
    with Lease(str(tmp_path), "run-1"):
        held = holder(tmp_path)
        assert held is not None
        assert (held["run"], held["pid"], held["host"]) == ("run-1", os.getpid(), socket.gethostname())
    assert holder(tmp_path) is None


def test_a_lease_is_let_go_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the run failed"), Lease(str(tmp_path), "run-1"):
        raise ValueError("the run failed")
    assert holder(tmp_path) is None


def test_a_mosaic_that_is_held_is_refused_to_others_and_they_are_told_by_whom(tmp_path: Path) -> None:
    with Lease(str(tmp_path), "run-1"):
        with pytest.raises(BusyError, match="run run-1 is writing") as refused, Lease(str(tmp_path), "run-2"):
            pass
        assert refused.value.where["pid"] == os.getpid()
        assert "resmap status" in refused.value.fix
        held = holder(tmp_path)
        assert held is not None
        assert held["run"] == "run-1"


def test_a_living_driver_of_this_machine_keeps_its_lease(tmp_path: Path) -> None:
    left_behind(tmp_path, pid=os.getppid())
    with pytest.raises(BusyError), Lease(str(tmp_path), "run-2"):
        pass


@pytest.mark.parametrize(
    "who",
    [
        lambda: {"pid": dead_pid()},
        lambda: {"pid": os.getpid(), "process": "an earlier one of the same id, as in a container"},
        lambda: {"pid": os.getppid(), "at": time.time() - leases.STALE_AFTER_S - 1},
        lambda: {"host": "elsewhere", "at": time.time() - leases.STALE_AFTER_S - 1},
    ],
    ids=["killed here", "same process id", "id taken by another program", "silent elsewhere"],
)
def test_the_lease_of_a_driver_that_is_gone_is_taken_over_at_once(tmp_path: Path, who: Any) -> None:
    left_behind(tmp_path, **who())
    with Lease(str(tmp_path), "run-2"):
        held = holder(tmp_path)
        assert held is not None
        assert held["run"] == "run-2"


def test_a_driver_that_died_and_whose_parent_has_not_asked_yet_is_gone(tmp_path: Path) -> None:
    died = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, died.pid, os.WEXITED | os.WNOWAIT)
        left_behind(tmp_path, pid=died.pid)
        with Lease(str(tmp_path), "run-2"):
            held = holder(tmp_path)
            assert held is not None
            assert held["run"] == "run-2"
    finally:
        died.wait()


def test_a_driver_of_another_machine_is_waited_out(tmp_path: Path) -> None:
    left_behind(tmp_path, host="elsewhere")
    with pytest.raises(BusyError, match="other"), Lease(str(tmp_path), "run-2"):
        pass


def test_a_lease_that_cannot_be_read_holds_nobody_up(tmp_path: Path) -> None:
    left_behind(tmp_path)
    (tmp_path / ".resmap" / "lease.json").write_text("{")
    with Lease(str(tmp_path), "run-2"):
        assert holder(tmp_path) is not None


def test_of_many_that_begin_at_once_one_gets_the_mosaic(tmp_path: Path) -> None:
    count = 12
    start, refused, held = threading.Barrier(count), [], []
    over = threading.Barrier(count)

    def drive(number: int) -> None:
        start.wait(20)
        try:
            with Lease(str(tmp_path), f"run-{number}"):
                held.append(number)
                over.wait(20)
        except BusyError:
            refused.append(number)
            over.wait(20)

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(held) == 1
    assert len(refused) == count - 1


def test_a_lease_is_kept_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.01)
    with Lease(str(tmp_path), "run-1"):
        before = holder(tmp_path)
        deadline = time.monotonic() + 20
        while holder(tmp_path) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert before is not None
        assert (holder(tmp_path) or {})["at"] > before["at"]


def test_a_lease_that_another_has_taken_over_is_not_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.01)
    with Lease(str(tmp_path), "run-1"):
        left_behind(tmp_path)
        time.sleep(0.2)  # many heartbeats
        assert (holder(tmp_path) or {})["run"] == "other"
    assert (holder(tmp_path) or {})["run"] == "other"


def test_where_nothing_can_be_written_there_is_no_lease(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MosaicError, match="cannot be written here") as refused, Lease(str(tmp_path / "file"), "run-1"):
        pass
    assert "output.mosaic" in refused.value.fix


# Epochs --------------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def claims(tmp_path: Path, clock: Clock) -> tuple[Claim, Claim]:
    """Those of two drivers."""
    folder = Folder(str(tmp_path))
    return Claim(folder, str(tmp_path), "one", now=clock), Claim(folder, str(tmp_path), "two", now=clock)


def test_every_taking_has_a_higher_number_than_the_last_also_when_the_lease_was_let_go(tmp_path: Path) -> None:
    epochs = []
    for _ in range(3):
        with Lease(str(tmp_path), "run-1") as lease:
            epochs.append(lease.epoch)
    assert epochs == [1, 2, 3]


@pytest.mark.parametrize("gone", [False, True], ids=["its successor is there", "its successor has come and gone"])
def test_a_driver_that_was_stopped_and_lost_its_lease_stops_itself(tmp_path: Path, gone: bool) -> None:
    clock = Clock()
    sleeper, successor = claims(tmp_path, clock)
    sleeper.take()
    clock.now += leases.STALE_AFTER_S + 1
    successor.take()
    if gone:
        successor.release()
    with pytest.raises(BusyError, match="taken this mosaic over") as refused:
        sleeper.check()
    assert "resmap status" in refused.value.fix
    before = (tmp_path / "lease.json").exists()
    sleeper.beat()
    assert (tmp_path / "lease.json").exists() == before == (not gone)
    successor.check()


def test_a_lease_that_is_kept_fresh_is_asked_for_without_a_request(tmp_path: Path) -> None:
    clock = Clock()
    claim, _ = claims(tmp_path, clock)
    claim.take()
    (tmp_path / "epoch.json").write_text('{"epoch": 9, "id": "another"}')
    clock.now += leases.CONFIRMED_S - 0.1
    claim.check()
    clock.now += 0.1
    with pytest.raises(BusyError):
        claim.check()


def test_of_two_that_wrote_the_lease_the_later_taking_keeps_it(tmp_path: Path) -> None:
    clock = Clock()
    sleeper, successor = claims(tmp_path, clock)
    sleeper.take()
    early = (tmp_path / "lease.json").read_bytes()
    clock.now += leases.STALE_AFTER_S + 1
    successor.take()
    (tmp_path / "lease.json").write_bytes(early)  # stopped just before it wrote, the other wakes
    successor.beat()
    assert json.loads((tmp_path / "lease.json").read_text())["run"] == "two"
    clock.now += leases.CONFIRMED_S
    successor.check()
    with pytest.raises(BusyError):
        sleeper.check()


class Drowsy(Folder):
    """A folder whose driver is stopped just before it writes the lease, or just after it has read it, once."""

    def __init__(self, url: str, clock: Clock, act: Literal["read", "write"]) -> None:
        super().__init__(url)
        self._clock, self._act = clock, act
        self.asleep = False

    def read(self, name: str) -> bytes:
        content = super().read(name)
        self._sleep(name, "read")
        return content

    def write(self, name: str, content: bytes) -> None:
        self._sleep(name, "write")
        super().write(name, content)

    def _sleep(self, name: str, act: str) -> None:
        if self.asleep and (name, act) == ("lease.json", self._act):
            self.asleep = False
            self._clock.now += leases.STALE_AFTER_S + 1
            root = Path(self.url.removeprefix("file://"))
            Claim(Folder(str(root)), str(root), "two", now=self._clock).take()


@pytest.mark.parametrize("act", ["read", "write"])
def test_a_driver_that_was_stopped_amid_its_heartbeat_does_not_take_its_own_word_for_the_lease(
    tmp_path: Path, act: Literal["read", "write"]
) -> None:
    clock = Clock()
    folder = Drowsy(str(tmp_path), clock, act)
    sleeper = Claim(folder, str(tmp_path), "one", now=clock)
    sleeper.take()
    folder.asleep = True
    sleeper.beat()
    assert not folder.asleep
    assert not sleeper.sure
    with pytest.raises(BusyError, match="taken this mosaic over"):
        sleeper.check()


class Lossy(Folder):
    """A folder that writes and says that it did not, or does not."""

    applies = True

    def write(self, name: str, content: bytes) -> None:
        if self.applies:
            super().write(name, content)
        raise StoreError("the answer was lost")


@pytest.mark.parametrize("applies", [True, False])
def test_a_lease_whose_answer_was_lost_is_read_back_before_it_is_called_a_failure(
    tmp_path: Path, applies: bool
) -> None:
    folder = Lossy(str(tmp_path))
    folder.applies = applies
    claim = Claim(folder, str(tmp_path), "one", now=Clock())
    if applies:
        claim.take()
        claim.settle()
        assert claim.epoch == 1
    else:
        with pytest.raises(StoreError):
            claim.take()
