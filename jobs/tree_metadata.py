"""A mosaic's documents and coordinates: whether they say what they should, and how they are written anew.

Under zarr each array and level is described several times: by itself, and in the consolidated metadata of all that it
lies in. So a changed letter is seen by comparing these, in whichever edition of PROJ the text was made. What the root
says of itself stands once; it is held against the runs. An icechunk snapshot holds one copy, of which shapes, codecs,
places and coordinates are held against the root.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from jobs.faults import FROM_COPY, REMOVE, REWRITE, Fault
from jobs.run_check import KnownRun
from jobs.speaking import renews_of
from jobs.spec import JobSpec
from mapper.errors import MapperError
from mapper.grid import Grid
from mapper.layout import MosaicSpec, axis_values, consolidate, create_tree, root_attributes
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt
from mapper.storage import plain_store, store_failure

REQUESTS = 16
"""Documents that are fetched at once."""

ARRAYS = ("mask", "score", "source", "prompt", "time", "y", "x", "spatial_ref")
AXES = ("prompt", "time", "y", "x", "spatial_ref")
GROWING = ("prompt", "time")

_GROWN = tuple(f"/{name}/zarr.json" for name in GROWING)

_OF_AXES = tuple(f"/{name}/zarr.json" for name in AXES)

_BY_PROJ = ("proj:code", "proj:wkt2")
"""What another edition of PROJ says in other words."""

Document = dict[str, Any]


def spec_of(mosaic: Mosaic) -> MosaicSpec:
    """What a mosaic says of itself."""
    return MosaicSpec(
        grids=mosaic.grids, prompts=mosaic.prompts, times=mosaic.times, made_by=mosaic.made_by, pyramid=mosaic.pyramid
    )


def metadata_faults(mosaic: Mosaic, runs: Sequence[KnownRun]) -> list[Fault]:
    """All that is wrong with its documents, its axes and its coordinates."""
    try:
        spec = spec_of(mosaic)
        keys = _documents(spec)
        stored = _stored(mosaic.store, keys)
        draft = _draft(spec, stored)
    except (MapperError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return [_fault("zarr.json", f"what the root says of the mosaic makes no sense: {error}")]
    parsed, faults = _parsed(stored, keys, canonical=mosaic.engine == "zarr")
    expected = {key: json.loads(draft[key]) for key in keys}
    for key, document in parsed.items():
        faults += _structure_faults(key, document, expected[key])
    if mosaic.engine == "zarr":
        faults += _copy_faults(parsed, expected)
    if "zarr.json" in parsed:
        faults += _root_faults(parsed, spec)
    faults += run_faults(mosaic, runs)
    faults += _coordinate_faults(stored, draft, {fault.tile for fault in faults})
    return list({(fault.tile, fault.reason): fault for fault in faults}.values())


def mend_metadata(url: str, spec: MosaicSpec) -> list[str]:
    """Write anew what is damaged of a plain Zarr mosaic's documents and coordinates, the root's document last.

    Returns:
        The keys that were put, or taken away.
    """
    store = plain_store(url, read_only=False)
    try:
        stored = _stored(store, _documents(spec))
        draft = _draft(spec, stored)
        changed = [key for key, content in draft.items() if stored.get(key) != content and key != "zarr.json"]
        for key in [*changed, *(["zarr.json"] if stored.get("zarr.json") != draft["zarr.json"] else [])]:
            sync(store.set(key, default_buffer_prototype().buffer.from_bytes(draft[key])))
        gone = [key for key in stored if key not in draft]
        for key in gone:
            sync(store.delete(key))
    except Exception as error:
        raise store_failure(error, url, "mended") from error
    return [*changed, *gone]


def _draft(spec: MosaicSpec, stored: Mapping[str, bytes]) -> dict[str, bytes]:
    """Every document and coordinate, as it would be written now.

    Args:
        spec: what the mosaic says of itself.
        stored: what lies there. Of an axis that has grown, the chunks stay as they were laid.
    """
    store = MemoryStore()
    root = zarr.create_group(store, zarr_format=3)
    for grid in spec.grids:
        create_tree(root, grid, spec)
    for level in _levels(spec):
        for name in GROWING:
            _lay_as_stored(store, root, f"{level.path}/{name}", stored, axis_values(spec)[name])
    root.attrs.put(root_attributes(spec))
    consolidate(root, spec.grids)
    return _contents(store)


def _lay_as_stored(
    store: MemoryStore, root: zarr.Group, path: str, stored: Mapping[str, bytes], values: NDArray[Any]
) -> None:
    try:
        document = json.loads(stored[f"{path}/zarr.json"])
        mine = json.loads(_contents(store)[f"{path}/zarr.json"])
        alike = {**document, "chunk_grid": None} == {**mine, "chunk_grid": None}
    except (KeyError, ValueError, TypeError):
        return
    if not alike or document["chunk_grid"] == mine["chunk_grid"]:
        return
    sync(store.delete_dir(path))
    sync(store.set(f"{path}/zarr.json", default_buffer_prototype().buffer.from_bytes(stored[f"{path}/zarr.json"])))
    array = root[path]
    assert isinstance(array, zarr.Array)
    array[...] = values


def _contents(store: MemoryStore) -> dict[str, bytes]:
    async def all_of() -> dict[str, bytes]:
        found = {}
        async for key in store.list():
            content = await store.get(key, default_buffer_prototype())
            assert content is not None
            found[key] = content.to_bytes()
        return found

    return sync(all_of())


def _levels(spec: MosaicSpec) -> list[Grid]:
    return [level for grid in spec.grids for level in grid.pyramid()]


def _documents(spec: MosaicSpec) -> list[str]:
    """Keys of all documents."""
    groups = [*(grid.name for grid in spec.grids if grid.name), *(level.path for level in _levels(spec))]
    arrays = [f"{level.path}/{name}" for level in _levels(spec) for name in ARRAYS]
    return ["zarr.json", *(f"{path}/zarr.json" for path in (*groups, *arrays))]


def _stored(store: Store, documents: Sequence[str]) -> dict[str, bytes]:
    """What lies there of documents, and all in the folders of coordinates."""
    axes = [key.removesuffix("zarr.json") for key in documents if key.endswith(_OF_AXES)]
    limit = asyncio.Semaphore(REQUESTS)

    async def get(key: str) -> tuple[str, Buffer | None]:
        async with limit:
            return key, await store.get(key, default_buffer_prototype())

    async def under(axis: str) -> list[str]:
        async with limit:
            return [key async for key in store.list_prefix(axis)]

    async def all_of() -> dict[str, bytes]:
        listed = await asyncio.gather(*map(under, axes))
        keys = sorted({*documents, *chain.from_iterable(listed)})
        found = await asyncio.gather(*map(get, keys))
        return {key: content.to_bytes() for key, content in found if content is not None}

    return sync(all_of())


def _parsed(
    stored: Mapping[str, bytes], keys: Sequence[str], *, canonical: bool
) -> tuple[dict[str, Document], list[Fault]]:
    """The documents that are JSON, by key, and what is wrong with the others."""
    parsed: dict[str, Document] = {}
    faults = []
    for key in keys:
        if key not in stored:
            faults.append(_fault(key, "this document of the mosaic is missing"))
            continue
        try:
            document = json.loads(stored[key])
        except ValueError:
            faults.append(_fault(key, "this document of the mosaic is no JSON any more"))
            continue
        if not isinstance(document, dict):
            faults.append(_fault(key, "this document does not describe a Zarr node"))
            continue
        parsed[key] = document
        if canonical and not any(
            json.dumps(document, indent=indent).encode() == stored[key] for indent in (2, None, 4, 1, 0)
        ):
            faults.append(_fault(key, "a byte of this document has changed, though it may say the same"))
    return parsed, faults


def _structure_faults(key: str, document: Document, expected: Document) -> Iterator[Fault]:
    """Shape, type, codecs and place of one node, held against what the root says."""
    free = {"attributes", "consolidated_metadata"} | ({"chunk_grid"} if key.endswith(_GROWN) else set())
    for name in (expected.keys() | document.keys()) - free:
        if document.get(name) != expected.get(name) and name != "storage_transformers":
            yield _fault(key, f"{name} is not what the mosaic's root makes of it")
    attributes = document.get("attributes")
    if not isinstance(attributes, dict):
        yield _fault(key, "its attributes are gone")
        return
    for name, value in expected["attributes"].items():
        if name.startswith("spatial:") and attributes.get(name) != value:
            yield _fault(key, f"{name} is not what the mosaic's root makes of it")


def _copy_faults(parsed: Mapping[str, Document], expected: Mapping[str, Document]) -> Iterator[Fault]:
    """Each node's own document against its copies in the consolidated metadata above it."""
    for key, document in parsed.items():
        wanted = expected[key].get("consolidated_metadata")
        if wanted is None:
            continue
        copies = document.get("consolidated_metadata")
        if not isinstance(copies, dict) or not isinstance(copies.get("metadata"), dict):
            yield _fault(key, "its consolidated metadata are gone")
            continue
        if {**copies, "metadata": None} != {**wanted, "metadata": None}:
            yield _fault(key, "its consolidated metadata do not say what they are")
        if copies["metadata"].keys() != wanted["metadata"].keys():
            yield _fault(key, "its consolidated metadata speak of other arrays than there are")
        for name in copies["metadata"].keys() & wanted["metadata"].keys():
            own = f"{key.removesuffix('zarr.json')}{name}/zarr.json"
            copy, like = copies["metadata"][name], wanted["metadata"][name]
            if not isinstance(copy, dict) or copy.get("consolidated_metadata") != like.get("consolidated_metadata"):
                yield _fault(key, f"its copy of what describes {name} is damaged")
            elif own in parsed and _bare(copy) != _bare(parsed[own]):
                yield _fault(own, f"it differs from its copy in the consolidated metadata of {key}")


def _bare(document: Document) -> Document:
    return {name: value for name, value in document.items() if name != "consolidated_metadata"}


def _root_faults(parsed: Mapping[str, Document], spec: MosaicSpec) -> Iterator[Fault]:
    """What the root says beside its facts follows from them; of PROJ's words, its finest level has a copy."""
    said = parsed["zarr.json"].get("attributes")
    if not isinstance(said, dict):
        return
    finest = parsed.get(f"{spec.grids[0].path}/zarr.json", {}).get("attributes", {})
    expected = root_attributes(spec)
    for name in said.keys() | expected.keys():
        wanted = finest.get(name) if name in _BY_PROJ and name in expected else expected.get(name)
        if json.loads(json.dumps(wanted)) != said.get(name):
            yield _fault("zarr.json", f"{name} is not what the rest of the mosaic says")


def run_faults(mosaic: Mosaic, runs: Sequence[KnownRun]) -> Iterator[Fault]:
    """Prompts, times and origin, held against the runs that have written to it."""
    spoken = {prompt.name: prompt for prompt in mosaic.prompts}
    known = [run for run in runs if run.spec is not None]
    asked: dict[str, Prompt] = {}
    for run in known:
        assert run.spec is not None
        asked |= {prompt.name: prompt for prompt in run.spec.prompt_values()}
        yield from _origin_faults(mosaic, run, run.spec)
        for prompt in run.spec.prompt_values():
            if spoken.get(prompt.name) != prompt and run.folder.begun():
                yield _fault("zarr.json", f"the prompt axis disagrees with run {run.name} on {prompt.name!r}")
    yield from _time_faults(mosaic, runs)
    if len(known) == len(runs):
        for name in spoken.keys() - asked.keys():
            yield _fault("zarr.json", f"the prompt axis has {name!r}, which no run asked for")


def _origin_faults(mosaic: Mosaic, run: KnownRun, spec: JobSpec) -> Iterator[Fault]:
    facts = run.facts
    pairs = (
        ("its model", mosaic.made_by.get("model"), spec.model.name),
        ("its pyramid", mosaic.pyramid, spec.output.pyramid),
        ("its answer key", mosaic.made_by.get("answer_key"), facts.get("answer_key")),
        ("the zones", [grid.name for grid in mosaic.grids], facts.get("grids")),
    )
    for what, here, there in pairs:
        if there is not None and here != there:
            yield _fault("zarr.json", f"{what} disagrees with run {run.name}")
    steps = facts.get("steps")
    if steps is not None and has_grown_to(facts) and [time.isoformat() for time in mosaic.times][: len(steps)] != steps:
        yield _fault("zarr.json", f"the time axis disagrees with run {run.name}", fix=FROM_COPY)


def has_grown_to(facts: Mapping[str, Any]) -> bool:
    """Whether the mosaic's time axis begins with the steps of a run. It grows once a renewing run is saved, so one
    that was stopped in between may speak of steps that the axis never got."""
    return not renews_of(facts) or facts.get("state") != "planned"


def _time_faults(mosaic: Mosaic, runs: Sequence[KnownRun]) -> Iterator[Fault]:
    """Time steps that no run speaks of, where all can be asked."""
    said = [run.facts.get("steps") for run in runs]
    if runs and None not in said:
        spoken = {step for steps in said for step in steps or ()}
        for time in mosaic.times:
            if time.isoformat() not in spoken:
                reason = f"the time axis has {time.isoformat()}, which no run speaks of"
                yield _fault("zarr.json", reason, fix=FROM_COPY)


def _coordinate_faults(stored: Mapping[str, bytes], laid: Mapping[str, bytes], known: set[str]) -> Iterator[Fault]:
    """Chunks of coordinates: damaged, gone, too many, or of other values."""
    axes = {key.removesuffix("zarr.json") for key in laid if key.endswith(_OF_AXES)}
    same, odd = 0, []
    for axis in sorted(axes):
        wanted = {key: content for key, content in laid.items() if key.startswith(axis) and not key.endswith(".json")}
        there = {key: content for key, content in stored.items() if key.startswith(axis) and not key.endswith(".json")}
        for key in sorted(there.keys() - wanted.keys()):
            yield Fault(run="", tile=key, reason="a file among the coordinates that is none of them", fix=REMOVE,
                        kind="extra", key=key)  # fmt: skip
        if f"{axis}zarr.json" in known:
            continue
        for key in sorted(wanted):
            if there.get(key) == wanted[key]:
                same += 1
            elif key not in there:
                yield _fault(key, "these coordinates are missing")
            elif _values_differ(axis, laid, key, there[key]):
                yield _fault(key, "these coordinates are damaged")
            else:
                odd.append(_fault(key, "its bytes have changed; its coordinates have not"))
    if same >= len(odd):  # else another edition of zstd wrote them
        yield from odd


def _values_differ(axis: str, laid: Mapping[str, bytes], key: str, content: bytes) -> bool:
    """Whether the axis says something else, or nothing, with this chunk in it."""
    buffer = default_buffer_prototype().buffer
    values = []
    for chunk in (laid[key], content):
        contents = {name.removeprefix(axis): what for name, what in laid.items() if name.startswith(axis)}
        contents[key.removeprefix(axis)] = chunk
        store = MemoryStore({name: buffer.from_bytes(what) for name, what in contents.items()})
        try:
            values.append(np.asarray(zarr.open_array(store, mode="r")[...]))
        except Exception:  # of zarr, of zstd: whatever a damaged chunk leads to
            return True
    return not np.array_equal(values[0], values[1])


def _fault(key: str, reason: str, *, fix: str = REWRITE) -> Fault:
    return Fault(run="", tile=key, reason=reason, fix=fix, kind="metadata", key=key)
