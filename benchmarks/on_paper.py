"""A continent on paper: what it takes, from measured unit costs and assumptions that are named.

python -m benchmarks.on_paper [--results FOLDER] [--page FILE]

Prints the tables of ``docs/continent.md`` and writes them there. Prices and assumptions are the constants below: change
them and run it again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import RESULTS
from benchmarks.unit_costs import Reading, Units, read_units

PAGE = Path(__file__).parents[1] / "docs/continent.md"
UNKNOWN = "not measured yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """In US dollars. Assumptions, of the size that large clouds ask; no offer of anybody."""

    gpu_hour: float = 2.0
    core_hour: float = 0.04
    get_million: float = 0.40
    put_million: float = 5.0
    stored_tb_month: float = 23.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Land:
    """What is mapped, and how it is seen."""

    name: str
    km2: float
    resolution_m: float
    looks: float
    """Scenes that are read for a pixel until it has been seen: an assumption."""

    scene: str
    """The kind of scene in ``read.json`` that is most like it."""

    bands: int
    """That must be read, together with what lies between them in a file."""

    files: int
    """That they lie in."""

    band_bytes: int

    @property
    def mpx(self) -> float:
        """Million pixels of the map."""
        return self.km2 / self.resolution_m**2


LANDS = (
    Land(name="Africa, Sentinel-2, 10 m", km2=30.4e6, resolution_m=10, looks=3, scene="satellite, deflate",
         bands=4, files=4, band_bytes=2),
    Land(name="CONUS, NAIP, 0.6 m", km2=8.1e6, resolution_m=0.6, looks=1, scene="aerial, deflate",
         bands=4, files=1, band_bytes=1),
    Land(name="Kenya, Sentinel-2, 10 m", km2=0.58e6, resolution_m=10, looks=3, scene="satellite, deflate",
         bands=4, files=4, band_bytes=2),
)  # fmt: skip
"""Sentinel-2: three bands that a model looks at and one that tells cloud, a file each. NAIP: four bands in one file."""

MEASURED_BANDS = 3
"""Of the scenes that reading was measured with; bytes and CPU are taken to grow with the bands."""

SHARD_PX, OVERLAP_PX, PROMPTS = 4096, 128, 1
REUSED = 1.15
"""Windows looked at, in times of the different ones: what the product promises of neighbouring tiles."""

LEVELS = 4 / 3
"""A map with its coarser levels, in times of the finest: 1 + 1/4 + 1/16 …"""

BLOCK_PX = 512
GPU_RATES = (10, 50, 200)
"""Windows a second of one GPU. Assumptions: no GPU was measured."""

RATE = 50
"""Of these, the one that the tables of a GPU's needs and of money are made for."""

CORES_A_GPU, GPUS_A_NODE, NODE_GBIT = 16, 8, 100
"""Of a node as clouds rent them; an assumption."""

PRICES = Prices()
REFERENCE = "remotesam"
"""The model whose windows the tables are made for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one land asks for with windows of one size."""

    land: Land
    window_px: int

    @property
    def tiles(self) -> float:
        """Whole shards; those along the outline are left out of account."""
        return self.land.mpx * 1e6 / SHARD_PX**2

    @property
    def windows(self) -> float:
        """Looked at: one a stride, and what is not shared."""
        return self.land.mpx * 1e6 / (self.window_px - OVERLAP_PX) ** 2 * REUSED

    @property
    def read_mpx(self) -> float:
        """Million pixels of scenes: the frame around the windows of each shard, once a look."""
        stride = self.window_px - OVERLAP_PX
        # Shards begin at every multiple of this, seen from the windows: over those, so many windows touch one a side.
        step = math.gcd(SHARD_PX, stride)
        a_side = (SHARD_PX // step + math.ceil(self.window_px / step) - 1) * step / stride
        frame_px = (a_side - 1) * stride + self.window_px
        return self.land.mpx * (frame_px / SHARD_PX) ** 2 * self.land.looks

    @property
    def most_requests(self) -> float:
        """One a block and file: what a reader that joins none would ask for."""
        return self.read_mpx * 1e6 / BLOCK_PX**2 * self.land.files

    @property
    def written_mpx(self) -> float:
        """Million pixels of mask, score and source, with the coarser levels."""
        return self.land.mpx * LEVELS * PROMPTS

    @property
    def objects(self) -> float:
        """Put: mask and score of each sentence and the source, a shard each."""
        return self.tiles * (2 * PROMPTS + 1) * LEVELS

    def gpu_hours(self, rate: float) -> float:
        """At so many windows a second."""
        return self.windows / rate / 3600


def main() -> None:
    """Print the tables and put them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder with the measured figures")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write them into")
    asked = parser.parse_args()
    tables = tables_of(read_units(asked.results))
    for name, lines in tables.items():
        print(f"\n{name}\n", *lines, sep="\n")
    asked.page.write_text(with_tables(asked.page.read_text(encoding="utf-8"), tables), encoding="utf-8")


def with_tables(page: str, tables: dict[str, list[str]]) -> str:
    """A page with each ``<!-- table NAME -->`` block as the figures say now."""
    for name, lines in tables.items():
        before, begin, rest = page.partition(f"<!-- table {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        page = "".join([before, begin, *(f"{line}\n" for line in lines), end, after])
    return page


def tables_of(units: Units) -> dict[str, list[str]]:
    """Name → the lines of each table."""
    px = next((model.window_px for model in units.models if model.name == REFERENCE), 896)
    works = [Work(land=land, window_px=px) for land in LANDS]
    return {
        "units": _units(units),
        "work": _work(works, units),
        "gpu": _gpu_hours(units),
        "needs": _needs(works, units),
        "money": _money(works, units),
    }


def _units(units: Units) -> list[str]:
    rows = [["reading: CPU, requests and bytes of a million pixels", UNKNOWN, "read"]] if not units.reading else []
    for scene, one in units.reading.items():
        told = f"{1000 * one.cpu_s:.1f} ms, {one.requests:.1f}, {one.mb:.2f} MB"
        rows.append([f"reading, {scene}: CPU, requests and bytes of a million pixels", told, "read"])
    rows += [
        ["writing a million pixels: CPU", _told(units.write_cpu_s, "{:.1f} ms", 1000), "write"],
        ["writing a million pixels: compressed", _told(units.stored_mb, "{:.2f} MB"), "write"],
        ["the driver: CPU a tile", _told(units.driver_cpu_s, "{:.2f} ms", 1000), "scale"],
        ["the ledger: a tile", _told(units.ledger_bytes, "{:.0f} bytes"), "resume"],
        ["the plan: a tile on disk", _told(units.plan_bytes, "{:.1f} bytes"), "resume"],
        ["planning a tile, searching aside", _told(units.plan_s, "{:.0f} µs", 1e6), "resume"],
        ["taking up a run again, a finished tile", _told(units.resume_s, "{:.1f} µs", 1e6), "resume"],
        ["of the model's own speed, what a run keeps", _told(units.gpu_busy, "{:.1f} %", 100), "map_efficiency"],
    ]
    return _table(["unit", "measured", "in results/"], [[a, b, f"`{c}.json`"] for a, b, c in rows])


def _work(works: Sequence[Work], units: Units) -> list[str]:
    def each(told: Callable[[Work], str]) -> list[str]:
        return [told(work) for work in works]

    def read(told: Callable[[Reading, Work], str]) -> list[str]:
        return [UNKNOWN if (one := _reading(work, units)) is None else told(one, work) for work in works]

    return _across(works, [
        ("pixels of the map", each(lambda w: _short(w.land.mpx * 1e6))),
        ("tiles", each(lambda w: _short(w.tiles))),
        ("windows", each(lambda w: _short(w.windows))),
        ("pixels of scenes read", each(lambda w: _short(w.read_mpx * 1e6))),
        ("bytes of them, decoded", each(lambda w: _bytes(w.read_mpx * 1e6 * w.land.bands * w.land.band_bytes))),
        ("bytes over the network", read(lambda r, w: _bytes(w.read_mpx * r.mb * 1e6))),
        ("requests, a block each", each(lambda w: _short(w.most_requests))),
        ("requests, as our reader joins them", read(lambda r, w: _short(w.read_mpx * r.requests))),
        ("CPU of reading, hours", read(lambda r, w: _short(w.read_mpx * r.cpu_s / 3600))),
        ("bytes of the map, before compression",
         each(lambda w: _bytes(w.land.mpx * 1e6 * LEVELS * (2 * PROMPTS + 4)))),
        ("bytes of the map, compressed", each(lambda w: _of(units.stored_mb, w.written_mpx * 1e6, _bytes))),
        ("objects put", each(lambda w: _short(w.objects))),
        ("CPU of writing, hours", each(lambda w: _of(units.write_cpu_s, w.written_mpx / 3600, _short))),
        ("CPU of the driver, hours", each(lambda w: _of(units.driver_cpu_s, w.tiles / 3600, _short))),
        ("planning, minutes", each(lambda w: _of(units.plan_s, w.tiles / 60, _short))),
        ("taking it up again at its end, seconds", each(lambda w: _of(units.resume_s, w.tiles, _short))),
        ("ledger", each(lambda w: _of(units.ledger_bytes, w.tiles, _bytes))),
        ("`tiles.parquet`", each(lambda w: _of(units.plan_bytes, w.tiles, _bytes))),
    ])  # fmt: skip


def _gpu_hours(units: Units) -> list[str]:
    heads = ["model", "land", "windows", "one core of a CPU, measured, hours",
             *(f"GPU at {rate}/s, hours" for rate in GPU_RATES)]  # fmt: skip
    rows = []
    for model in units.models:
        for land in LANDS:
            work = Work(land=land, window_px=model.window_px)
            hours = [_short(work.gpu_hours(rate)) for rate in (model.windows_per_core_s, *GPU_RATES)]
            rows.append([f"{model.name}, {model.window_px} px", land.name, _short(work.windows), *hours])
    return _table(heads, rows)


def _needs(works: Sequence[Work], units: Units) -> list[str]:
    """What one GPU at ``RATE`` asks of what feeds it."""
    reading = [_reading(work, units) for work in works]
    asked = [UNKNOWN if one is None else f"{_read_rate(work) * one.requests:.1f}"
             for one, work in zip(reading, works, strict=True)]  # fmt: skip
    cores = [_cores(work, units) for work in works]
    gbit = [_gbit(work, units) for work in works]
    tile_s = [SHARD_PX**2 / 1e6 / _map_rate(work) for work in works]
    served = [UNKNOWN if units.driver_cpu_s is None else _short(one / units.driver_cpu_s) for one in tile_s]
    return _across(works, [
        ("map, million pixels a second", [f"{_map_rate(work):.1f}" for work in works]),
        ("seconds a tile", [f"{one:.2f}" for one in tile_s]),
        ("requests a second", asked),
        ("cores that read and write", [UNKNOWN if one is None else f"{one:.1f}" for one in cores]),
        ("network, Gbit/s", [UNKNOWN if one is None else f"{one:.2f}" for one in gbit]),
        ("GPUs that one core of a driver could serve", served),
        ("what gives out first", [_bottleneck(one, net) for one, net in zip(cores, gbit, strict=True)]),
    ])  # fmt: skip


def _money(works: Sequence[Work], units: Units) -> list[str]:
    rows: list[list[float | None]] = []
    for work in works:
        reading, hours = _reading(work, units), work.gpu_hours(RATE)
        cores = _cores(work, units)
        rows.append([
            hours / (units.gpu_busy or 1) * PRICES.gpu_hour,
            None if cores is None else hours * cores * PRICES.core_hour,
            None if reading is None else work.read_mpx * reading.requests / 1e6 * PRICES.get_million,
            work.objects / 1e6 * PRICES.put_million,
            None if units.stored_mb is None else work.written_mpx * units.stored_mb / 1e6 * PRICES.stored_tb_month,
        ])  # fmt: skip
    names = ["GPUs", "cores that feed them", "requests", "objects put", "storage, a month"]
    lines = [(name, [_dollars(row[n]) for row in rows]) for n, name in enumerate(names)]
    known = [[value for value in row if value is not None] for row in rows]
    total = [_dollars(sum(values)) + ("" if None not in row else " and what is not measured yet")
             for values, row in zip(known, rows, strict=True)]  # fmt: skip
    return _across(works, [*lines, ("**all of it**", total)])


def _map_rate(work: Work) -> float:
    """Million pixels of map a second of one GPU at ``RATE``."""
    return RATE * (work.window_px - OVERLAP_PX) ** 2 / REUSED / 1e6


def _read_rate(work: Work) -> float:
    """Million pixels of scenes a second for it."""
    return _map_rate(work) * work.read_mpx / work.land.mpx


def _cores(work: Work, units: Units) -> float | None:
    reading = _reading(work, units)
    if reading is None or units.write_cpu_s is None:
        return None
    return _read_rate(work) * reading.cpu_s + _map_rate(work) * LEVELS * PROMPTS * units.write_cpu_s


def _gbit(work: Work, units: Units) -> float | None:
    reading = _reading(work, units)
    if reading is None or units.stored_mb is None:
        return None
    return (_read_rate(work) * reading.mb + _map_rate(work) * LEVELS * units.stored_mb) * 8 / 1000


def _bottleneck(cores: float | None, gbit: float | None) -> str:
    """Of the GPU, its cores and its share of the network, the one that is used most."""
    if cores is None or gbit is None:
        return UNKNOWN
    used = {"the GPU": 1.0, "the cores": cores / CORES_A_GPU, "the network": gbit / (NODE_GBIT / GPUS_A_NODE)}
    name = max(used, key=lambda one: used[one])
    return name if name == "the GPU" else f"{name}: the GPU works {100 / used[name]:.0f} % of the time"


def _reading(work: Work, units: Units) -> Reading | None:
    """Our reader on scenes of this land."""
    one, more = units.reading.get(work.land.scene), work.land.bands / MEASURED_BANDS
    if one is None:
        return None
    requests = one.requests * (work.land.files / MEASURED_BANDS if work.land.files > 1 else 1)
    return Reading(cpu_s=one.cpu_s * more, requests=requests, mb=one.mb * more)


# How things are told --------------------------------------------------------------------------------------------------


def _of(unit: float | None, count: float, told: Callable[[float], str]) -> str:
    return UNKNOWN if unit is None else told(unit * count)


def _told(unit: float | None, form: str, factor: float = 1.0) -> str:
    return UNKNOWN if unit is None else form.format(unit * factor)


def _across(works: Sequence[Work], rows: Sequence[tuple[str, list[str]]]) -> list[str]:
    return _table(["", *(work.land.name for work in works)], [[name, *cells] for name, cells in rows])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(heads), ["---", *["--:"] * (len(heads) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _short(count: float) -> str:
    """Three figures at most, and a word for how many."""
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if count >= size:
            return f"{count / size:.3g}{word}"
    if count < 0.01:
        return "under 0.01"
    return f"{count:,.0f}" if count >= 10 else f"{count:.2g}"


def _bytes(count: float) -> str:
    for size, word in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count / 1e3:.3g} kB"


def _dollars(usd: float | None) -> str:
    return UNKNOWN if usd is None else f"${usd:,.0f}" if usd >= 10 else f"${usd:,.2f}"


if __name__ == "__main__":
    main()
