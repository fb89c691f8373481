"""What ``resmap plan`` answers: a plan and its price, reckoned or measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jobs.estimate import Estimate, estimate
from jobs.pilot import Pilot, map_some, seconds_per_window
from jobs.prepare import Prepared
from jobs.watch import Watcher
from mapper import models
from mapper.models.fetch import shown
from mapper.storage import is_local


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """A plan, and what it costs."""

    prepared: Prepared
    cost: Estimate
    device: str
    """On which the model was timed."""

    pilot: Pilot | None

    @property
    def exit_status(self) -> int:
        """As the command line ends: 4 where the pilot had to give tiles up."""
        return 4 if self.pilot is not None and self.pilot.problems else 0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        plan = self.prepared.plan
        grids = [
            {"name": grid.name, "crs": grid.lattice.crs, "shape": grid.shape, "shards": grid.tile_shape}
            for grid in plan.grids
        ]
        return {
            "run": self.prepared.run,
            "mosaic": self.prepared.job.spec.output.mosaic,
            "timed_on": self.device,
            **asdict(self.cost),
            "grids": grids,
            "steps": [step.isoformat() for step in plan.steps],
            "pilot": None if self.pilot is None else asdict(self.pilot),
        }


def price(prepared: Prepared, *, pilot: int | None, watcher: Watcher) -> Priced:
    """The price of a plan: with so many tiles really mapped, or with the model timed on noise.

    Raises:
        MapperError: the model cannot be loaded, or the store of the imagery refuses us.
    """
    spec = prepared.job.spec
    weights = spec.model.weights
    if weights and not is_local(weights):
        watcher.say(f"timing the model; its weights are fetched first from {shown(weights)}")
    gpus = spec.compute.gpus
    timed, device = (None, "") if pilot is not None else seconds_per_window(spec)
    cost = estimate(
        prepared.plan,
        spec,
        prepared.area,
        window_px=models.window_px(spec.model.name),
        seconds_per_window=timed,
        workers=1 if gpus == "auto" else gpus,
    )
    if pilot is None:
        return Priced(prepared=prepared, cost=cost, device=device, pilot=None)
    told = map_some(prepared, cost, pilot, watcher=watcher)
    return Priced(
        prepared=prepared, cost=told.priced(cost, spec.compute.usd_per_gpu_hour), device=told.device, pilot=told
    )
