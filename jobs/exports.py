"""A mosaic → files of other people's formats: which files, what they are called, and none of them half written.

A path with a suffix of the format is a file: it takes one prompt, the latest time step and one zone unless told
which. Any other path is a folder, and takes a file for each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Literal, TypeAlias

from jobs.ledger import run_names
from jobs.mapped import areas, levels_stand, pixels_of
from mapper.errors import MosaicError, QuestionError
from mapper.exports.chosen import chosen_prompt, chosen_time, chosen_zone, file_stem
from mapper.exports.cog import refuse_taken, write_cog
from mapper.exports.cog_header import Layer
from mapper.mosaic import Mosaic

Format: TypeAlias = Literal["cog", "png", "vectors", "pmtiles"]

SUFFIXES: dict[Format, tuple[str, ...]] = {
    "cog": (".tif", ".tiff"),
    "png": (".png",),
    "vectors": (".parquet", ".fgb", ".gpkg", ".geojson"),
    "pmtiles": (".pmtiles",),
}
"""What a file of each format may end in; in a folder it ends in the first."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Is told the file, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What goes into one file."""

    path: Path
    prompt: str | None
    """None: all of them."""

    time: datetime
    zone: str | None
    """None: all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file that was written."""

    path: str
    bytes: int
    prompt: str | None
    time: datetime
    zone: str | None


def export_cog(
    mosaic_url: str,
    out: Path,
    *,
    prompt: str | None = None,
    time: str | None = None,
    zone: str | None = None,
    layer: Layer = "mask",
    force: bool = False,
    progress: Progress = lambda name, done, total: None,
) -> list[Written]:
    """Write Cloud-Optimised GeoTIFFs, cut to the area that was asked for.

    Raises:
        MosaicError: no mosaic there, or a file exists or cannot be written.
        QuestionError: no such prompt, time or zone; or several, and one file for them.
        StoreError: the mosaic could not be read.
    """
    mosaic = Mosaic.open(mosaic_url, writable=False)
    asked, runs, built = areas(mosaic), run_names(mosaic_url), levels_stand(mosaic_url)
    suffix = "" if layer == "mask" else f"-{layer}"

    def write(slice_: Slice) -> None:
        grid = chosen_zone(mosaic, slice_.zone)
        write_cog(
            mosaic_url,
            slice_.path,
            prompt=slice_.prompt,
            time=slice_.time,
            layer=layer,
            zone=slice_.zone,
            within=pixels_of(grid, asked[grid.name]) if grid.name in asked else None,
            tags={"RESMAP_RUN": runs[-1]} if runs else {},
            levels_built=built,
            force=force,
            progress=lambda done, total: progress(slice_.path.name, done, total),
        )

    wanted = slices(mosaic, out, "cog", prompt=prompt, time=time, zone=zone, by_zone=True, ending=suffix)
    return _written(wanted, write, force=force, progress=progress)


def export_png(
    mosaic_url: str,
    out: Path,
    *,
    prompt: str | None = None,
    time: str | None = None,
    largest_px: int = 1600,
    force: bool = False,
    progress: Progress = lambda name, done, total: None,
) -> list[Written]:
    """Draw time steps to PNGs: all prompts in one picture, or the one named.

    Raises:
        MosaicError, QuestionError, StoreError: as ``export_cog``.
    """
    mosaic = Mosaic.open(mosaic_url, writable=False)
    asked = areas(mosaic)
    bounds = [grid.lattice.bounds(pixels_of(grid, asked[grid.name])) for grid in mosaic.grids if grid.name in asked]
    built = levels_stand(mosaic_url)

    def write(slice_: Slice) -> None:
        from mapper.exports.portrait import write_portrait

        write_portrait(
            mosaic_url,
            slice_.path,
            prompts=None if slice_.prompt is None else [slice_.prompt],
            time=slice_.time,
            bounds=bounds,
            largest_px=largest_px,
            levels_built=built,
            force=force,
        )

    together = None if prompt is None else mosaic.prompts[chosen_prompt(mosaic, prompt)].name
    wanted = slices(mosaic, out, "png", prompt=together, time=time, by_prompt=prompt is not None)
    return _written(wanted, write, force=force, progress=progress)


def export_vectors(
    mosaic_url: str,
    out: Path,
    *,
    prompt: str | None = None,
    time: str | None = None,
    kind: str = "polygons",
    simplify_px: float | None = None,
    force: bool = False,
    progress: Progress = lambda name, done, total: None,
) -> list[Written]:
    """Write the objects of the masks, all zones in one file; a file takes all prompts where none is named.

    Raises:
        MosaicError, QuestionError, StoreError: as ``export_cog``.
    """

    def write(slice_: Slice) -> None:
        from mapper.exports.vectors import write_vectors

        write_vectors(
            mosaic_url,
            slice_.path,
            prompt=slice_.prompt,
            time=slice_.time,
            kind=kind,
            simplify_px=simplify_px,
            workers=os.cpu_count(),
            progress=lambda done, total: progress(slice_.path.name, done, total),
        )

    mosaic = Mosaic.open(mosaic_url, writable=False)
    named = prompt is not None or not is_file(out, "vectors")
    wanted = slices(mosaic, out, "vectors", prompt=prompt, time=time, by_prompt=named)
    return _written(wanted, write, force=force, progress=progress)


def export_pmtiles(
    mosaic_url: str,
    out: Path,
    *,
    prompt: str | None = None,
    time: str | None = None,
    force: bool = False,
    progress: Progress = lambda name, done, total: None,
) -> list[Written]:
    """Write web maps, each in one file, all zones together.

    Raises:
        MosaicError, QuestionError, StoreError: as ``export_cog``.
    """

    def write(slice_: Slice) -> None:
        from jobs.tile_archive import write_pmtiles

        write_pmtiles(mosaic_url, slice_.path, prompt=slice_.prompt, time=slice_.time)

    mosaic = Mosaic.open(mosaic_url, writable=False)
    wanted = slices(mosaic, out, "pmtiles", prompt=prompt, time=time)
    return _written(wanted, write, force=force, progress=progress)


def slices(
    mosaic: Mosaic,
    out: Path,
    kind: Format,
    *,
    prompt: str | None = None,
    time: str | None = None,
    zone: str | None = None,
    by_prompt: bool = True,
    by_zone: bool = False,
    ending: str = "",
) -> list[Slice]:
    """The files to write at a path, and what goes into each.

    Args:
        mosaic: to be exported.
        out: a file or a folder, see above.
        kind: the format.
        prompt: by name; in a folder all of them where left out.
        time: when the step begins; in a folder all of them where left out.
        zone: which; in a folder all of them where left out.
        by_prompt: whether a file holds one prompt, not all.
        by_zone: whether a file holds one zone, not all.
        ending: put between the name of a file in a folder and its suffix.

    Raises:
        QuestionError: no such prompt, time or zone; several, and one file; or a file of another format.
    """
    one = is_file(out, kind)
    times = tuple(sorted(mosaic.times)) if time is None and not one else (mosaic.times[chosen_time(mosaic, time)],)
    prompts: list[str | None] = [None]
    if by_prompt:
        every = [named.name for named in mosaic.prompts]
        prompts = [*every] if prompt is None and not one else [every[chosen_prompt(mosaic, prompt)]]
    zones: list[str | None] = [None]
    if by_zone:
        zones = [grid.name for grid in mosaic.grids] if zone is None and not one else [chosen_zone(mosaic, zone).name]
    return [
        Slice(
            path=out
            if one
            else out / f"{file_stem(prompt=named, time=step, zone=of or '')}{ending}{SUFFIXES[kind][0]}",
            prompt=named,
            time=step,
            zone=of,
        )
        for named, step, of in product(prompts, times, zones)
    ]


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there yet.

    Raises:
        MosaicError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MosaicError(
            f"nothing can be written there: {error.strerror}", fix="choose another --out", out=folder
        ) from error


def is_file(out: Path, kind: Format) -> bool:
    """Whether a path means one file of this format, and not a folder.

    Raises:
        QuestionError: it ends as a file of another format does.
    """
    suffix = out.suffix.lower()
    if out.is_dir() or not suffix:
        return False
    if suffix not in SUFFIXES[kind]:
        raise QuestionError(
            f"a file that ends in {suffix} is not written here",
            fix=f"let it end in {' or '.join(SUFFIXES[kind])}, or make a folder of this name first",
            out=out,
        )
    return True


def _written(wanted: list[Slice], write: Callable[[Slice], None], *, force: bool, progress: Progress) -> list[Written]:
    """Write the files one by one; none is begun where one may not be written."""
    for slice_ in wanted:
        refuse_taken(slice_.path, force=force)
        make_folder(slice_.path.parent)
    return list(_each(wanted, write, progress))


def _each(wanted: list[Slice], write: Callable[[Slice], None], progress: Progress) -> Iterator[Written]:
    for slice_ in wanted:
        progress(slice_.path.name, 0, 1)
        write(slice_)
        progress(slice_.path.name, 1, 1)
        yield Written(
            path=str(slice_.path),
            bytes=slice_.path.stat().st_size,
            prompt=slice_.prompt,
            time=slice_.time,
            zone=slice_.zone or None,
        )
