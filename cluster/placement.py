"""Which workers there should be, given what is asked for and what a cluster has: rules only.

    asked for    workers there should be                                            where there is no room
    auto         one for each GPU that nobody has, or has been given to us          nobody waits, but for a first one
    N            N                                                                  the others wait for nodes
    {min, max}   max                                                                likewise; fewer than min is told

A worker that waits is what Ray's autoscaler adds nodes for. Under auto none waits where others run: a cluster that is
shared would grow for us as long as it can.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mapper.errors import ResourceError

ACCELERATOR = "accelerator_type:"
"""Before the name of a GPU's type, Ray's resource that says so; a node has one of each."""

_ALL_BUT = 1e-3
"""Of that, what an actor takes, as Ray has it."""

_PARTS = 10_000
"""Into so many Ray divides a GPU."""

_SELECTOR = re.compile(r"(!?)(?:in)?\((.*)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoom:
    """One machine of a cluster, as Ray knows it."""

    node: str
    """Ray's id, in hexadecimal digits."""

    host: str = ""
    total: Mapping[str, float] = field(default_factory=dict)
    """Resource → amount: CPU, GPU, and those of its own."""

    free: Mapping[str, float] = field(default_factory=dict)
    """Of that, what nobody has."""

    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is asked of a cluster."""

    least: int = 1
    """GPUs; to have fewer for long is told."""

    most: int | None = None
    """GPUs; None for all there are."""

    workers_per_gpu: int = 1
    gpu_type: str | None = None
    """Ray's name of it; None takes any."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the nodes: Ray's label selectors."""

    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom ones that each worker takes."""

    cpus: float = 1.0
    """Cores that each worker takes."""

    @classmethod
    def of(cls, workers: int | Fleet | None) -> Fleet:
        """So many GPUs, or all there are, of whichever kind."""
        if isinstance(workers, Fleet):
            return workers
        return cls() if workers is None else cls(least=workers, most=workers)

    @property
    def here(self) -> int | None:
        """GPUs that a Ray on this machine alone needs, logical ones where the machine has fewer; None for its own."""
        if self.most is None or (self.least == 1 < self.most):
            return None
        return self.least

    @property
    def cores_beside(self) -> int:
        """Cores that such a Ray needs, beside one a GPU."""
        gpus = self.here or 1
        return max(0, math.ceil(gpus * self.workers_per_gpu * self.cpus) - gpus)

    @property
    def share(self) -> float:
        """Of a GPU, what one worker takes: all workers of a GPU fit into it as Ray counts."""
        return _PARTS // self.workers_per_gpu / _PARTS if self.workers_per_gpu > 1 else 1.0

    @property
    def least_workers(self) -> int:
        """Workers below which something is said."""
        return self.least * self.workers_per_gpu

    @property
    def most_workers(self) -> float:
        """Workers that are asked for at most; infinite for all there is room for."""
        return math.inf if self.most is None else self.most * self.workers_per_gpu

    def room(self, node: NodeRoom, has: Mapping[str, float]) -> int:
        """How many of its workers go onto a node that has so much."""
        if not all(matches(node.labels.get(key), wanted) for key, wanted in self.labels.items()):
            return 0
        # Not from ``share``: of a third of a GPU three fit, whatever is lost in rounding.
        rooms = [math.floor(has.get("GPU", 0.0) * self.workers_per_gpu + 0.01)]
        needed = dict(self.resources) | {"CPU": self.cpus}
        if self.gpu_type is not None:
            needed[ACCELERATOR + self.gpu_type] = _ALL_BUT
        rooms += [math.floor(has.get(name, 0.0) / amount + 1e-6) for name, amount in needed.items() if amount > 0]
        return max(0, min(rooms))

    def capacity(self, nodes: Sequence[NodeRoom]) -> int:
        """How many of its workers a cluster takes that nobody else uses."""
        return sum(self.room(node, node.total) for node in nodes)

    def to_wait(self, nodes: Sequence[NodeRoom], placed: Mapping[str, int], given_up: Mapping[str, int]) -> int:
        """How many workers there should be that have no place yet.

        Args:
            nodes: those that stay.
            placed: node → workers that have their place there.
            given_up: node → places where worker after worker died: nobody is put there again.
        """
        here = sum(placed.values())
        if self.most is not None:
            return max(0, self.most * self.workers_per_gpu - here - sum(given_up.values()))
        free = sum(self._free(node, placed.get(node.node, 0), given_up.get(node.node, 0)) for node in nodes)
        return max(free, 0 if here or given_up else 1)

    def asks_for(self, *, beside: Collection[str] = ()) -> dict[str, object]:
        """What Ray is told of a worker: options of an actor.

        Args:
            beside: ids of nodes to keep away from, of which Ray does not know yet that they go.
        """
        labels = dict(self.labels)
        if beside:
            labels["ray.io/node-id"] = f"!in({', '.join(sorted(beside))})"
        options: dict[str, object] = {"num_gpus": self.share, "num_cpus": self.cpus}
        if self.resources:
            options["resources"] = dict(self.resources)
        if self.gpu_type is not None:
            options["accelerator_type"] = self.gpu_type
        if labels:
            options["label_selector"] = labels
        return options

    @property
    def says(self) -> str:
        """What kind of GPU, in words after the word; empty where any will do."""
        kinds = [f"of type {self.gpu_type}"] if self.gpu_type else []
        kinds += [f"on nodes with {key}={value}" for key, value in self.labels.items()]
        kinds += [f"with {amount:g} {name} each" for name, amount in self.resources.items()]
        return f" {', '.join(kinds)}" if kinds else ""

    def _free(self, node: NodeRoom, placed: int, given_up: int) -> int:
        # What Ray says is free is a moment old: no more than what is left beside those we know of.
        return max(0, min(self.room(node, node.free), self.room(node, node.total) - placed) - given_up)


def check_room(fleet: Fleet, nodes: Sequence[NodeRoom], *, may_grow: bool) -> str:
    """What is to be said where a cluster has fewer GPUs than are asked for; nothing where it has enough.

    Args:
        fleet: what is asked for.
        nodes: what there is.
        may_grow: whether others may join.

    Raises:
        ResourceError: it has too few, and no more will join.
    """
    room = fleet.capacity(nodes)
    if room >= fleet.least_workers:
        return ""
    gpus = room // fleet.workers_per_gpu
    what = f"{fleet.least} GPU workers were asked of a cluster with {gpus} GPUs{fleet.says}"
    if may_grow:
        return what
    fix = f"pass --gpus {gpus}" if gpus else "add a node that has some, or see `ray status` for what there is"
    raise ResourceError(what, fix=fix)


def matches(label: str | None, wanted: str) -> bool:
    """Whether a node's label is what a selector wants: value, !value, in(a, b) or !in(a, b).

    Args:
        label: None where the node has none of this name.
        wanted: as Ray writes it.
    """
    if (listed := _SELECTOR.fullmatch(wanted)) is not None:
        values = {value.strip() for value in listed[2].split(",")}
        return (label in values) is not bool(listed[1])
    return label != wanted[1:] if wanted.startswith("!") else label == wanted


@dataclass(slots=True, kw_only=True)
class Steadied:
    """A wish for more or fewer that is followed once it has been uttered twice, or for some time: what Ray says of
    its nodes is a moment old, and what was asked of it a moment ago is not in it."""

    fewer_after_s: float = 60.0
    """A worker's process takes seconds to start, and a minute from a cold disk. Till then Ray has given it what it
    needs, and nobody else knows."""

    _last: int = 0
    _too_many_since: float | None = None

    def step(self, wanted: int, waiting: int, at: float, *, joined: bool = False) -> int:
        """By how many to change those that wait; called with each new look at the cluster.

        Args:
            wanted: how many should wait.
            waiting: how many do.
            at: seconds.
            joined: whether a node is there that was not before: what is free on it is no old news.
        """
        more, self._last = wanted - waiting if joined else min(wanted - waiting, self._last), wanted - waiting
        if wanted >= waiting:
            self._too_many_since = None
            return max(0, more)
        self._too_many_since = at if self._too_many_since is None else self._too_many_since
        return wanted - waiting if at - self._too_many_since >= self.fewer_after_s else 0
