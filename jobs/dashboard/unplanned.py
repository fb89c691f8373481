"""What is said of a run that has no files yet, or none that can be read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

from jobs.dashboard import pace
from jobs.dashboard.bottleneck import Settings, bottleneck
from jobs.dashboard.views import Progress, RunLine, RunPage, RunState
from jobs.registry import RunRow


def shown_state(said: str, *, under_way: bool) -> RunState:
    """The state of a run as it is shown: what is said of it, unless its driver is gone and could not say so.

    Args:
        said: in ``run.json`` or in the registry.
        under_way: whether a driver has it now.
    """
    if under_way:
        return "running"
    if said == "running":
        return "stopped"
    return next((state for state in get_args(RunState) if state == said), "unknown")


def unread_line(key: str, run: str, mosaic: str, row: RunRow | None) -> RunLine:
    """What the registry says of it; nothing where it is not there either."""
    return RunLine(
        id=key,
        run=run,
        mosaic=mosaic,
        name=row.name if row else run,
        state=shown_state(row.state if row else "", under_way=False),
        planned=row.planned if row else 0,
        finished=row.finished if row else 0,
        given_up=0,
        began=None,
        updated=moment(row.updated) if row else None,
        live=False,
    )


def empty_page(line: RunLine, *, now: datetime) -> RunPage:
    """All panels, with nothing in them."""
    return RunPage(
        line=line,
        progress=Progress(
            planned=line.planned, waiting=line.planned - line.finished, done=line.finished, nodata=0, failed=0,
            quarantined=0, in_hand=0, tiles_per_s=None, km2_per_h=None, mpx_per_s=None, eta_s=None, mapped_km2=0.0,
            history=(),
        ),
        cost=pace.cost(
            spent_usd=None, usd_per_gpu_hour=None, budget_usd=None, workers=0, left=None, over=False, mapped_km2=0.0,
            idle_s=None,
        ),
        gpus=(),
        bottleneck=bottleneck((), Settings(), waiting=line.planned),
        failures=(),
        stragglers=(),
        calls=(),
        events=(),
        prompts=(),
        model="",
        as_of=line.updated or now,
    )  # fmt: skip


def moment(text: object) -> datetime | None:
    """A moment as files have it, aware; None where it is none."""
    try:
        known = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return known if known.tzinfo else known.replace(tzinfo=UTC)
