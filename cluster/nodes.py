"""What machines a Ray cluster has at present, which of them go and which are unfit: asked in threads of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

import ray
from ray._private.state import available_resources_per_node

from cluster.draining import Draining
from cluster.placement import NodeRoom
from cluster.ray_cluster import check_nodes
from mapper.errors import MapperError

ASKED_EVERY_S = 0.5
"""How often Ray is asked. A cluster of many nodes, of which it takes longer to tell, is asked less often."""

SHARE_OF_TIME = 0.05
"""Of the driver's time, what asking may take."""

_log = logging.getLogger(__name__)


class Nodes(Protocol):
    """Who knows the cluster. All of it returns at once."""

    def now(self) -> Sequence[NodeRoom]:
        """Its nodes; the same object until it has been asked again."""

    def leaving(self) -> Mapping[str, float]:
        """Node id → seconds it has left, infinite where nobody has said."""

    def unfit(self) -> Mapping[str, str]:
        """Node id → why no worker may be there."""

    def close(self) -> None:
        """Ask no more."""


def nodes_of_ray() -> tuple[NodeRoom, ...]:
    """The nodes that live, of the cluster this process is connected to."""
    free = available_resources_per_node()  # type: ignore[no-untyped-call]  # Ray's own
    return tuple(
        NodeRoom(
            node=node["NodeID"],
            host=node["NodeManagerHostname"],
            total=node["Resources"],
            free=free.get(node["NodeID"], {}),
            labels=node.get("Labels", {}),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own
        if node["Alive"]
    )


class RayNodes:
    """The cluster that this process is connected to. A head that does not answer holds nobody up."""

    def __init__(
        self,
        *,
        check: Callable[[Collection[str]], None] | None = check_nodes,
        ask: Callable[[], tuple[NodeRoom, ...]] = nodes_of_ray,
        every_s: float = ASKED_EVERY_S,
    ) -> None:
        """Ask once, and then again and again in a thread.

        Args:
            check: raises where nodes, by their ids, have another resmap than this process; None takes all as they are.
            ask: whom to ask.
            every_s: between two questions.

        Raises:
            ResourceError: one of the nodes has another resmap. One that joins later and has is unfit.
        """
        self._check, self._ask, self._every_s = check, ask, every_s
        self._now = ask()
        self._known = {node.node for node in self._now}
        self._unfit: dict[str, str] = {}
        if check is not None:
            check(self._known)
        self._draining = Draining()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nodes", daemon=True)
        self._thread.start()

    def now(self) -> Sequence[NodeRoom]:
        """As of ``Nodes``."""
        return self._now

    def leaving(self) -> Mapping[str, float]:
        """As of ``Nodes``."""
        return self._draining.leaving()

    def unfit(self) -> Mapping[str, str]:
        """As of ``Nodes``."""
        return self._unfit.copy()

    def close(self) -> None:
        """As of ``Nodes``. To be called before Ray is shut down."""
        self._over.set()
        self._draining.close()
        self._thread.join(2 * self._every_s)

    def _watch(self) -> None:
        wait_s, silent = self._every_s, False
        while not self._over.wait(wait_s):
            began = time.monotonic()
            try:
                now = self._ask()
                silent = False
                self._look_at({node.node for node in now} - self._known)
                self._now = now
            except Exception as error:  # whatever is wrong with the head: it is asked again, and said once
                if not silent:
                    _log.warning("the head does not say which nodes there are: %s: %s", type(error).__name__, error)
                silent = True
            wait_s = max(self._every_s, (time.monotonic() - began) / SHARE_OF_TIME)

    def _look_at(self, joined: Collection[str]) -> None:
        self._known |= set(joined)
        if joined and self._check is not None:
            threading.Thread(target=self._examine, args=(joined, self._check), name="examine", daemon=True).start()

    def _examine(self, joined: Iterable[str], check: Callable[[Collection[str]], None]) -> None:
        for node in joined:
            try:
                check({node})
            except MapperError as error:
                self._unfit[node] = str(error)
            except Exception as error:  # it is gone already, or Ray is being shut down
                _log.info("a node that joined was not asked for its version: %s", error)
