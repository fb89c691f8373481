"""Which nodes of the Ray cluster go away, and how soon: as Ray was told by whoever takes them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping

import ray
from ray._private.state import state

ASK_EVERY_S = 1.0
"""How often the head is asked."""

_log = logging.getLogger(__name__)


class Draining:
    """The nodes that drain, asked for in a thread of its own: a head that does not answer holds nobody up."""

    def __init__(
        self,
        ask: Callable[[], Mapping[str, int]] = state.get_draining_nodes,
        *,
        every_s: float = ASK_EVERY_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Begin to ask.

        Args:
            ask: node id → when its time is up, in milliseconds since 1970; 0 where nobody has said.
            every_s: between two questions.
            now: the clock, seconds since 1970.
        """
        self._ask, self._every_s, self._now = ask, every_s, now
        self._until: Mapping[str, float] = {}
        self._silent = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="draining", daemon=True)
        self._thread.start()

    def leaving(self) -> Mapping[str, float]:
        """Node id → seconds it has left, infinite where nobody has said; as the head answered last. Returns at once and
        raises nothing."""
        now = self._now()
        return {node: max(0.0, until - now) for node, until in self._until.items()}

    def close(self) -> None:
        """Ask no more. To be called before Ray is shut down."""
        self._over.set()
        self._thread.join(self._every_s)  # where the head does not answer, its last question may be under way

    def _watch(self) -> None:
        while True:
            try:
                answer = self._ask()
                self._until = {node: until_ms / 1000 if until_ms > 0 else math.inf for node, until_ms in answer.items()}
                self._silent = False
            except Exception as error:  # whatever is wrong with the head: it is asked again, and said once
                if not self._silent and not self._over.is_set():
                    _log.warning("the head does not say which nodes drain: %s: %s", type(error).__name__, error)
                self._silent = True
            if self._over.wait(self._every_s):
                return


def node_here() -> str:
    """Ray's id of the node that this process works on, in hexadecimal digits; empty outside Ray."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
