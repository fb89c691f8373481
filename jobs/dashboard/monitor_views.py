"""What is said of monitors: one value a panel. The commands print them, pages draw them, the API gives them as JSON.

None is what nobody knows, and is never drawn as 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

MonitorState = Literal["active", "paused"]
TickState = Literal["running", "done", "nothing", "failed", "skipped", "replaced"]
AlertState = Literal["waiting", "delivered", "given up"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TickLine:
    """One tick: a look at the catalog, and what came of it."""

    due: datetime
    stands_for: int
    """Due instants it answers: 1, and those that were missed before it."""

    state: TickState
    attempts: int
    began: datetime | None
    ended: datetime | None
    seconds: float | None
    run: str
    """The run it made; empty where there was no news."""

    run_id: str
    """That run as addresses name it; empty likewise."""

    new_items: int | None
    changed_items: int | None
    gone_items: int | None
    set_aside: int | None
    """Items that were found and not taken."""

    tiles: int | None
    """Mapped anew."""

    alerts: int | None
    said: str
    """Why it failed, was skipped, or what it has to say; one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorLine:
    """A monitor, as the list of them shows it."""

    name: str
    job: str
    """Name of its job."""

    mosaic: str
    schedule: str
    """As the job file has it."""

    says: str
    """The schedule in words, with its zone."""

    timezone: str
    state: MonitorState
    next_at: datetime | None
    """None while it is paused."""

    asked_at: datetime | None
    """When somebody asked it to look beyond its schedule; None where nobody has, or it looks."""

    waits_since: datetime | None
    """The first due instant that no tick has answered yet; None where there is none."""

    interval_s: float | None
    """From one due instant to the next, the longest of the coming ones."""

    last: TickLine | None
    """The tick that was due last."""

    last_success_at: datetime | None
    """When a tick last looked and knew."""

    ticks: Mapping[str, int]
    """Ticks that are over, by their state."""

    new_items: int | None
    """Of all its ticks together, as the four below."""

    changed_items: int | None
    gone_items: int | None
    set_aside: int | None
    tiles: int | None
    alerts_waiting: int
    alerts_tried: int
    """Of those that wait, the ones that were sent and not taken."""

    alerts_given_up: int
    alerts_delivered: int

    trouble: str
    """What is not as it should be, in a sentence; empty where all is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An alert on its way to one sink."""

    sink: str
    state: AlertState
    attempts: int
    next_try: datetime | None
    delivered: datetime | None
    error: str
    """Why it was not taken the last time; empty where it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertLine:
    """One alert, and whom it reached."""

    key: str
    """Whoever gets it twice knows it by this."""

    pictures: tuple[str, ...]
    """Of ``before`` and ``after``, those there are."""

    rule: str
    place: str
    prompt: str
    change: str
    """appeared · vanished"""

    time: datetime | None
    """The later of the two steps that were compared; ``before`` is the other."""

    before: datetime | None
    area_m2: float | None
    count: int | None
    created: datetime
    revises: bool
    """Whether it takes the place of an earlier one, about the same place and step."""

    revised: bool
    """Whether a later one has taken its place."""

    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeLine:
    """What became of one prompt from one time step to the next. Where either was not seen, nothing is said; where no
    ground was seen in both, all is None: nobody knows."""

    time: datetime
    prompt: str
    appeared: int | None
    """Places, as the two below."""

    vanished: int | None
    appeared_m2: float | None
    vanished_m2: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAsideLine:
    """An item that was found and not taken."""

    due: datetime
    """Of the tick that found it."""

    collection: str
    id: str
    kind: str
    """future · late · broken · deprecated"""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorPage:
    """All panels of one monitor."""

    line: MonitorLine
    prompts: tuple[tuple[str, str], ...]
    """Name and expression."""

    catalog: str
    collections: tuple[str, ...]
    late: str
    overlapping: str
    hysteresis: float
    min_area_m2: float
    rules: tuple[str, ...]
    """Each alert rule in a sentence."""

    sinks: tuple[str, ...]
    """Name and kind of each, without what it holds."""

    created: datetime
    watermark: datetime | None
    """Items that the catalog took in before it are known; None before the first look."""

    swept: datetime | None
    """When all of the area was last compared with the catalog, and not just what is new."""

    ticks: tuple[TickLine, ...]
    """The latest, newest first."""

    set_aside: tuple[SetAsideLine, ...]
    alerts: tuple[AlertLine, ...]
    """The latest, newest first."""

    changes: tuple[ChangeLine, ...]
    """Of the latest steps, newest first."""

    polygons: str
    """The folder in which the outlines of all changes lie; empty where there are none yet."""

    unread: str
    """Why changes cannot be shown; empty where they can."""

    as_of: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What became of a wish: to pause, to resume, to look now."""

    name: str
    state: str
    """paused · active · asked"""
