"""Runs that are not there, for looking at the dashboard and for its tests: every panel filled, hostile names in some.

``python -m tests.jobs.dashboard.fakes --port 8765`` serves them. The first run moves, a tile or two a second.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from PIL import Image, ImageDraw

from jobs.dashboard.control import Submitted
from jobs.dashboard.monitor_views import Asked, MonitorLine, MonitorPage
from jobs.dashboard.views import (
    ComparedRow,
    Comparison,
    Event,
    FailureGroup,
    MapInfo,
    RunLine,
    RunPage,
    TileDetail,
    TileState,
)
from mapper.errors import QuestionError, SpecError
from tests.jobs.dashboard import monitor_panels
from tests.jobs.dashboard.hostile import HOSTILE
from tests.jobs.dashboard.monitor_panels import NEPAL, PAUSED, monitor_page
from tests.jobs.dashboard.panels import (
    BEGAN,
    CALLS,
    DONE,
    HELD,
    LIVE,
    PLANNED,
    QUEUED,
    STATE_COLOURS,
    failures,
    gpu,
    happened,
    line,
    page,
)

__all__ = [
    "BEGAN",
    "CALLS",
    "DONE",
    "HELD",
    "LIVE",
    "PLANNED",
    "QUEUED",
    "STATE_COLOURS",
    "FakeControl",
    "FakeQueries",
    "failures",
    "gpu",
    "happened",
    "line",
    "page",
]


@dataclass
class FakeQueries:
    """Four runs: one under way, one done, one with tiles given up, one that waits."""

    pages: dict[str, RunPage] = field(default_factory=lambda: {of.id: page(of) for of in (LIVE, DONE, HELD, QUEUED)})
    """By key. Tests put others in; what is live here moves while ``moving``."""

    monitored: dict[str, MonitorPage] = field(
        default_factory=lambda: {of.name: monitor_page(of) for of in (NEPAL, PAUSED)}
    )
    moving: bool = False
    began: float = field(default_factory=time.monotonic)

    def runs(self) -> tuple[RunLine, ...]:
        return tuple(self.page(key).line for key in self.pages)

    def page(self, key: str) -> RunPage:
        if key not in self.pages:
            raise QuestionError("there is no run of this name", fix="the list of runs has all that are known")
        kept = self.pages[key]
        return page(LIVE, moved=time.monotonic() - self.began) if self.moving and key == LIVE.id else kept

    def failures(self, key: str) -> tuple[FailureGroup, ...]:
        return self.page(key).failures

    def tile(self, key: str, n: int) -> TileDetail:
        of = self.page(key)
        if not 0 <= n < of.line.planned:
            raise QuestionError(f"this run has no tile {n}", fix=f"its tiles are 0 to {of.line.planned - 1}")
        state: TileState = "failed" if n in (99, 100) else "waiting" if n > of.line.finished else "done"
        return TileDetail(
            tile=n,
            name=f"r{n // 64:04d}c{n % 64:04d}",
            state=state,
            zone="",
            row=n // 64,
            column=n % 64,
            step="2023-05-01",
            bounds=(85.2 + n % 64 * 0.005, 27.6, 85.205 + n % 64 * 0.005, 27.605),
            attempts=3 if state == "failed" else 1,
            worker="gpu-3",
            at=BEGAN + timedelta(seconds=n),
            seconds={"read": 3.2, "infer": 1.1, "write": 0.4},
            windows=16,
            asked_px=2048 * 2048,
            seen_px=2048 * 2040,
            present_px={"building": 301_222, "hostile": 0},
            cause="AssetError" if state == "failed" else "",
            error=HOSTILE[0] if state == "failed" else "",
            items=(
                {"id": "naip-2023-a", "collection": "naip", "datetime": "2023-05-01T10:00:00Z",
                 "href": "https://example.com/a.tif"},
                {"id": HOSTILE[2], "collection": HOSTILE[5], "datetime": None, "href": "javascript:alert(1)"},
            ),
            events=happened(3)[2:] if state == "failed" else (),
        )  # fmt: skip

    def tile_at(self, key: str, lon: float, lat: float, step: int) -> int | None:
        self.page(key)
        column, row = int((lon - 85.2) / 0.005), int((27.9 - lat) / 0.005)
        return row * 64 + column if 0 <= column < 64 and 0 <= row < 64 and step == 0 else None

    def map(self, key: str) -> MapInfo:
        of = self.page(key)
        return MapInfo(
            bounds=(85.2, 27.58, 85.52, 27.9),
            steps=("2023-05-01", "2024-05-01"),
            prompts=of.prompts,
            layers=("state", "seconds", "score", "mask", "imagery"),
            max_zoom=18,
            version=of.as_of.isoformat(),
            legend={
                "state": tuple((colour, state) for state, colour in STATE_COLOURS.items()),
                "seconds": (("#fde725", "under 2 s"), ("#21918c", "2 to 10 s"), ("#440154", "over 10 s")),
                "score": (("#fde725", "0.9"), ("#440154", "0.1")),
                "mask": (("#e69f00", "present"), ("#c9c4b8", "unobserved")),
                "imagery": (),
            },
        )

    def picture(self, key: str, layer: str, prompt: int, step: int, z: int, x: int, y: int) -> bytes:
        shown = self.map(key)
        if layer not in shown.layers or prompt >= len(shown.prompts) or step >= len(shown.steps) or z > 24:
            raise QuestionError("there is no such picture", fix="the map's document names its layers")
        colours = list(STATE_COLOURS.values())
        picture = Image.new("RGBA", (256, 256))
        pen = ImageDraw.Draw(picture)
        for row in range(4):
            for column in range(4):
                colour = colours[(31 * (4 * x + column) + 17 * (4 * y + row) + len(layer)) % 7 % 5]
                pen.rectangle((64 * column, 64 * row, 64 * column + 62, 64 * row + 62), fill=colour)
        kept = io.BytesIO()
        picture.save(kept, "PNG")
        return kept.getvalue()

    def compare(self, a: str, b: str) -> Comparison:
        return Comparison(
            a=self.page(a).line,
            b=self.page(b).line,
            rows=(
                ComparedRow(label="area an hour", unit="km²/h", a=2174.0, b=3011.0, ratio=1.385, better="higher"),
                ComparedRow(label="cost of 1,000 km²", unit="USD", a=6.03, b=None, ratio=None, better="lower"),
                ComparedRow(label="tiles", unit="", a=4096.0, b=4096.0, ratio=1.0, better="neither"),
            ),
            differences=(("compute.readers", "8", "12"), ("prompts[1].expression", HOSTILE[2], "every tree")),
        )

    def monitors(self) -> tuple[MonitorLine, ...]:
        return tuple(page.line for page in self.monitored.values())

    def monitor(self, name: str) -> MonitorPage:
        if name not in self.monitored:
            raise QuestionError(f"there is no monitor {name!r}", fix="the list of monitors names them all")
        return self.monitored[name]

    def alert_picture(self, name: str, alert: str, side: str) -> bytes:
        if not any(held.pictures and held.key == alert for held in self.monitor(name).alerts):
            raise QuestionError("this alert has no picture", fix="the monitor's page has those there are")
        return monitor_panels.picture(side)

    def events(self, key: str, after: int) -> tuple[Event, ...]:
        told = sorted(self.page(key).events, key=lambda event: event.number)
        return tuple(event for event in told if event.number > after)

    def history(self, key: str) -> Mapping[str, Any]:
        of = self.page(key)
        return {
            "at": [at.isoformat().replace("+00:00", "Z") for at, _ in of.progress.history],
            "tiles_per_s": [pace for _, pace in of.progress.history],
            "busy": [0.5 + (k % 5) / 10 for k, _ in enumerate(of.progress.history)],
        }


@dataclass
class FakeControl:
    """Keeps what it was asked, and does nothing."""

    queries: FakeQueries
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """What, to which run or monitor, by whom."""

    said: str = "".join(f"08:{k // 60:02d}:{k % 60:02d} tile r0000c{k:04d} is done\n" for k in range(600))

    def submit(self, job: str, *, gpus: int | None = None, local: bool = False, by: str = "") -> Submitted:
        if "name:" not in job:
            raise SpecError("this is no job file", fix="`resmap schema` says what one holds")
        first = not any(what == "submit" for what, _, _ in self.asked)
        self.asked.append(("submit", QUEUED.id, by))
        return Submitted(key=QUEUED.id, run=QUEUED.run, mosaic=QUEUED.mosaic, state="queued", created=first)

    def cancel(self, key: str, *, by: str = "") -> str:
        of = self.queries.page(key).line
        if not of.live:
            raise QuestionError("this run is not under way", fix="only what is can be cancelled")
        self.asked.append(("cancel", key, by))
        return "cancelled"

    def retry(self, key: str, *, by: str = "") -> Submitted:
        of = self.queries.page(key).line
        self.asked.append(("retry", key, by))
        return Submitted(key=key, run=of.run, mosaic=of.mosaic, state="queued", created=False)

    def pause_monitor(self, name: str, *, by: str = "") -> Asked:
        return self._steer("pause", name, "paused", by)

    def resume_monitor(self, name: str, *, by: str = "") -> Asked:
        return self._steer("resume", name, "active", by)

    def run_monitor(self, name: str, *, by: str = "") -> Asked:
        return self._steer("look now", name, "asked", by)

    def _steer(self, act: str, name: str, state: str, by: str) -> Asked:
        self.queries.monitor(name)
        self.asked.append((act, name, by))
        return Asked(name=name, state=state)

    def log(self, key: str, *, after: int = 0) -> tuple[str, int]:
        self.queries.page(key)
        text = (self.said + HOSTILE[0] + "\n").encode()
        return text[after : after + 2**16].decode(errors="replace"), min(len(text), after + 2**16)


def main() -> None:
    """Serve them until Ctrl-C."""
    from jobs.dashboard.app import app
    from jobs.dashboard.keys import Access
    from jobs.serving import listening, serve

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--read-only", action="store_true")
    asked = parser.parse_args()
    queries = FakeQueries(moving=True)
    pages = app(queries, FakeControl(queries), access=Access(readonly=asked.read_only))
    with listening("127.0.0.1", asked.port, what="the dashboard of the tests", fix="choose another --port") as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
        serve(pages, listener, connections=100, stop=pages.state.streams.stop)


if __name__ == "__main__":
    main()
