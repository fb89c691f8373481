"""What holds a run back, and what to change: a sentence, from what models waited for in the last minutes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.readings import WAITS
from jobs.dashboard.views import Bottleneck, CallsRow, GpuRow
from jobs.spec import MOST_WORKERS

COMPUTES = 0.85
"""Share of the time from which on a model that computes is itself the limit."""

HELD_BACK = 0.1
"""Share of the time that a model must wait for one thing, to be called held back by it."""

THROTTLED = 0.02
"""Share of requests told to come slower, from which on more of them at a time would not help."""

MOST_MORE = 4.0
"""By how much readers are raised at most at once: beyond it the shares say too little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the advice depends on, from the job file."""

    readers: int | Literal["auto"] = "auto"
    gpus: int | Literal["auto"] = "auto"
    batch: int | Literal["auto"] = "auto"
    engine: str = "zarr"
    commit_shards: int = 64
    shard_px: int = 2048
    overlap_px: int = 128
    compiled: bool = False
    precision: str = "fp32"


def bottleneck(
    rows: Sequence[GpuRow],
    settings: Settings,
    *,
    waiting: int,
    calls: Sequence[CallsRow] = (),
    reading: float | None = None,
) -> Bottleneck:
    """What holds it back.

    Args:
        rows: of all workers.
        settings: of the job.
        waiting: tiles not begun by anybody.
        calls: how hosts answer.
        reading: threads that read and decode at a time, of all workers together; None where it is not known.
    """
    known = [row for row in rows if row.busy is not None and row.state != "gone"]
    if not known:
        return Bottleneck(wait="nothing", sentence="Nothing can be said yet: no worker has spoken.", gpus=0, of=0)
    share = {wait: _mean([row.waits.get(wait, 0.0) for row in known]) for wait in WAITS}
    busy = _mean([row.busy or 0.0 for row in known])
    of = len(known)
    worst = max(WAITS, key=lambda wait: share[wait])
    if busy >= COMPUTES or share[worst] < HELD_BACK:
        computing = sum(_limit(row) == "infer" for row in known)
        return Bottleneck(wait="infer", sentence=_model(computing, of, busy, settings), gpus=computing, of=of)
    held = [row for row in known if _limit(row) == worst]
    if not held:  # each for a reason of its own
        held = [row for row in known if row.waits.get(worst, 0.0) >= HELD_BACK] or known
    lost = _mean([row.waits.get(worst, 0.0) for row in held])
    waiting = waiting if waiting > of else 0  # else somebody goes without, however quick the driver is
    advice = _advice(worst, settings, waiting=waiting, busy=busy, lost=share, calls=calls, reading=reading)
    whose = "its" if of == 1 else "their"
    sentence = f"{_SUBJECT[worst]} {len(held)} of {_gpus(of)} for {_percent(lost)} of {whose} time: {advice}."
    return Bottleneck(wait=worst, sentence=sentence, gpus=len(held), of=of)


_SUBJECT = {
    "read": "Reads hold back",
    "decode": "Decoding holds back",
    "copy": "Copies to the device hold back",
    "blend": "Blending holds back",
    "encode": "Encoding holds back",
    "write": "Writes hold back",
    "tasks": "Want of tiles holds back",
}


def more_readers(readers: float, *, busy: float, lost: float) -> int:
    """How many readers keep models busy that now wait for them in part of their time.

    So many now serve ``busy`` of the time; to serve what is lost as well takes more of them in the same measure.

    Args:
        readers: that work now, 0 or more.
        busy: share of the time in which models compute.
        lost: share of the time in which they wait for readers.
    """
    factor = min(MOST_MORE, (busy + lost) / busy) if busy > 0 else MOST_MORE
    return min(MOST_WORKERS, max(math.ceil(readers * factor - 1e-9), math.floor(readers) + 1))


def _limit(row: GpuRow) -> str:
    """What one worker is held back by."""
    worst = max(WAITS, key=lambda wait: row.waits.get(wait, 0.0))
    return "infer" if (row.busy or 0.0) >= COMPUTES or row.waits.get(worst, 0.0) < HELD_BACK else worst


def _model(computing: int, of: int, busy: float, settings: Settings) -> str:
    more = "more GPUs make it faster" + (" (compute.gpus)" if settings.gpus != "auto" else "")
    compute = "computes" if of == 1 else "compute"
    who = f"{computing} of {_gpus(of)} {compute}"
    said = f"The model is the limit: {who} nearly all the time, {_percent(busy)} on average; {more}"
    quicker = [] if settings.compiled else ["model.compiled: true"]
    quicker += ["model.precision: bf16"] if settings.precision == "fp32" else []
    return f"{said}, and so may {' or '.join(quicker)} in a new mosaic." if quicker else f"{said}."


def _advice(
    wait: str,
    settings: Settings,
    *,
    waiting: int,
    busy: float,
    lost: Mapping[str, float],
    calls: Sequence[CallsRow],
    reading: float | None,
) -> str:
    slowed = {"read": "imagery", "write": "store"}.get(wait)
    told = max((row for row in calls if row.kind == slowed), key=lambda row: row.throttled_share, default=None)
    if told is not None and told.throttled_share >= THROTTLED:
        fewer = "fewer compute.readers or compute.gpus" if wait == "read" else "fewer compute.gpus"
        return f"{told.host} tells {_percent(told.throttled_share)} of requests to come slower, so take {fewer}"
    if wait in ("read", "decode"):
        now = float(settings.readers) if settings.readers != "auto" else (reading or 0.0)
        wanted = more_readers(now, busy=busy, lost=lost["read"] + lost["decode"])
        return f"raise compute.readers to {wanted}"
    if wait == "tasks":
        if waiting <= 0:
            return "nothing is left to hand out, and the last tiles are under way"
        return "its driver does not keep up; give it a machine with less to do, or lower compute.gpus"
    if wait == "write":
        if settings.engine == "icechunk":
            return (
                f"raise output.commit_shards above {settings.commit_shards}, or move output.mosaic nearer to the GPUs"
            )
        return "move output.mosaic to a store nearer to the GPUs"
    if wait == "encode":
        return "the cores beside the GPUs are short; let compute.readers read on others"
    if wait == "copy":
        batch = f"above {settings.batch}" if settings.batch != "auto" else "to more windows at once"
        return f"raise compute.batch {batch}"
    return f"a new mosaic with windows.overlap_px below {settings.overlap_px} has less to blend"


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
