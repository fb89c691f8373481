"""What a plan asks of any fleet: windows, seconds of cores, bytes; measured by a pilot, or reckoned."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyproj import CRS

from jobs.amounts import Range
from jobs.estimate import Estimate, looks_likely
from jobs.pilot import Pilot
from jobs.plan import Plan
from jobs.spec import JobSpec

DECODE_S_A_BYTE = 4e-9
"""Of one core, a byte decoded: 11.4 ms for 3 MB of aerial imagery, 24.8 ms for 6 MB of a satellite (``read.json``)."""

WARP_S_A_PIXEL = 1 / 7e6
"""Of one core, a pixel of imagery that does not lie on the map's lattice: as ``cluster/readers.py`` has it."""

WORKER_S_A_PIXEL = 1 / 16e6
"""Of one core, a pixel that the model looked at, blended and encoded for one sentence: likewise."""

COMPRESSED = Range(low=0.3, likely=0.4, high=1.0)
"""Bytes over the network for a byte decoded; 0.34 and 0.39 in ``read.json``, 1 for what is not compressed."""

STORED = Range(low=0.05, likely=0.09, high=0.3)
"""Bytes put for a byte of the map; 0.09 in ``results/write.json``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The whole plan, as one GPU that did all of it would be asked for it."""

    tiles: int
    """Under imagery: the others cost nothing worth counting."""

    windows: Range
    """For the model."""

    decode_s: Range
    """Seconds of cores that fetch, decode and warp; they may be on other machines."""

    worker_s: Range
    """Seconds of cores that blend and encode; they are on the machine of the GPU."""

    read_bytes: Range
    """Over the network, from the imagery's store."""

    written_bytes: Range
    """Over the network, to the map."""

    requests: int
    measured: bool
    """By a pilot; else reckoned from constants."""


def demand_of(plan: Plan, spec: JobSpec, cost: Estimate, *, window_px: int, pilot: Pilot | None = None) -> Demand:
    """What a plan asks for."""
    tiles = cost.tiles - cost.holes
    if pilot is not None and pilot.whole_windows and pilot.whole_read_bytes and pilot.decode_s and pilot.worker_s:
        return Demand(
            tiles=tiles,
            windows=pilot.whole_windows,
            decode_s=pilot.decode_s,
            worker_s=pilot.worker_s,
            read_bytes=pilot.whole_read_bytes.by(COMPRESSED),
            written_bytes=pilot.whole_bytes or STORED.times(cost.written_bytes),
            requests=cost.requests,
            measured=True,
        )
    windows = Range(low=cost.windows_once, likely=looks_likely(cost), high=cost.windows)
    item = plan.items[0]
    pixel_bytes = len(item.bands) * (1 if spec.imagery.scale is None else 2)
    decoded = _decoded(cost, spec, once=float(cost.windows_once * window_px**2 * pixel_bytes))
    kept, warped = decoded.times(DECODE_S_A_BYTE), decoded.times(WARP_S_A_PIXEL / pixel_bytes)
    looked = windows.times(window_px**2 * len(spec.prompts) * WORKER_S_A_PIXEL)
    return Demand(
        tiles=tiles,
        windows=windows,
        decode_s=Range(low=kept.low, likely=warped.likely, high=warped.high) if _is_warped(plan) else kept,
        worker_s=looked,
        read_bytes=decoded.by(COMPRESSED),
        written_bytes=STORED.times(cost.written_bytes),
        requests=cost.requests,
        measured=False,
    )


def _decoded(cost: Estimate, spec: JobSpec, *, once: float) -> Range:
    """Bytes decoded: all items that a tile shows at most, one look at what the windows cover at least. Where reading
    stops at the first item that saw a pixel, something between them; nobody knows without a pilot."""
    most = float(cost.read_bytes)
    if spec.imagery.composite == "median":
        return Range(low=most, likely=most, high=most)
    least = min(once, most)
    return Range(low=least, likely=math.sqrt(least * most), high=most)


def _is_warped(plan: Plan) -> bool:
    """Whether any item lies on no lattice of the plan, or does not say where it lies."""
    placements = {band.asset.placement for item in plan.items for band in item.bands}
    lattices = [(CRS.from_user_input(grid.lattice.crs), grid.lattice) for grid in plan.grids]
    for placement in placements:
        if placement is None:
            return True
        crs = CRS.from_user_input(placement.crs)
        if not any(crs == own and lattice.offset_of(placement.transform) is not None for own, lattice in lattices):
            return True
    return False
