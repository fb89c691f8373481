"""Requests by host, and seconds by work: what is counted, and what never is."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapper.errors import MapperError
from mapper.grid import PixelBox
from mapper.read import RasterReader
from mapper.storage import Folder
from mapper.traffic import LATENCY_MS, MOST_HOSTS, TRAFFIC, Calls, Traffic, calls_since, host_of, told_to_wait
from mapper.work import WORK, Spent, spent_since
from tests.mapper.rasters import UTM45, item_of, placed, smooth_pixels, write_raster
from tests.servers import Fault, files_over_http

HOSTS = [
    ("s3://bucket/some/key.tif", "bucket"),
    ("s3://bucket", "bucket"),
    ("az://container/blob", "container"),
    ("https://example.com/a/b.tif?token=secret", "example.com"),
    ("https://user:secret@example.com:8443/a.tif", "example.com"),
    ("https://EXAMPLE.com/a.tif#secret", "example.com"),
    ("https://[2001:db8::1]/a.tif", "2001:db8::1"),
    ("/data/scene.tif", "files"),
    ("scene.tif", "files"),
    ("file:///data/scene.tif", "files"),
    ("memory://m/a", "m"),
    ("https:///a.tif", "?"),
    ("https://[::1/a.tif", "?"),
    ("https://a\x1bb\x00.com/x", "ab.com"),
]


@pytest.mark.parametrize(("address", "host"), HOSTS)
def test_of_an_address_only_the_host_or_bucket_is_kept(address: str, host: str) -> None:
    assert host_of(address) == host


@given(st.text())
def test_whatever_an_address_is_its_host_is_short_and_can_be_shown(text: str) -> None:
    for address in (text, f"https://{text}"):
        assert 0 < len(host_of(address)) <= 253
        assert host_of(address).isprintable()


def test_requests_are_counted_by_kind_and_host_and_by_how_long_they_took() -> None:
    traffic = Traffic()
    for took_s in (0.0005, 0.001, 0.0011, 1.0, 9999.0):
        traffic.add("store", "bucket", took_s, 10)
    traffic.add("imagery", "bucket", 0.001, failed=True, throttled=True)
    imagery, store = traffic.calls()
    assert (imagery.kind, imagery.done, imagery.failed, imagery.throttled) == ("imagery", 1, 1, 1)
    assert (store.kind, store.done, store.failed, store.moved_bytes) == ("store", 5, 0, 50)
    classes = {(*LATENCY_MS, "longer")[place]: count for place, count in enumerate(store.took) if count}
    assert classes == {1: 2, 2: 1, 1024: 1, "longer": 1}


def test_no_more_hosts_are_kept_than_a_few() -> None:
    traffic = Traffic()
    for number in range(10 * MOST_HOSTS):
        traffic.add("imagery", f"host-{number}", 0.0)
    calls = traffic.calls()
    assert len(calls) == MOST_HOSTS + 1
    assert {one.host: one.done for one in calls}["others"] == 9 * MOST_HOSTS


def test_what_another_process_counted_is_added_and_two_looks_tell_what_lies_between() -> None:
    traffic, other = Traffic(), Traffic()
    traffic.add("store", "a", 0.5, 7)
    other.add("store", "a", 0.001, 5, failed=True)
    other.add("imagery", "b", 0.001)
    before = traffic.calls()
    traffic.add_all(other.calls())
    assert calls_since(before, traffic.calls()) == other.calls()
    assert calls_since((), traffic.calls()) == traffic.calls()
    assert calls_since(traffic.calls(), traffic.calls()) == ()


def test_threads_count_together() -> None:
    traffic, spent = Traffic(), Spent()

    def count() -> None:
        for _ in range(2000):
            traffic.add("store", "a", 0.0, 1)
            spent.add("write", 0.5)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (calls,) = traffic.calls()
    assert (calls.done, calls.moved_bytes, calls.took[0], spent.seconds()["write"]) == (8000, 8000, 8000, 4000.0)


def test_a_request_that_raises_failed_and_one_whose_answer_is_that_nothing_is_there_did_not() -> None:
    traffic = Traffic()
    with pytest.raises(OSError, match="SlowDown"), traffic.request("store", "a"):
        raise OSError("SlowDown: reduce your request rate")
    with pytest.raises(FileNotFoundError), traffic.request("store", "a", missing=FileNotFoundError):
        raise FileNotFoundError
    (calls,) = traffic.calls()
    assert (calls.done, calls.failed, calls.throttled) == (2, 1, 1)


def test_that_we_come_too_fast_is_heard_in_what_libraries_raise_and_in_their_causes() -> None:
    refused = OSError("refused")
    refused.response = {"ResponseMetadata": {"HTTPStatusCode": 503}}  # type: ignore[attr-defined]  # as botocore has it
    wrapped = RuntimeError("the shard could not be put")
    wrapped.__cause__ = refused
    assert told_to_wait(wrapped)
    assert told_to_wait(OSError("HTTP response code: 429"))
    assert not told_to_wait(OSError("HTTP response code: 404"))
    assert not told_to_wait(None)


# What real reads and writes count ------------------------------------------------------------------------------------

BOX = PixelBox(-6_120_064, 668_032, -6_120_064 + 64, 668_032 + 64)


def counted(kind: str, before: tuple[Calls, ...]) -> list[Calls]:
    return [calls for calls in calls_since(before, TRAFFIC.calls()) if calls.kind == kind]


def test_a_file_that_is_read_is_one_request_for_its_header_and_one_for_its_pixels(tmp_path: Path) -> None:
    raster = tmp_path / "scene.tif"
    write_raster(raster, smooth_pixels(BOX), UTM45.transform(BOX))
    reader, before = RasterReader(bands=3), TRAFFIC.calls()
    for _ in range(2):  # what is kept is not asked for again
        reader.read([placed(item_of(raster))], UTM45, BOX)
    (calls,) = counted("imagery", before)
    assert (calls.host, calls.done, calls.failed, calls.moved_bytes) == ("files", 2, 0, 3 * 64 * 64)


def test_a_server_that_tells_us_to_wait_is_counted_as_one(tmp_path: Path) -> None:
    write_raster(tmp_path / "scene.tif", smooth_pixels(BOX), UTM45.transform(BOX))
    with files_over_http(tmp_path) as server:
        server.fail("/scene.tif", Fault(status=429))
        before = TRAFFIC.calls()
        with pytest.raises(MapperError):
            RasterReader(bands=3).read([placed(item_of(f"{server.url}/scene.tif"))], UTM45, BOX)
    (calls,) = counted("imagery", before)
    assert (calls.host, calls.done, calls.failed, calls.throttled) == ("127.0.0.1", 1, 1, 1)


def test_a_request_whose_answer_is_a_refusal_failed_though_nothing_was_raised() -> None:
    traffic = Traffic()
    for status in (200, 404, 503):
        with traffic.request("catalog", "a") as request:
            request.status = status
    (calls,) = traffic.calls()
    assert (calls.done, calls.failed, calls.throttled) == (3, 2, 1)


def test_small_files_are_requests_of_the_store(tmp_path: Path) -> None:
    folder, before = Folder(str(tmp_path)), TRAFFIC.calls()
    folder.write("a", b"four")
    assert folder.read("a") == b"four"
    with pytest.raises(FileNotFoundError):
        folder.read("b")
    (calls,) = counted("store", before)
    assert (calls.host, calls.done, calls.failed, calls.moved_bytes) == ("files", 3, 0, 8)


# Seconds -------------------------------------------------------------------------------------------------------------


def test_a_thread_that_sleeps_waits_and_one_that_reckons_computes() -> None:
    spent = Spent()
    with spent.computing("decode"), spent.waiting("read"):
        time.sleep(0.1)
    waited = spent.seconds()
    assert waited["read"] > waited["decode"]
    with spent.computing("decode"):
        sum(range(2_000_000))
    assert spent_since(waited, spent.seconds())["decode"] > 0


def reckon_on_core(core: int, until: float) -> tuple[float, float]:
    """Seconds that a process was there, and those in which its thread is said to have waited for bytes."""
    os.sched_setaffinity(0, {core})
    spent, began = Spent(), time.perf_counter()
    with spent.waiting("read"):
        while time.time() < until:
            sum(range(1000))
    return time.perf_counter() - began, spent.seconds()["read"]


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="this kernel does not tell who is in line")
def test_a_thread_in_line_for_a_core_is_not_waiting_for_bytes() -> None:
    core = min(os.sched_getaffinity(0))
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as processes:
        until = time.time() + 4.0
        found = list(processes.map(reckon_on_core, [core] * 3, [until] * 3))
    # At most one of three had the core: had the others waited for bytes, they would have for most of the time.
    assert sum(waited_s for _, waited_s in found) < 0.25 * sum(there_s for there_s, _ in found)


def test_seconds_of_work_never_fall() -> None:
    spent = Spent()
    spent.add("read", 1.0)
    spent.add("read", -5.0)  # a clock of a thread may run finer than that of the wall
    spent.add_all({"read": 2.0, "write": 1.0})
    assert spent.seconds() == dict.fromkeys(WORK, 0.0) | {"read": 3.0, "write": 1.0}
