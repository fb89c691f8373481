"""What a mosaic's metadata says: arrays and their codecs, CF, the three Zarr conventions, and what made it.

CF is what odc-geo reads, the conventions are what rio-tiler reads, rioxarray takes either: both are written, on
arrays and on groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
import zarr
from pyproj import CRS
from zarr.codecs import ZstdCodec
from zarr.errors import ZarrUserWarning

from mapper.grid import Grid, Lattice, PixelBox
from mapper.imagery import NO_SOURCE
from mapper.masks import ABSENT, PRESENT, SCORE_ONE, UNMAPPED, UNOBSERVED
from mapper.prompts import Prompt

Reduction: TypeAlias = Literal["mode", "any"]

LAYOUT = 2
"""Version of the layout; a reader refuses a later one. 2 has coarser levels, which 1 had not."""

_CF = "CF-1.11"

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

    pyramid: Reduction = "mode"
    """How four pixels of a mask become one on the next coarser level, see ``mapper/pyramid.py``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One array of a level, beside its coordinates."""

    name: str
    dtype: str
    fill: int
    axes: tuple[Literal["prompt", "time"], ...]
    """Those before ``y`` and ``x``."""

    attributes: Mapping[str, Any]
    """What its values mean, in CF's words."""


LAYERS = (
    Layer(
        name="mask",
        dtype="uint8",
        fill=UNMAPPED,
        axes=("prompt", "time"),
        attributes={
            "flag_values": [ABSENT, PRESENT, UNOBSERVED, UNMAPPED],
            "flag_meanings": "absent present unobserved unmapped",
            "long_name": "whether the prompt is here",
        },
    ),
    Layer(
        name="score",
        dtype="uint8",
        fill=UNMAPPED,
        axes=("prompt", "time"),
        attributes={
            "long_name": f"{SCORE_ONE} times the probability that the prompt is here",
            "comment": f"{UNOBSERVED} unobserved, {UNMAPPED} unmapped; not scaled, because decoding would make it "
            "float64",
        },
    ),
    Layer(
        name="source",
        dtype="uint32",
        fill=int(NO_SOURCE),
        axes=("time",),
        attributes={"long_name": "number of the scene seen here"},
    ),
)
"""What a mosaic holds."""


def create_tree(root: zarr.Group, grid: Grid, spec: MosaicSpec) -> None:
    """Make the groups, arrays and coordinates of one grid and of the levels of its pyramid, empty."""
    if grid.name:
        root.create_group(grid.name, attributes=_pyramid_attributes(grid, spec.pyramid), overwrite=True)
    for level in grid.pyramid():
        create_level(root, level, spec, LAYERS)


def create_level(root: zarr.Group, grid: Grid, spec: MosaicSpec, layers: Sequence[Layer]) -> None:
    """Make the group of one level, with these layers and their coordinates, empty."""
    # A level is opened by itself, as a file of its own: what the root says of CF is not seen from there.
    group = root.create_group(grid.path, attributes={**_place_attributes(grid), "Conventions": _CF}, overwrite=True)
    chunk, shard = (grid.chunk_px, grid.chunk_px), (grid.shard_px, grid.shard_px)
    for layer in layers:
        axes = _lengths(layer, spec)
        ones = (1,) * len(axes)
        group.create_array(
            layer.name,
            shape=(*axes, *grid.shape),
            chunks=(*ones, *chunk),
            shards=(*ones, *shard),
            dtype=layer.dtype,
            fill_value=layer.fill,
            # Without a checksum a flipped byte decodes to wrong pixels half of the time, without an error.
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=(*layer.axes, "y", "x"),
            attributes={
                **_place_attributes(grid),
                "grid_mapping": "spatial_ref",
                "coordinates": "spatial_ref",
                **layer.attributes,
            },
            overwrite=True,
        )
    _create_coordinates(group, grid, spec)


def grow_level(root: zarr.Group, grid: Grid, spec: MosaicSpec, layers: Sequence[Layer]) -> None:
    """Make room in one level for more prompts and times, at the end of their axes."""
    group = root[grid.path]
    assert isinstance(group, zarr.Group)
    for layer in layers:
        _array_of(group, layer.name).resize((*_lengths(layer, spec), *grid.shape))
    for name, values in axis_values(spec).items():
        axis = _array_of(group, name)
        axis.resize(values.shape)
        axis[:] = values


def _lengths(layer: Layer, spec: MosaicSpec) -> tuple[int, ...]:
    lengths = {"prompt": len(spec.prompts), "time": len(spec.times)}
    return tuple(lengths[axis] for axis in layer.axes)


def _array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _create_coordinates(group: zarr.Group, grid: Grid, spec: MosaicSpec) -> None:
    crs = CRS.from_user_input(grid.lattice.crs)
    transform = grid.lattice.transform(grid.box)
    cf = {entry["axis"].lower(): dict(entry) for entry in crs.cs_to_cf() if entry.get("axis") in ("X", "Y")}
    lattice, box = grid.lattice, grid.box
    # From the CRS's zero and not from the corner: two areas give one pixel the same coordinate, to the last bit.
    axes = {
        "x": lattice.phase_x + (np.arange(box.left, box.right) + 0.5) * lattice.res_x,
        "y": lattice.phase_y - (np.arange(box.top, box.bottom) + 0.5) * lattice.res_y,
    }
    for name, centres in axes.items():
        _put(group, name, centres, (name,), cf.get(name, {}))
    with warnings.catch_warnings():
        # CF has no word for some parameters, as of a skewed grid. Its crs_wkt has all of them, and readers prefer that.
        warnings.filterwarnings("ignore", "(?s).*lost in conversion to CF", UserWarning)
        in_cf = crs.to_cf()
    spatial_ref = {
        **in_cf,
        "spatial_ref": crs.to_wkt(),
        "GeoTransform": " ".join(f"{value:.17g}" for value in transform.to_gdal()),
    }
    _put(group, "spatial_ref", np.array(0, np.int32), (), spatial_ref)
    attributes = {
        "prompt": {"long_name": "name of the prompt; its sentence is in the root's resmap attribute"},
        "time": {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian", "standard_name": "time",
                 "long_name": "beginning of the time step"},
    }  # fmt: skip
    for name, values in axis_values(spec).items():
        _put(group, name, values, (name,), attributes[name])


def axis_values(spec: MosaicSpec) -> dict[str, np.ndarray[Any, Any]]:
    """The coordinates that can grow: ``prompt`` and ``time``."""
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
    left, bottom, right, top = grid.lattice.bounds(grid.box)
    return {
        "zarr_conventions": [entry for entry in _CONVENTIONS if entry["name"] != "multiscales"],
        **_crs_attributes(grid.lattice.crs),
        "spatial:dimensions": ["y", "x"],
        "spatial:transform_type": "affine",
        "spatial:transform": list(grid.lattice.transform(grid.box))[:6],
        "spatial:shape": list(grid.shape),
        "spatial:bbox": [left, bottom, right, top],
        "spatial:registration": "pixel",
    }


@lru_cache(maxsize=128)
def _crs_attributes(crs: str) -> Mapping[str, str]:
    """Code and text of a CRS. Asked once: to look for the code of one that has none takes a tenth of a second."""
    known = CRS.from_user_input(crs)
    authority = known.to_authority()
    return {**({"proj:code": ":".join(authority)} if authority else {}), "proj:wkt2": known.to_wkt()}


def _pyramid_attributes(grid: Grid, reduction: Reduction) -> dict[str, Any]:
    layout: list[dict[str, Any]] = []
    finer: Grid | None = None
    for level in grid.pyramid():
        place = _place_attributes(level)
        entry = {"asset": str(level.level), **{key: place[key] for key in ("spatial:shape", "spatial:transform")}}
        if finer is not None:
            # In pixels of the finer level: where an odd number of them was halved, the coarser begins one before it.
            begin = level.box.doubled()
            shift = [float(begin.top - finer.box.top), float(begin.left - finer.box.left)]
            entry |= {
                "derived_from": str(finer.level),
                "transform": {"scale": [2.0, 2.0], "translation": shift},
                "resampling_method": reduction,
            }
        layout.append(entry)
        finer = level
    return {
        **_place_attributes(grid),
        "zarr_conventions": _CONVENTIONS,
        "multiscales": {"layout": layout, "resampling_method": reduction},
    }


def root_attributes(spec: MosaicSpec) -> dict[str, Any]:
    """What the root says; ``resmap`` in it is all that is needed to open the mosaic for writing."""
    single = len(spec.grids) == 1 and not spec.grids[0].name
    return {
        **(_pyramid_attributes(spec.grids[0], spec.pyramid) if single else {}),
        "Conventions": _CF,
        "title": "; ".join(prompt.expression for prompt in spec.prompts),
        "resmap": {
            "layout": LAYOUT,
            "grids": [grid_fields(grid) for grid in spec.grids],
            "prompts": [
                {"name": prompt.name, "expression": prompt.expression, "threshold": prompt.threshold}
                for prompt in spec.prompts
            ],
            "times": [time.astimezone(UTC).isoformat() for time in spec.times],
            "made_by": dict(spec.made_by),
            "pyramid": spec.pyramid,
        },
    }


def grid_fields(grid: Grid) -> dict[str, Any]:
    """A grid as the root's attributes hold it; ``grid_from`` reads it."""
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


def grid_from(fields: Mapping[str, Any]) -> Grid:
    """A grid as the root's attributes hold it."""
    (res_x, res_y), (phase_x, phase_y) = fields["res"], fields["phase"]
    lattice = Lattice(crs=fields["crs"], res_x=res_x, res_y=res_y, phase_x=phase_x, phase_y=phase_y)
    return Grid(
        lattice=lattice,
        box=PixelBox(*fields["box"]),
        shard_px=fields["shard_px"],
        chunk_px=fields["chunk_px"],
        name=fields["name"],
    )


def consolidate(root: zarr.Group, grids: Sequence[Grid], *, levels: int | None = None) -> None:
    """One document for all metadata, in the root, each tree and each level: written at creation and growth only.

    Whoever opens one of them by its address behind a web server sees nothing below it otherwise.

    An icechunk snapshot is such a document itself.

    Args:
        root: of the tree.
        grids: its grids.
        levels: how many levels of a pyramid are there; None for all.
    """
    if not root.store.supports_consolidated_metadata:
        return
    with warnings.catch_warnings():
        # zarr warns that v3 has no consolidated metadata in its core, and that .resmap is no Zarr node. Both are known.
        warnings.simplefilter("ignore", category=ZarrUserWarning)
        for grid in grids:
            for level in grid.pyramid()[:levels]:
                zarr.consolidate_metadata(root.store, path=level.path)
            if grid.name:
                zarr.consolidate_metadata(root.store, path=grid.name)
        zarr.consolidate_metadata(root.store)
