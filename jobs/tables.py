"""What people see on a terminal: results as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from jobs.amounts import Range, duration
from jobs.budget import dollars
from jobs.recent import STALE_S, WorkerLine
from jobs.registry import RunRow
from jobs.status import RunStatus
from jobs.summary import Summary
from jobs.terminal import plain
from mapper.errors import told

if TYPE_CHECKING:
    from jobs.estimate import Estimate
    from jobs.pilot import Pilot
    from jobs.prepare import Prepared

GIVEN_UP_SHOWN = 20
"""Of the tiles that were given up, what people read."""


def scores_table(scores: Mapping[str, float], expressions: Mapping[str, str]) -> Table:
    """Score against truth, a row a sentence."""
    table = Table(title="Score against the truth", title_justify="left", title_style="bold")
    table.add_column("prompt")
    table.add_column("sentence")
    table.add_column("IoU", justify="right")
    for name, score in scores.items():
        table.add_row(name, expressions[name], f"{score:.3f}")
    return table


def workers_table(summary: Summary) -> Table:
    """Throughput and where the time went, a row a worker."""
    table = Table(title=f"Throughput ({summary.device or 'no device'})", title_justify="left", title_style="bold")
    for heading in ("GPU", "tiles", "tiles/s", "km²/h", "busy", "read", "infer", "write"):
        table.add_column(heading, justify="left" if heading == "GPU" else "right")
    for worker in summary.workers:
        seconds = worker["seconds"]
        table.add_row(
            worker["worker"], str(worker["tiles"]), f"{worker['tiles_per_s']:.2f}", f"{worker['km2_per_h']:,.1f}",
            f"{100 * worker['busy']:.0f} %", *(f"{seconds[stage]:.1f} s" for stage in ("read", "infer", "write")),
        )  # fmt: skip
    return table


def plan_table(prepared: Prepared, cost: Estimate, device: str, *, measured: bool = False) -> Table:
    """What a plan says, before a cent is spent; ``measured`` by a pilot, or reckoned."""
    table = Table(
        title=f"Plan of {prepared.run}", title_justify="left", title_style="bold", show_header=False, box=None
    )
    table.add_column(style="dim")
    table.add_column()
    days = f"{cost.first_date:%Y-%m-%d} to {cost.last_date:%Y-%m-%d}"
    clouds = "" if cost.cloud_share is None else f"; {100 * cost.cloud_share:.0f} % cloud by the catalog"
    rows = [
        ("area", f"{cost.area_km2:,.2f} km², {100 * cost.covered_share:.1f} % of it under imagery"),
        ("holes", f"{cost.hole_km2:,.2f} km² without imagery" if cost.hole_km2 > 1e-6 else "none"),
        ("imagery", f"{cost.items:,} items, {days}; {_counted(len(prepared.plan.steps), 'time step')}{clouds}"),
        *[
            (
                "grid",
                f"{grid.lattice.crs}, {grid.shape[1]:,} × {grid.shape[0]:,} px of {grid.lattice.res_x:g}",
            )
            for grid in prepared.plan.grids
        ],
        ("tiles", f"{cost.tiles:,}" + (f", {cost.holes:,} of them without imagery" if cost.holes else "")),
        ("windows", f"{cost.windows_once:,} to {cost.windows:,} for the model: neighbours share some"),
        ("reads", f"at most {_bytes(cost.read_bytes)} decoded, about {cost.requests:,} requests"),
        ("writes", f"{_written(cost)}, to {prepared.job.spec.output.mosaic}"),
    ]
    if cost.seconds is not None and cost.usd is not None:
        how = "as its pilot took here" if measured else "as timed on noise here"
        price = prepared.job.spec.compute.usd_per_gpu_hour
        rows += [
            ("time", f"{_span(cost.seconds)} on {cost.workers} × {device}, {how}"),
            ("cost", f"{dollars(cost.usd.likely)} ({dollars(cost.usd.low)} to {dollars(cost.usd.high)}) at "
                     f"{dollars(price)} a GPU hour"),
        ]  # fmt: skip
        budget_usd = prepared.job.spec.compute.budget_usd
        if budget_usd is not None:
            rows.append(("budget", f"{dollars(budget_usd)}, {_against(cost.usd, budget_usd)}"))
    for name, value in rows:
        table.add_row(name, value)
    return table


def _against(usd: Range, budget_usd: float) -> str:
    if usd.likely > budget_usd:
        return "less than the likely cost: the run would not begin"
    return "enough" if usd.high <= budget_usd else "enough for the likely cost; the run stops where it is not"


def pilot_table(pilot: Pilot) -> Table:
    """What a pilot has measured."""
    title = f"Pilot of {_counted(pilot.tiles, 'tile')} on {pilot.device}"
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    mapped = pilot.tiles - len(pilot.problems)
    rows = [("took", f"{duration(pilot.seconds)}, {pilot.windows:,} windows, {_bytes(pilot.read_bytes)} decoded")]
    if pilot.bound is not None:
        stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in pilot.stages.items())
        rows += [
            ("stages", f"{stages}, to this disk; they overlap"),
            ("bound by", _BOUND[pilot.bound]),
            ("stored", f"{_bytes(pilot.stored_bytes / mapped)} a tile, compressed"),
        ]
    if pilot.blank_share is not None:
        rows.append(("blank", f"{100 * pilot.blank_share:.0f} % of the tiles under imagery show no valid pixel"))
    if pilot.problems:
        rows.append(("failed", f"{len(pilot.problems):,} of {_counted(pilot.tiles, 'tile')}"))
    if pilot.bound is None:
        rows.append(("price", "none: no tile under imagery could be mapped"))
    for name, value in rows:
        table.add_row(name, value)
    return table


_BOUND = {
    "infer": "the model, as it should be",
    "read": "reading: the model waits for pixels",
    "blend": "blending on the CPU: the model waits for it",
    "write": "writing: the model waits for the store",
}


def _written(cost: Estimate) -> str:
    if cost.stored_bytes is None:
        return f"{_bytes(cost.written_bytes)} before compression"
    stored = cost.stored_bytes
    if stored.low == stored.high:
        return f"{_bytes(stored.likely)} compressed"
    return f"about {_bytes(stored.likely)} ({_bytes(stored.low)} to {_bytes(stored.high)}) compressed"


def runs_table(rows: Sequence[RunRow]) -> Table:
    """The registry, a row a run."""
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for heading in ("state", "tiles", "updated"):
        table.add_column(heading, no_wrap=True)
    table.add_column("mosaic", overflow="fold")
    for row in rows:
        table.add_row(
            row.run,
            row.state,
            f"{row.finished}/{row.planned}",
            row.updated[:16].replace("T", " "),
            row.mosaic,
        )
    return table


def status_table(status: RunStatus) -> Table:
    """One run."""
    table = Table(
        title=f"{status.run}: {status.state}",
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # paths are longer than lines, and nobody may cut them
    counts = ", ".join(f"{count} {state}" for state, count in sorted(status.counts.items())) or "nothing yet"
    table.add_row("tiles", f"{status.planned} planned; {counts}; {status.attempts} tries")
    if status.live:
        pace = "nobody knows how fast" if status.tiles_per_s is None else f"{status.tiles_per_s:.2f} tiles/s"
        table.add_row("pace", f"{pace} in the last minute, by {_counted(len(status.workers), 'worker')}")
    elif status.state == "running" and status.heard_at is not None:
        table.add_row("driver", f"said nothing since {_moment(status.heard_at)}; `resmap run` goes on if it is gone")
    table.add_row("mosaic", plain(status.mosaic))
    if status.stopped:
        table.add_row("stopped", plain(status.stopped))
    for worker in status.workers:
        table.add_row(plain(worker.worker), _worker_says(worker))
    for lost in status.given_up[:GIVEN_UP_SHOWN]:
        tries = f"{lost.attempts} {'try' if lost.attempts == 1 else 'tries'}"
        table.add_row(
            "given up",
            plain(f"{lost.name} after {tries}, by {lost.worker or 'nobody'}, {_moment(lost.at)}: "
                  f"{lost.cause}: {told(lost.error, 500)}"),
        )  # fmt: skip
    if len(status.given_up) > GIVEN_UP_SHOWN:
        table.add_row("", f"… and {len(status.given_up) - GIVEN_UP_SHOWN:,} more; --json has them all")
    if status.given_up:
        table.add_row("", f"`resmap retry {plain(status.run)}` takes them again")
    return table


def _worker_says(worker: WorkerLine) -> str:
    said = [plain(worker.host), _counted(worker.tiles, "tile")]
    if worker.tiles_per_s is not None:
        said.append(f"{worker.tiles_per_s:.2f}/s")
    if worker.busy is not None:
        said.append(f"{100 * worker.busy:.0f} % busy")
    if worker.waits is not None:
        said.append(f"waits most for {worker.waits_for}, {100 * worker.waits:.0f} %")
    if worker.heard_s > STALE_S:
        said.append(f"said nothing for {worker.heard_s:.0f} s")
    return " · ".join(part for part in said if part)


def _moment(iso: str) -> str:
    return iso[:19].replace("T", " ") + " UTC"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("" if count == 1 else "s")


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("a loop that always returns")


def _span(seconds: Range) -> str:
    return f"about {duration(seconds.likely)} ({duration(seconds.low)} to {duration(seconds.high)})"
