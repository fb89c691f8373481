"""What lies beside a mosaic and stands in no panel: what was asked, what of it was seen, what ran, how it looks."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from jobs.areas import area_km2
from jobs.dashboard.over_time import OverTime, over_time
from jobs.ledger import FINISHED, RunFolder, reading_runs, with_state
from jobs.mapped import areas, levels_stand, pixels_of
from jobs.speaking import renews_of
from jobs.stac.provenance import clean, job_of
from mapper.errors import MapperError
from mapper.exports.portrait import write_portrait
from mapper.mosaic import Mosaic

PICTURE_PX = 1000
"""Longer side of the map in the picture."""

PICTURE_BYTES = 700_000
"""A picture is made smaller until it has no more: half as much again stands in the page."""

DRAWN_PX = 300_000_000
"""Pixels of a mosaic without coarser levels that are read for a picture: some seconds' worth."""

_QUALITIES = ((PICTURE_PX * 2, 85), (PICTURE_PX, 80), (PICTURE_PX, 55), (640, 50), (400, 40))
"""Longest side and quality of the JPEGs that are tried one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One sentence, and how much of the ground that was seen answers it."""

    name: str
    expression: str
    threshold: float | None
    share: float | None
    """Of the pixels seen, 0 to 1; None where none were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What the files of a run say, without signatures, passwords and names of machines in what was asked."""

    job: Mapping[str, Any] = field(default_factory=dict)
    bounds: tuple[float, float, float, float] | None = None
    """Of the area asked for: west, south, east, north in degrees."""

    asked_km2: float | None = None
    steps: tuple[str, ...] = ()
    """Time steps, as dates."""

    found: tuple[Found, ...] = ()
    unobserved: float | None = None
    """Share of the pixels of finished tiles that were looked at and not seen."""

    created: datetime | None = None
    ended: datetime | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    """Digest of the model as its workers loaded it."""

    tag: str = ""
    """Of the mosaic as this run left it, where its engine keeps history."""

    seam: float | None = None
    """Share of the pixels where windows meet on which they disagree, before they are blended."""

    verified_tiles: int | None = None
    """Tiles that were read back at its end."""

    over_time: OverTime | None = None
    picture: bytes = b""
    """PNG or JPEG; empty where there is none."""

    no_picture: str = ""
    """Why there is none."""

    unread: str = ""
    """Why nothing of this is known; empty where it is."""


def beside(mosaic: str, run: str) -> Beside:
    """Read the files of a run.

    Raises:
        MosaicError: one of them is missing or damaged.
        StoreError: the store does not answer.
    """
    with reading_runs(mosaic):
        return _read(mosaic, RunFolder(mosaic, run))


def _read(mosaic: str, folder: RunFolder) -> Beside:
    facts, job = folder.facts(), clean(job_of(folder))
    area = shapely.from_wkb(folder.area())
    found, unobserved = _found(folder, job)
    picture, no_picture = _picture(mosaic)
    summary = facts.get("summary")
    return Beside(
        job=job,
        bounds=None if area.is_empty else area.bounds,
        asked_km2=None if area.is_empty else area_km2(area),
        steps=tuple(sorted(step[:10] for step in _steps(folder, facts))),
        found=found,
        unobserved=unobserved,
        created=_moment(facts.get("created")),
        ended=_moment(facts.get("ended")),
        versions={str(name): str(value) for name, value in _mapping(facts.get("versions")).items()},
        fingerprint=str(facts.get("fingerprint", "")),
        tag=str(facts.get("tag") or ""),
        seam=facts.get("seam"),
        verified_tiles=_mapping(summary).get("verified_tiles"),
        over_time=over_time(folder.telemetry()),
        picture=picture,
        no_picture=no_picture,
    )


def _steps(folder: RunFolder, facts: Mapping[str, Any]) -> list[str]:
    """When the steps begin that the run maps: one that renews a mosaic knows all of its steps, and maps a few."""
    steps = [str(step) for step in facts.get("steps", ())]
    if not renews_of(facts):
        return steps
    return [steps[position] for position in np.unique(folder.places().step).tolist() if position < len(steps)]


def _found(folder: RunFolder, job: Mapping[str, Any]) -> tuple[tuple[Found, ...], float | None]:
    """Shares of the seen pixels by sentence, and of the asked ones that were not seen; in pixels of finished tiles."""
    asked = seen = 0
    present: Counter[str] = Counter()
    looked: Counter[str] = Counter()
    for batch in folder.last_words("state", "prompts", "present_px", "asked_px", "seen_px"):
        done = batch.filter(with_state(batch, FINISHED))
        asked += int(done.column("asked_px").to_numpy().sum())
        seen += int(done.column("seen_px").to_numpy().sum())
        for name, there, of in _by_prompt(done):
            present[name] += there
            looked[name] += of
    prompts = [prompt for prompt in job.get("prompts") or () if isinstance(prompt, Mapping)]
    found = tuple(
        Found(
            name=(name := str(prompt.get("name", ""))),
            expression=str(prompt.get("expression", "")),
            threshold=prompt.get("threshold"),
            share=present[name] / looked[name] if looked[name] else None,
        )
        for prompt in prompts
    )
    return found, (asked - seen) / asked if asked else None


def _by_prompt(done: pa.RecordBatch) -> Iterator[tuple[str, int, int]]:
    """Name, pixels present and pixels seen of each prompt in a batch, of the rows that say it of all their prompts."""
    each = pc.list_value_length(done.column("prompts"))
    told = done.filter(pc.equal(each, pc.list_value_length(done.column("present_px"))))
    names = told.column("prompts").flatten().dictionary_encode()
    code, size = names.indices.to_numpy(zero_copy_only=False), len(names.dictionary)
    times = pc.list_value_length(told.column("prompts")).to_numpy(zero_copy_only=False)
    seen = np.repeat(told.column("seen_px").to_numpy(), times)
    there = np.zeros((2, size), np.int64)
    np.add.at(there[0], code, told.column("present_px").flatten().to_numpy(zero_copy_only=False))
    np.add.at(there[1], code, seen)
    yield from zip(map(str, names.dictionary.to_pylist()), *there.tolist(), strict=True)


def _picture(url: str) -> tuple[bytes, str]:
    """The masks of the latest step as a picture that a page can hold, or why there is none."""
    try:
        mosaic = Mosaic.open(url, writable=False)
        built = levels_stand(url)
        pixels = sum(grid.box.shape[0] * grid.box.shape[1] for grid in mosaic.grids) * len(mosaic.prompts)
        if not built and pixels > DRAWN_PX:
            return b"", "The map is large and its coarser levels are still being built: there is no picture of it yet."
        asked = areas(mosaic)
        bounds = [grid.lattice.bounds(pixels_of(grid, asked[grid.name])) for grid in mosaic.grids if grid.name in asked]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "map.png"
            write_portrait(url, path, bounds=bounds, largest_px=PICTURE_PX, levels_built=built)
            return small_enough(path.read_bytes()), ""
    except MapperError as error:
        return b"", f"The map cannot be drawn: {error.what}."


def small_enough(png: bytes) -> bytes:
    """A PNG in ``PICTURE_BYTES`` at most: as it is, or as a JPEG."""
    from PIL import Image

    if len(png) <= PICTURE_BYTES:
        return png
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    held = png
    for side, quality in _QUALITIES:
        smaller, file = picture.copy(), io.BytesIO()
        smaller.thumbnail((side, side))
        smaller.save(file, "JPEG", quality=quality, optimize=True)
        held = file.getvalue()
        if len(held) <= PICTURE_BYTES:
            break
    return held


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None
