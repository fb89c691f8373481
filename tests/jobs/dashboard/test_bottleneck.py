"""The sentence that names what holds a run back: true of as many GPUs as it says, and its advice can be followed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.readings import WAITS
from jobs.dashboard.bottleneck import MOST_MORE, Settings, bottleneck, more_readers
from jobs.dashboard.views import CallsRow, GpuRow
from jobs.spec import MOST_WORKERS, JobSpec

ROW = GpuRow(
    worker="gpu-0", host="a", device="cpu", state="working", heard_s=0.5, tiles=5, tiles_per_s=1.0, mpx_per_s=4.0,
    km2_per_h=1.0, busy=None, waits={}, batch=8, in_hand=3, host_peak_bytes=0, device_peak_bytes=None,
    device_total_bytes=None, power_w=None, temperature_c=None, utilization=None, spark=(),
)  # fmt: skip


def gpu(busy: float, **waits: float) -> GpuRow:
    return replace(ROW, busy=busy, waits={wait: waits.get(wait, 0.0) for wait in WAITS})


def calls(kind: str, throttled: float) -> CallsRow:
    return CallsRow(kind=kind, host="images.example.com", done=100, per_s=1.0, failed_share=throttled,
                    throttled_share=throttled, p50_ms=1.0, p99_ms=2.0, bytes_per_s=1.0)  # fmt: skip


READING = [gpu(0.5, read=0.4, decode=0.1)] * 5 + [gpu(0.95, read=0.05)] * 3


def test_it_says_of_how_many_gpus_it_is_true_and_how_many_readers_would_do() -> None:
    said = bottleneck(READING, Settings(readers=8), waiting=100)
    assert (said.wait, said.gpus, said.of) == ("read", 5, 8)
    # All models compute 0.66875 of the time and wait 0.33125 for readers: 8 · 1 / 0.66875 = 11.96.
    assert said.sentence == "Reads hold back 5 of 8 GPUs for 40 % of their time: raise compute.readers to 12."


def test_readers_that_were_placed_by_themselves_are_reckoned_from_the_threads_that_read() -> None:
    said = bottleneck(READING, Settings(readers="auto"), waiting=100, reading=20.0)
    assert said.sentence.endswith("raise compute.readers to 30.")


@pytest.mark.parametrize(
    ("rows", "settings", "more", "wait", "sentence"),
    [
        ([gpu(0.95, read=0.05)] * 2, Settings(gpus=2, compiled=True, precision="bf16"), {}, "infer",
         "The model is the limit: 2 of 2 GPUs compute nearly all the time, 95 % on average; more GPUs make it faster "
         "(compute.gpus)."),
        ([gpu(0.95, read=0.05)], Settings(), {}, "infer",
         "The model is the limit: 1 of 1 GPU computes nearly all the time, 95 % on average; more GPUs make it faster, "
         "and so may model.compiled: true or model.precision: bf16 in a new mosaic."),
        ([gpu(0.4, decode=0.6)], Settings(readers=2), {}, "decode",
         "Decoding holds back 1 of 1 GPU for 60 % of its time: raise compute.readers to 5."),
        ([gpu(0.4, write=0.6)], Settings(), {}, "write",
         "Writes hold back 1 of 1 GPU for 60 % of its time: move output.mosaic to a store nearer to the GPUs."),
        ([gpu(0.4, write=0.6)], Settings(engine="icechunk", commit_shards=32), {}, "write",
         "Writes hold back 1 of 1 GPU for 60 % of its time: raise output.commit_shards above 32, or move "
         "output.mosaic nearer to the GPUs."),
        ([gpu(0.4, encode=0.6)], Settings(), {}, "encode",
         "Encoding holds back 1 of 1 GPU for 60 % of its time: the cores beside the GPUs are short; let "
         "compute.readers read on others."),
        ([gpu(0.4, copy=0.6)], Settings(batch=4), {}, "copy",
         "Copies to the device hold back 1 of 1 GPU for 60 % of its time: raise compute.batch above 4."),
        ([gpu(0.4, blend=0.6)], Settings(), {}, "blend",
         "Blending holds back 1 of 1 GPU for 60 % of its time: a new mosaic with windows.overlap_px below 128 has "
         "less to blend."),
        ([gpu(0.4, tasks=0.6)], Settings(), {"waiting": 1}, "tasks",
         "Want of tiles holds back 1 of 1 GPU for 60 % of its time: nothing is left to hand out, and the last tiles "
         "are under way."),
        ([gpu(0.4, tasks=0.6)], Settings(), {}, "tasks",
         "Want of tiles holds back 1 of 1 GPU for 60 % of its time: its driver does not keep up; give it a "
         "machine with less to do, or lower compute.gpus."),
        ([gpu(0.4, read=0.6)], Settings(), {"calls": [calls("imagery", 0.2)]}, "read",
         "Reads hold back 1 of 1 GPU for 60 % of its time: images.example.com tells 20 % of requests to come slower, "
         "so take fewer compute.readers or compute.gpus."),
        ([gpu(0.4, read=0.6)], Settings(readers=1), {"calls": [calls("store", 0.2)]}, "read",
         "Reads hold back 1 of 1 GPU for 60 % of its time: raise compute.readers to 3."),
    ],
)  # fmt: skip
def test_each_cause_has_its_sentence(
    rows: list[GpuRow], settings: Settings, more: dict[str, Any], wait: str, sentence: str
) -> None:
    said = bottleneck(rows, settings, **{"waiting": 100, **more})
    assert (said.wait, said.sentence) == (wait, sentence)


def test_nothing_is_said_before_a_worker_has_spoken() -> None:
    assert bottleneck([], Settings(), waiting=5).wait == "nothing"
    assert bottleneck([ROW], Settings(), waiting=5).wait == "nothing"


shares = st.lists(st.floats(0, 1), min_size=1 + len(WAITS), max_size=1 + len(WAITS)).filter(
    lambda parts: sum(parts) > 0.1
)


@given(st.lists(shares, min_size=1, max_size=6), st.integers(0, 3), st.sampled_from(["zarr", "icechunk"]))
def test_every_setting_it_names_is_one_of_the_job_file(parts: list[list[float]], waiting: int, engine: str) -> None:
    rows = [gpu(one[0] / sum(one), **{w: x / sum(one) for w, x in zip(WAITS, one[1:], strict=True)}) for one in parts]
    said = bottleneck(rows, Settings(engine=engine), waiting=waiting)
    assert 0 < said.gpus <= said.of == len(rows) or said.wait == "infer"
    named = re.findall(r"\b([a-z]+)\.([a-z_]+)\b", said.sentence)
    sections = JobSpec.model_fields
    assert named or said.wait in ("tasks", "infer")
    for section, key in named:
        assert key in sections[section].annotation.model_fields  # type: ignore[union-attr]


@given(st.floats(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_more_readers_are_more_and_within_reason(readers: float, busy: float, lost: float) -> None:
    wanted = more_readers(readers, busy=busy, lost=lost)
    assert readers < wanted <= min(MOST_WORKERS, max(readers + 1, MOST_MORE * readers + 1))
