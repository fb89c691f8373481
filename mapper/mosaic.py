"""The output: a Zarr v3 tree that says what every value means and where it lies.

    <mosaic>/              conventions, CF, and what made it
      0/ or utm33n/0/      mask, score (prompt, time, y, x) · source (time, y, x) · prompt, time, y, x, spatial_ref

All metadata is written first; then any worker writes any shard, in any order. A shard is encoded once and put
once, by one writer: two processes inside one shard lose each other's chunks without an error.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from pyproj import CRS
from zarr.codecs import ZstdCodec
from zarr.errors import GroupNotFoundError, ZarrUserWarning

from mapper.errors import CredentialsError, MosaicError, StoreError
from mapper.grid import Grid, Lattice, PixelBox, Tile
from mapper.imagery import NO_SOURCE, Source
from mapper.masks import ABSENT, PRESENT, SCORE_ONE, UNMAPPED, UNOBSERVED, Stored
from mapper.prompts import Prompt
from mapper.storage import open_store

if TYPE_CHECKING:
    import xarray as xr

LAYOUT = 1
"""Version of the layout; a reader refuses a later one."""

_CONVENTIONS = [
    {
        "name": name,
        "uuid": uuid,
        "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
    }
    for name, uuid in (
        ("multiscales", "d35379db-88df-4056-af3a-620245f8e347"),
        ("proj", "f17cb550-5864-4468-aeb7-f3180cfb622f"),
        ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4"),
    )
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicSpec:
    """What a mosaic is, before a pixel of it exists."""

    grids: tuple[Grid, ...]
    prompts: tuple[Prompt, ...]
    times: tuple[datetime, ...]
    """Beginning of each time step, aware, in order."""

    made_by: Mapping[str, object]
    """What else its values depend on (model, weights, windows, imagery): JSON. A job with another cannot add to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileLayers:
    """All that one tile writes."""

    mask: Stored
    """uint8 ``(prompt, y, x)`` over the core, prompts as in ``prompts``."""

    score: Stored
    source: Source | None
    """None where an earlier run wrote the same."""

    prompts: tuple[int, ...]
    """Positions along the mosaic's prompt axis."""


class Mosaic:
    """A mosaic open for writing whole tiles and reading them back. Threads may share one."""

    def __init__(self, url: str, root: zarr.Group) -> None:
        self.url = url
        self._root = root
        self._arrays: dict[tuple[str, str], zarr.Array[Any]] = {}
        facts = root.attrs.get("resmap")
        if not isinstance(facts, dict) or "layout" not in facts:
            raise MosaicError("this Zarr group is not a resmap mosaic", mosaic=url)
        if int(facts["layout"]) > LAYOUT:
            raise MosaicError(
                f"this mosaic has layout {facts['layout']}, and this resmap knows {LAYOUT}",
                fix="upgrade resmap",
                mosaic=url,
            )
        self._facts: dict[str, Any] = facts

    @classmethod
    def create(cls, url: str, spec: MosaicSpec) -> Mosaic:
        """Write all metadata of a mosaic that does not exist yet.

        The root's attributes are written last: a folder without them is half made and is made again.
        """
        try:
            store = open_store(url, mode="w")
            if _half_made(url):
                root = zarr.open_group(store, mode="r+", use_consolidated=False)
            else:
                root = zarr.create_group(store, zarr_format=3, overwrite=False)
        except Exception as error:
            raise store_failure(error, url, "made") from error
        try:
            for grid in spec.grids:
                _create_tree(root, grid, spec)
            root.attrs.put(_root_attributes(spec))
            _consolidate(root, spec.grids)
        except Exception as error:
            raise store_failure(error, url, "made") from error
        return cls.open(url)

    @classmethod
    def open(cls, url: str, *, writable: bool = True) -> Mosaic:
        """A mosaic that exists.

        Raises:
            MosaicError: there is none, it is half made, of a later layout, or something else.
        """
        try:
            root = zarr.open_group(open_store(url, mode="r+" if writable else "r"), mode="r+" if writable else "r")
        except (GroupNotFoundError, FileNotFoundError) as error:
            raise MosaicError(
                "there is no mosaic here", fix="check the path, or run a job that writes it", mosaic=url
            ) from error
        except Exception as error:
            raise store_failure(error, url, "opened") from error
        return cls(url, root)

    @classmethod
    def exists(cls, url: str) -> bool:
        """Whether a whole mosaic is there."""
        try:
            cls.open(url, writable=False)
        except MosaicError as error:
            if "not a resmap mosaic" in error.what and _half_made(url):
                return False
            if "no mosaic here" in error.what:
                return False
            raise
        return True

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts along its axis."""
        return tuple(Prompt(**fields) for fields in self._facts["prompts"])

    @property
    def times(self) -> tuple[datetime, ...]:
        """The beginnings of its time steps."""
        return tuple(datetime.fromisoformat(time) for time in self._facts["times"])

    @property
    def made_by(self) -> dict[str, Any]:
        """As in ``MosaicSpec``."""
        return dict(self._facts["made_by"])

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Its grids, in order."""
        return tuple(_grid_from(fields) for fields in self._facts["grids"])

    def add_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Make room for more prompts at the end of the axis. Nothing written is touched."""
        self._grow(prompts=(*self.prompts, *prompts), times=self.times)

    def add_times(self, times: Sequence[datetime]) -> None:
        """Make room for more time steps at the end of the axis. Nothing written is touched."""
        self._grow(prompts=self.prompts, times=(*self.times, *times))

    def write(self, grid: Grid, tile: Tile, time: int, layers: TileLayers) -> int:
        """Write one tile: each shard put once, whole. Writing it again leaves the same bytes.

        Returns:
            Bytes handed to the encoder.
        """
        rows, columns = tile.core.within(grid.box)
        try:
            for position, prompt in enumerate(layers.prompts):
                self._array(grid.name, "mask")[prompt, time, rows, columns] = layers.mask[position]
                self._array(grid.name, "score")[prompt, time, rows, columns] = layers.score[position]
            if layers.source is not None:
                self._array(grid.name, "source")[time, rows, columns] = layers.source
        except Exception as error:
            raise store_failure(error, self.url, "written", tile=tile.name) from error
        return layers.mask.nbytes + layers.score.nbytes + (0 if layers.source is None else layers.source.nbytes)

    def read(self, grid: Grid, tile: Tile, time: int, prompt: int) -> tuple[Stored, Stored, Source]:
        """Mask and score ``(y, x)`` of one tile and prompt, and the source, as stored.

        Raises:
            StoreError: a shard is truncated or fails its checksum. One that is missing or empty reads as unmapped:
                shards that are gaps all over are never stored, so only the ledger's checksums tell.
        """
        rows, columns = tile.core.within(grid.box)
        try:
            mask = np.asarray(self._array(grid.name, "mask")[prompt, time, rows, columns], np.uint8)
            score = np.asarray(self._array(grid.name, "score")[prompt, time, rows, columns], np.uint8)
            source = np.asarray(self._array(grid.name, "source")[time, rows, columns], np.uint32)
        except Exception as error:
            raise store_failure(error, self.url, "read", tile=tile.name) from error
        return mask, score, source

    def _array(self, tree: str, name: str) -> zarr.Array[Any]:
        key = (tree, name)
        if key not in self._arrays:
            array = self._root[f"{tree}/0/{name}".lstrip("/")]
            assert isinstance(array, zarr.Array)
            self._arrays[key] = array
        return self._arrays[key]

    def _grow(self, *, prompts: tuple[Prompt, ...], times: tuple[datetime, ...]) -> None:
        spec = MosaicSpec(grids=self.grids, prompts=prompts, times=times, made_by=self.made_by)
        self._arrays.clear()
        root = zarr.open_group(self._root.store, mode="r+", use_consolidated=False)
        for grid in spec.grids:
            group = root[f"{grid.name}/0".lstrip("/")]
            assert isinstance(group, zarr.Group)
            for name in ("mask", "score"):
                _array_of(group, name).resize((len(prompts), len(times), *grid.shape))
            _array_of(group, "source").resize((len(times), *grid.shape))
            for name, values in _axis_values(spec).items():
                axis = _array_of(group, name)  # asked for again it would have the size in the consolidated metadata
                axis.resize(values.shape)
                axis[:] = values
        root.attrs.put(_root_attributes(spec))
        _consolidate(root, spec.grids)
        self.__init__(self.url, zarr.open_group(self._root.store, mode="r+"))  # type: ignore[misc]  # opened anew


def open_mosaic(url: str, *, tree: str | None = None) -> xr.Dataset:
    """The mosaic as a lazy Dataset with chunks of one shard.

    Beyond what is stored, ``observed`` is a bool view of ``mask`` (False in both kinds of gap), and ``score`` is
    float32, 0 to 1, NaN in gaps.

    Args:
        url: path or URL of the mosaic.
        tree: which zone, such as ``utm33n``, where it has several.

    Raises:
        MosaicError: no mosaic there, or several zones and none chosen.
    """
    import rioxarray  # noqa: F401  # gives the Dataset its .rio
    import xarray as xr

    mosaic = Mosaic.open(url, writable=False)
    names = [grid.name for grid in mosaic.grids]
    if tree is None and len(names) > 1:
        raise MosaicError(
            f"this mosaic has {len(names)} zones",
            fix=f"choose one with tree=: {', '.join(names)}",
            mosaic=url,
        )
    name = names[0] if tree is None else tree
    if name not in names:
        raise MosaicError(f"this mosaic has no zone {name}", fix=f"it has {', '.join(names)}", mosaic=url)
    grid = mosaic.grids[names.index(name)]
    chunks = {"prompt": 1, "time": 1, "y": grid.shard_px, "x": grid.shard_px}
    store = open_store(url, mode="r")
    stored = xr.open_zarr(store, group=f"{name}/0".lstrip("/"), chunks=chunks, mask_and_scale=False)
    observed = stored["mask"] < UNOBSERVED
    score = (stored["score"].astype("float32") / SCORE_ONE).where(stored["score"] <= SCORE_ONE)
    score.attrs = {
        "long_name": "probability that the prompt is here",
        "units": "1",
        "grid_mapping": "spatial_ref",
    }
    opened: xr.Dataset = stored.assign(score=score, observed=observed)
    opened.attrs |= {"mosaic": url, "prompts": {prompt.name: prompt.expression for prompt in mosaic.prompts}}
    return opened


def checksum(mask: Stored, score: Stored) -> int:
    """CRC-32 of one tile and prompt as stored, for the ledger: what was meant to be written."""
    return zlib.crc32(np.ascontiguousarray(score).data, zlib.crc32(np.ascontiguousarray(mask).data))


def source_checksum(source: Source) -> int:
    """CRC-32 of one tile's source layer as stored."""
    return zlib.crc32(np.ascontiguousarray(source, "<u4").data)


def store_failure(error: Exception, url: str, act: str, **where: object) -> Exception:
    """What a failure of the store means to whoever catches it."""
    if isinstance(error, MosaicError | StoreError | CredentialsError):
        return error
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, FileExistsError) or "ContainsGroup" in said:
        return MosaicError("something else is already there", fix="choose another output.mosaic", mosaic=url, **where)
    if (
        type(error).__name__ in ("NoCredentialsError", "ClientError")
        or "AccessDenied" in said
        or "InvalidAccessKeyId" in said
    ):
        return CredentialsError(
            f"the store refuses us: {said}", fix="check the credentials of this store", mosaic=url, **where
        )
    if isinstance(error, PermissionError | NotADirectoryError) or "Read-only file system" in said:
        return MosaicError(
            f"the mosaic cannot be {act} here: {said}",
            fix="choose another output.mosaic, or its rights",
            mosaic=url,
            **where,
        )
    return StoreError(
        f"the mosaic could not be {act}: {said}",
        fix="run the job again: finished tiles are kept",
        mosaic=url,
        **where,
    )


def _create_tree(root: zarr.Group, grid: Grid, spec: MosaicSpec) -> None:
    if grid.name:
        root.create_group(grid.name, attributes=_pyramid_attributes(grid), overwrite=True)
    group = root.create_group(f"{grid.name}/0".lstrip("/"), attributes=_place_attributes(grid), overwrite=True)
    axes = (len(spec.prompts), len(spec.times))
    chunk, shard = (grid.chunk_px, grid.chunk_px), (grid.shard_px, grid.shard_px)
    flags: dict[str, Any] = {
        "flag_values": [ABSENT, PRESENT, UNOBSERVED, UNMAPPED],
        "flag_meanings": "absent present unobserved unmapped",
        "long_name": "whether the prompt is here",
    }
    meaning: dict[str, Any] = {
        "long_name": f"{SCORE_ONE} times the probability that the prompt is here",
        "comment": f"{UNOBSERVED} unobserved, {UNMAPPED} unmapped; not scaled, because decoding would make it float64",
    }
    origin: dict[str, Any] = {"long_name": "row in the run's item table of the scene seen here"}
    for name, shape, fill, dtype, extra in (
        ("mask", axes, UNMAPPED, "uint8", flags),
        ("score", axes, UNMAPPED, "uint8", meaning),
        ("source", axes[1:], int(NO_SOURCE), "uint32", origin),
    ):
        ones = (1,) * len(shape)
        group.create_array(
            name,
            shape=(*shape, *grid.shape),
            chunks=(*ones, *chunk),
            shards=(*ones, *shard),
            dtype=dtype,
            fill_value=fill,
            # Without a checksum a flipped byte decodes to wrong pixels half of the time, without an error.
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=("prompt", "time", "y", "x")[-2 - len(shape) :],
            attributes={
                **_place_attributes(grid),
                "grid_mapping": "spatial_ref",
                "coordinates": "spatial_ref",
                **extra,
            },
            overwrite=True,
        )
    _create_coordinates(group, grid, spec)


def _create_coordinates(group: zarr.Group, grid: Grid, spec: MosaicSpec) -> None:
    crs = CRS.from_user_input(grid.lattice.crs)
    transform = grid.lattice.transform(grid.box)
    cf = {entry["axis"].lower(): dict(entry) for entry in crs.cs_to_cf() if entry.get("axis") in ("X", "Y")}
    rows, columns = grid.shape
    axes = {
        "x": transform.c + (np.arange(columns) + 0.5) * transform.a,
        "y": transform.f + (np.arange(rows) + 0.5) * transform.e,
    }
    for name, centres in axes.items():
        _put(group, name, centres, (name,), cf.get(name, {}))
    spatial_ref = {
        **crs.to_cf(),
        "spatial_ref": crs.to_wkt(),
        "GeoTransform": " ".join(f"{value:.17g}" for value in transform.to_gdal()),
    }
    _put(group, "spatial_ref", np.array(0, np.int32), (), spatial_ref)
    attributes = {
        "prompt": {"long_name": "name of the prompt; its sentence is in the root's resmap attribute"},
        "time": {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian", "standard_name": "time",
                 "long_name": "beginning of the time step"},
    }  # fmt: skip
    for name, values in _axis_values(spec).items():
        _put(group, name, values, (name,), attributes[name])


def _axis_values(spec: MosaicSpec) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "prompt": np.array([prompt.name for prompt in spec.prompts], dtype=object),
        "time": np.array([round(time.timestamp()) for time in spec.times], np.int64),
    }


def _put(
    group: zarr.Group,
    name: str,
    values: np.ndarray[Any, Any],
    dimensions: tuple[str, ...],
    attributes: Mapping[str, Any],
) -> None:
    dtype: Any = "string" if values.dtype == object else values.dtype
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=dtype,
        compressors=ZstdCodec(level=1, checksum=True),
        dimension_names=dimensions,
        attributes=dict(attributes),
        overwrite=True,
    )
    array[...] = values


def _place_attributes(grid: Grid) -> dict[str, Any]:
    """Where an array of this grid lies, in the Zarr conventions; readers look on the array and on its group."""
    crs = CRS.from_user_input(grid.lattice.crs)
    authority = crs.to_authority()
    left, bottom, right, top = grid.lattice.bounds(grid.box)
    return {
        "zarr_conventions": [entry for entry in _CONVENTIONS if entry["name"] != "multiscales"],
        **({"proj:code": ":".join(authority)} if authority else {}),
        "proj:wkt2": crs.to_wkt(),
        "spatial:dimensions": ["y", "x"],
        "spatial:transform_type": "affine",
        "spatial:transform": list(grid.lattice.transform(grid.box))[:6],
        "spatial:shape": list(grid.shape),
        "spatial:bbox": [left, bottom, right, top],
        "spatial:registration": "pixel",
    }


def _pyramid_attributes(grid: Grid) -> dict[str, Any]:
    place = _place_attributes(grid)
    level = {"asset": "0", **{key: place[key] for key in ("spatial:shape", "spatial:transform")}}
    return {
        **place,
        "zarr_conventions": _CONVENTIONS,
        "multiscales": {"layout": [level], "resampling_method": "mode"},
    }


def _root_attributes(spec: MosaicSpec) -> dict[str, Any]:
    single = len(spec.grids) == 1 and not spec.grids[0].name
    return {
        **(_pyramid_attributes(spec.grids[0]) if single else {}),
        "Conventions": "CF-1.11",
        "title": "; ".join(prompt.expression for prompt in spec.prompts),
        "resmap": {
            "layout": LAYOUT,
            "grids": [_grid_fields(grid) for grid in spec.grids],
            "prompts": [
                {"name": prompt.name, "expression": prompt.expression, "threshold": prompt.threshold}
                for prompt in spec.prompts
            ],
            "times": [time.astimezone(UTC).isoformat() for time in spec.times],
            "made_by": dict(spec.made_by),
        },
    }


def _grid_fields(grid: Grid) -> dict[str, Any]:
    lattice, box = grid.lattice, grid.box
    return {
        "name": grid.name,
        "crs": lattice.crs,
        "res": [lattice.res_x, lattice.res_y],
        "phase": [lattice.phase_x, lattice.phase_y],
        "box": [box.top, box.left, box.bottom, box.right],
        "shard_px": grid.shard_px,
        "chunk_px": grid.chunk_px,
    }


def _grid_from(fields: Mapping[str, Any]) -> Grid:
    (res_x, res_y), (phase_x, phase_y) = fields["res"], fields["phase"]
    lattice = Lattice(crs=fields["crs"], res_x=res_x, res_y=res_y, phase_x=phase_x, phase_y=phase_y)
    return Grid(
        lattice=lattice,
        box=PixelBox(*fields["box"]),
        shard_px=fields["shard_px"],
        chunk_px=fields["chunk_px"],
        name=fields["name"],
    )


def _consolidate(root: zarr.Group, grids: Sequence[Grid]) -> None:
    """One document for all metadata, in the root and in each tree: written at creation and growth only."""
    with warnings.catch_warnings():
        # zarr warns that v3 has no consolidated metadata in its core, and that .resmap is no Zarr node. Both are known.
        warnings.simplefilter("ignore", category=ZarrUserWarning)
        for grid in grids:
            zarr.consolidate_metadata(root.store, path=f"{grid.name}/0".lstrip("/"))
        zarr.consolidate_metadata(root.store)


def _array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _half_made(url: str) -> bool:
    """Whether the group there is what a killed ``create`` leaves: no attributes, and in it only trees of a mosaic."""
    try:
        root = zarr.open_group(open_store(url, mode="r"), mode="r")
        members = [member for _, member in root.members()]
    except Exception:  # whatever it is, it is not ours to remake
        return False
    return not dict(root.attrs) and all("spatial:registration" in member.attrs for member in members)
