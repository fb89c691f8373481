"""A cluster as a pool sees it, told by a test, on a real Ray whose GPUs are enough; and workers of several paces."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import ray

from cluster import WorkerFacts
from cluster.placement import NodeRoom
from cluster.ray_pool import RayPool
from mapper.errors import AssetError, MapperError
from mapper.map_tile import Result, Task
from tests.cluster.stand_ins import Idle

SLOW_S, FAST_S = 0.4, 0.1
"""A task, of ``Unequal``."""

ENDS_S = 90.0


class Told:
    """Nodes that come and go as a test says: one, with so many GPUs, that is really Ray's own."""

    def __init__(self, gpus: int) -> None:
        self.away: dict[str, float] = {}
        self.unlike: dict[str, str] = {}
        self.have(gpus)

    @property
    def node(self) -> str:
        """Ray's id of it."""
        return ray.get_runtime_context().get_node_id()

    def have(self, gpus: int) -> None:
        """From now on it has so many. Nobody else uses any."""
        has = {"GPU": float(gpus), "CPU": 64.0}
        self._now: Sequence[NodeRoom] = (NodeRoom(node=self.node, total=has, free=has),)

    def now(self) -> Sequence[NodeRoom]:
        """Asked anew each time."""
        return list(self._now)

    def leaving(self) -> Mapping[str, float]:
        """As the test says."""
        return self.away

    def unfit(self) -> Mapping[str, str]:
        """As the test says."""
        return self.unlike

    def close(self) -> None:
        """Nothing was begun."""


class Unequal(Idle):
    """The first one is slow, the others are fast. Nothing is read, and that is final. Says which GPU Ray gave it."""

    def facts(self) -> WorkerFacts:
        return replace(super().facts(), device=os.environ["CUDA_VISIBLE_DEVICES"])

    def run(self, task: Task) -> Result | MapperError:
        time.sleep(SLOW_S if self._name == "gpu-0" else FAST_S)
        return AssetError("nothing is there")


class Slow(Idle):
    """Takes its time for each task."""

    def run(self, task: Task) -> Result | MapperError:
        time.sleep(SLOW_S)
        return AssetError("nothing is there")


def ready(pool: RayPool, count: int) -> list[WorkerFacts]:
    """What so many workers say of themselves, once as many have loaded. Nothing may be in hand."""
    deadline = time.monotonic() + ENDS_S
    while len(found := pool.facts()) != count:
        assert time.monotonic() < deadline, found
        assert pool.finished(0.2) == []
    return list(found)
