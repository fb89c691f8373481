"""What icechunk adds to a mosaic: commits, conflicts and history; and where its repository lies."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import icechunk
import numpy as np
import pytest
import xarray as xr

from mapper.errors import BusyError, CredentialsError, MapperError, MosaicError, QuestionError, StoreError
from mapper.icechunk_storage import CACHED_REFS, storage_at
from mapper.masks import UNMAPPED
from mapper.mosaic import Mosaic
from mapper.storage import open_store
from tests.mapper.s3_gate import Gate, gate_before
from tests.mapper.sinks import (
    GRID,
    PROMPTS,
    ROAD,
    SPEC,
    TILES,
    Sink,
    content,
    holds,
    is_gap,
    keep,
    layers,
    put,
    sink_of,
)


@pytest.fixture(params=["folder", "s3"])
def ice(request: pytest.FixtureRequest, tmp_path: Path) -> Sink:
    return sink_of(request, "icechunk", request.param, tmp_path)


@pytest.fixture
def ice_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Sink:
    return sink_of(request, "icechunk", "folder", tmp_path)


# Commits and history -------------------------------------------------------------------------------------------------


def test_nothing_is_seen_before_it_is_committed(ice: Sink) -> None:
    mosaic = ice.create()
    worker = Mosaic.open(mosaic.url)
    written = put(worker, 0)
    assert all(is_gap(one, 0) for one in (mosaic, worker, Mosaic.open(mosaic.url)))
    assert keep(mosaic, [written]) is not None
    assert all(holds(one, 0) for one in (mosaic, worker, Mosaic.open(mosaic.url)))


def test_a_receipt_that_is_lost_leaves_no_trace(ice: Sink) -> None:
    mosaic = ice.create()
    written = [put(mosaic, number) for number in range(3)]
    keep(mosaic, [written[0], written[2]])
    assert holds(mosaic, 0)
    assert is_gap(mosaic, 1)
    assert holds(mosaic, 2)


def test_of_two_receipts_for_a_tile_the_later_one_counts(ice_folder: Sink) -> None:
    mosaic = ice_folder.create()
    keep(mosaic, [put(mosaic, 0, seed=7), put(mosaic, 0, seed=8)])
    assert holds(mosaic, 0, seed=8)


def test_a_tile_that_failed_half_way_is_in_no_later_receipt(ice_folder: Sink) -> None:
    mosaic = ice_folder.create()
    whole = layers()
    with pytest.raises(MapperError):  # the source is no whole shard: mask and score are in the session by then
        mosaic.write(GRID, TILES[0], 0, replace(whole, source=np.zeros((8, 32), np.uint32)))
    keep(mosaic, [put(mosaic, 1)])
    assert is_gap(mosaic, 0)
    assert holds(mosaic, 1)


def test_a_reader_stays_at_what_was_there_when_it_opened(ice: Sink) -> None:
    mosaic = ice.create()
    keep(mosaic, [put(mosaic, 0)])
    reader = Mosaic.open(mosaic.url, writable=False)
    keep(mosaic, [put(mosaic, 1)])
    assert holds(reader, 0)
    assert is_gap(reader, 1)
    assert holds(Mosaic.open(mosaic.url, writable=False), 1)
    assert reader.snapshot is not None
    assert is_gap(Mosaic.open(mosaic.url, at=reader.snapshot), 1)  # as another process of the reader's would
    plain = xr.open_zarr(reader.store, group="0")["mask"]
    assert (plain[0, 0, :32, :32] == layers(0).mask[0]).all()
    assert (plain[0, 0, :32, 32:] == UNMAPPED).all()


def test_two_who_commit_their_own_tiles_lose_nothing(ice: Sink) -> None:
    one = ice.create()
    other = Mosaic.open(one.url)
    for first, second in ((0, 1), (2, 3)):
        keep(one, [put(one, first)])
        keep(other, [put(other, second)])
    assert all(holds(Mosaic.open(one.url), number) for number in range(4))


def test_two_who_commit_one_tile_are_told_and_nothing_of_the_later_commit_is_kept(ice: Sink) -> None:
    one = ice.create()
    other = Mosaic.open(one.url)
    keep(one, [put(one, 0, seed=1)])
    with pytest.raises(BusyError, match="another process has written") as caught:
        keep(other, [put(other, 0, seed=2), put(other, 3)])
    assert caught.value.where == {"mosaic": one.url}
    assert holds(one, 0, seed=1)
    assert is_gap(one, 3)


def test_a_commit_across_somebody_elses_growth_is_refused(ice_folder: Sink) -> None:
    one = ice_folder.create()
    other = Mosaic.open(one.url)
    one.add_prompts([ROAD])
    with pytest.raises(BusyError):
        keep(other, [put(other, 0)])


def test_a_commit_of_a_receipt_that_cannot_be_read_keeps_nothing_of_the_others(ice_folder: Sink) -> None:
    mosaic = ice_folder.create()
    written = [put(mosaic, number) for number in (0, 1)]
    receipt = written[0].receipt
    assert receipt is not None
    with pytest.raises(StoreError):
        mosaic.commit([receipt, b"torn"], "a torn receipt", {})
    keep(mosaic, written[1:])
    assert is_gap(mosaic, 0)
    assert holds(mosaic, 1)


def test_nothing_to_commit_is_no_commit(ice_folder: Sink) -> None:
    mosaic = ice_folder.create()
    assert mosaic.commit([], "nothing", {}) is None
    assert len(mosaic.snapshots()) == 1


def test_a_mosaic_opens_as_it_was_at_the_end_of_a_run(ice: Sink) -> None:
    mosaic = ice.create()
    keep(mosaic, [put(mosaic, 0, seed=1)])
    assert mosaic.tag("run-a1") == "run-a1"
    snapshot = keep(mosaic, [put(mosaic, 0, seed=2)])
    mosaic.add_prompts([ROAD])
    for at in ("run-a1", "a1"):
        then = Mosaic.open(mosaic.url, at=at)
        assert holds(then, 0, seed=1)
        assert then.prompts == PROMPTS
        assert (
            xr.open_zarr(open_store(mosaic.url, at=at), group="0")["mask"][0, 0, :32, :32] == layers(1).mask[0]
        ).all()
    assert snapshot is not None
    assert holds(Mosaic.open(mosaic.url, at=snapshot), 0, seed=2)
    assert Mosaic.open(mosaic.url).prompts == (*PROMPTS, ROAD)


def test_a_run_that_ends_twice_is_opened_as_it_ended_last(ice_folder: Sink) -> None:
    mosaic = ice_folder.create()
    keep(mosaic, [put(mosaic, 0, seed=1)])
    assert [mosaic.tag("run-a") for _ in range(2)] == ["run-a", "run-a"]
    for seed, name in ((2, "run-a.2"), (3, "run-a.3")):
        keep(mosaic, [put(mosaic, 0, seed=seed)])
        assert mosaic.tag("run-a") == name
    assert holds(Mosaic.open(mosaic.url, at="a"), 0, seed=3)
    assert holds(Mosaic.open(mosaic.url, at="run-a.2"), 0, seed=2)


@pytest.mark.parametrize("at", ["run-zz", "ZZ9QH7XK2M4N6P8R0T1G", "1CECHNKREP0F1RSTCMT0", ""])
def test_a_version_that_never_was_is_a_question_that_cannot_be_asked(ice_folder: Sink, at: str) -> None:
    mosaic = ice_folder.create()
    mosaic.tag("run-a")
    with pytest.raises(QuestionError, match="no such version") as caught:
        Mosaic.open(mosaic.url, at=at)
    assert "run-a" in caught.value.fix


def test_a_zarr_mosaic_says_that_it_keeps_no_history(tmp_path: Path) -> None:
    mosaic = Mosaic.create(str(tmp_path / "map"), SPEC)
    assert (mosaic.tag("run-a"), mosaic.snapshots(), keep(mosaic, [put(mosaic, 0)])) == (None, [], None)
    with pytest.raises(QuestionError, match="keeps no history"):
        Mosaic.open(mosaic.url, at="run-a")


def test_the_history_tells_what_each_commit_was(ice: Sink) -> None:
    mosaic = ice.create()
    keep(mosaic, [put(mosaic, 0)], run="a")
    mosaic.tag("run-a")
    mosaic.add_prompts([ROAD])
    told = [(one.message, one.metadata, one.tags) for one in mosaic.snapshots()]
    assert told == [
        ("room for road", {}, ()),
        ("1 shards", {"run": "a"}, ("run-a",)),
        ("an empty mosaic", {}, ()),
    ]
    times = [one.time for one in mosaic.snapshots()]
    assert times == sorted(times, reverse=True)
    assert all(time.tzinfo is not None for time in times)
    assert [one.message for one in Mosaic.open(mosaic.url, at="a").snapshots()] == ["1 shards", "an empty mosaic"]


def test_a_shard_that_is_gone_is_an_error_and_no_gap(ice_folder: Sink) -> None:
    mosaic = ice_folder.create()
    keep(mosaic, [put(mosaic, 0)])
    for path in Path(mosaic.url, "chunks").iterdir():
        path.unlink()
    with pytest.raises(StoreError):
        Mosaic.open(mosaic.url, writable=False).layer(GRID, "score", TILES[0].core, time=0)


def test_a_receipt_is_small_and_holds_no_secret(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    mosaic = Mosaic.create(f"{bucket}{tmp_path}/map", SPEC, engine="icechunk")
    receipt = put(mosaic, 0).receipt
    assert receipt is not None
    assert b"hunter2" not in receipt
    assert len(pickle.dumps(receipt)) < 8192  # beside three shards of 1 kB each, kept in it because they are small


def test_manifests_are_split_and_their_cache_is_bounded_for_all_who_open_it(ice_folder: Sink) -> None:
    found = icechunk.Repository.open(storage_at(ice_folder.create().url)).config
    assert found.caching is not None
    assert found.caching.num_chunk_refs == CACHED_REFS
    assert found.manifest is not None
    assert "64" in str(found.manifest.splitting)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://a/map", "icechunk keeps nothing at memory://"),
        ("s3://bucket", "needs a folder in its bucket"),
        ("az://container/map", "in which storage account"),
    ],
)
def test_where_icechunk_keeps_nothing_is_said(url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(MosaicError, match=said) as caught:
        Mosaic.create(url, SPEC, engine="icechunk")
    assert caught.value.fix


@pytest.mark.parametrize(
    "url", ["gs://bucket/map", "az://container/map", "abfs://container@account.dfs.core.windows.net/m"]
)
def test_the_other_clouds_are_known(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert isinstance(storage_at(url), icechunk.Storage)


def test_icechunk_is_imported_for_icechunk_alone_and_warns_of_nothing(tmp_path: Path) -> None:
    code = f"""
import sys
from tests.mapper import test_mosaic as other
from mapper.mosaic import Mosaic
Mosaic.create({str(tmp_path / "a")!r}, other.SPEC)
Mosaic.open({str(tmp_path / "a")!r})
assert "icechunk" not in sys.modules
Mosaic.create({str(tmp_path / "b")!r}, other.SPEC, engine="icechunk")
assert "icechunk" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# What is there already -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [["config.yaml"], ["snapshots"], ["config.yaml", "snapshots", "transactions"]])
def test_a_repository_that_was_killed_before_it_had_a_branch_is_made_anew(left: list[str], ice_folder: Sink) -> None:
    url = Path(ice_folder.place())
    for name in left:
        path = url / name if name == "config.yaml" else url / name / "1CECHNKREP0F1RSTCMT0"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"begun")
    assert not Mosaic.exists(str(url))
    mosaic = Mosaic.create(str(url), SPEC, engine="icechunk")
    keep(mosaic, [put(mosaic, 0)])
    assert holds(Mosaic.open(str(url)), 0)


@pytest.mark.parametrize("names", [["holiday.jpg"], ["snapshots/holiday.jpg"], ["config.yaml", "notes.txt"]])
def test_a_folder_of_other_files_is_left_alone(names: list[str], ice_folder: Sink) -> None:
    url = ice_folder.place()
    for name in names:
        Path(url, name).parent.mkdir(parents=True, exist_ok=True)
        Path(url, name).write_text("mine")
    before = content(url)
    with pytest.raises(MosaicError, match="already there"):
        Mosaic.create(url, SPEC, engine="icechunk")
    assert content(url) == before


def test_a_repository_without_zarr_groups_but_with_a_history_is_left_alone(ice_folder: Sink) -> None:
    url = ice_folder.place()
    repository = icechunk.Repository.create(storage_at(url))
    repository.create_branch("draft", repository.lookup_branch("main"))
    with pytest.raises(MosaicError, match="already there"):
        Mosaic.create(url, SPEC, engine="icechunk")
    with pytest.raises(MosaicError, match="not a resmap mosaic"):
        Mosaic.open(url)


# What an S3 server may do --------------------------------------------------------------------------------------------


@pytest.fixture
def gate(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    with gate_before(os.environ["AWS_ENDPOINT_URL"]) as gate:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", gate.url)
        yield gate


def test_a_commit_whose_answer_was_lost_is_found_in_the_history(gate: Gate, bucket: str, tmp_path: Path) -> None:
    mosaic = Mosaic.create(f"{bucket}{tmp_path}/map", SPEC, engine="icechunk")
    written = [put(mosaic, number) for number in (0, 1)]
    gate.loses = ("refs/branch.main/ref.json", "/repo")  # where main is, in icechunk 1 and 2
    snapshot = keep(mosaic, written[:1])
    assert len(gate.lost) == 1
    assert mosaic.snapshots()[0].id == snapshot
    assert len(mosaic.snapshots()) == 2
    keep(mosaic, written[1:])
    assert holds(mosaic, 0)
    assert holds(mosaic, 1)


def test_a_store_that_refuses_us_sends_the_user_to_log_in(
    gate: Gate, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    url = f"{bucket}{tmp_path}/map"
    mosaic = Mosaic.create(url, SPEC, engine="icechunk")
    snapshot = mosaic.snapshot
    gate.refuses = "snapshots/"
    with pytest.raises(CredentialsError):  # and not: no such version
        Mosaic.open(url, at=snapshot)
    gate.refuses = "/"
    acts: list[Callable[[], object]] = [
        lambda: Mosaic.create(f"{url}2", SPEC, engine="icechunk"),
        lambda: Mosaic.open(url),
        lambda: put(mosaic, 0),
        lambda: mosaic.add_prompts([ROAD]),
        lambda: mosaic.tag("run-a"),
    ]
    for act in acts:
        with pytest.raises(CredentialsError, match="refuses us") as caught:
            act()
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)


def test_without_credentials_the_user_is_sent_to_log_in(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CredentialsError, match="refuses us"):
        Mosaic.create(f"{bucket}{tmp_path}/map", SPEC, engine="icechunk")
