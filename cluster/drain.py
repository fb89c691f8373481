"""Tell Ray that a node goes away, and wait until none of our workers is left there: what ``resmap drain`` does.

Ray then places nothing more on it, and says so to whoever asks (``cluster/draining.py``). Once nothing runs there it
ends the node by itself, as it does with any that drains and is idle. It ends nothing because the time is up: whoever
takes the machine does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray._private import services
from ray._raylet import GcsClient, GcsClientOptions, GlobalStateAccessor  # type: ignore[attr-defined]  # they are there
from ray.core.generated import autoscaler_pb2, gcs_pb2
from ray.exceptions import RayError

from cluster.ray_access import NO_TOKEN, manner_of, show_token, token
from cluster.ray_cluster import first_line
from mapper.errors import CredentialsError, ResourceError, told

ANSWERS_S = 10.0
"""How long the head may take to answer."""

LOOK_EVERY_S = 0.5
LONGEST_S = 1e9
"""A node that stays longer than this has no time to be over by."""

OURS = "GpuActor"
"""The class of actors that hold tiles."""

_autoscaler: Any = autoscaler_pb2
_gcs: Any = gcs_pb2
"""Modules that protobuf makes when they are imported: no types."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What came of it."""

    node: str
    within_s: float
    workers: int
    """Of ours that were there."""

    left: int
    """Of them, those that still are."""


def drain(
    *,
    within_s: float,
    node: str | None = None,
    address: str | None = None,
    wait: bool = False,
    reason: str = "resmap drain",
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Drained:
    """Tell Ray that a node goes away in so many seconds; telling it twice is telling it once more.

    Args:
        within_s: how long the node will still be there; infinite where nobody knows.
        node: Ray's id of it, in hexadecimal digits; None for the one on this machine.
        address: host and port of the head; None for the one of RAY_ADDRESS, or of the Ray on this machine.
        wait: until none of our workers is left there, or the time is up.
        reason: told to whoever asks Ray what became of the node.
        now: the clock.
        sleep: waits.

    Raises:
        ResourceError: no Ray is here, or it does not answer, or has no such node.
        CredentialsError: it asks for another token.
    """
    until = now() + within_s
    head = _Head(_admitted(_address(address)))
    node = head.node_here() if node is None else head.known(node)
    workers = head.workers(node)
    head.drain(node, within_s, reason)
    left = workers
    while wait and left and now() < until:
        sleep(max(0.0, min(LOOK_EVERY_S, until - now())))
        with contextlib.suppress(ResourceError):  # the head is away: it may be back in time
            left = head.workers(node)
    return Drained(node=node, within_s=within_s, workers=workers, left=left)


def drain_here(within_s: float, reason: str) -> None:
    """Have Ray place nothing more on the node of this process. Raises nothing, and does nothing outside Ray."""
    if not ray.is_initialized():
        return
    here = ray.get_runtime_context()
    try:
        _Head(here.gcs_address).drain(here.get_node_id(), within_s, reason)
    except Exception as error:  # whatever is wrong with the head: the driver has been told
        _log.warning("Ray was not told that this node leaves: %s: %s", type(error).__name__, error)


class _Head:
    """Whom to ask and to tell. No driver: one that is connected keeps its node from being idle."""

    def __init__(self, address: str) -> None:
        self._address = address
        options = GcsClientOptions.create(address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
        try:
            self._client: Any = GcsClient(address=address)
        except RayError as error:
            raise self._silent(error) from error
        self._state: Any = GlobalStateAccessor(options)
        if not self._state.connect():
            raise self._silent(RuntimeError("it lets nobody in"))

    def node_here(self) -> str:
        """The one node of this cluster on this machine."""
        here = sorted(self._alive().intersection(services.find_node_ids()))  # type: ignore[no-untyped-call]  # Ray's own
        if len(here) == 1:
            return here[0]
        raise ResourceError(
            "several nodes of this Ray cluster are on this machine"
            if here
            else "no node of this Ray cluster is on this machine",
            fix="name one with --node; `ray list nodes` has their ids",
            address=self._address,
            nodes=", ".join(here),
        )

    def known(self, node: str) -> str:
        """A node that is there. Ray itself takes any for one."""
        if re.fullmatch("[0-9a-f]+", node) and node in self._alive():
            return node
        raise ResourceError(
            f"the Ray cluster has no node {told(node, 80)}",
            fix="`ray list nodes` has their ids; leave --node out for the one on this machine",
            address=self._address,
        )

    def drain(self, node: str, within_s: float, reason: str) -> None:
        """Say that it goes; Ray takes the last word for it."""
        why = _autoscaler.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        until_ms = 0 if within_s > LONGEST_S else int((time.time() + within_s) * 1000)
        try:
            taken, said = self._client.drain_node(node, why, reason, until_ms, timeout=ANSWERS_S)
        except RayError as error:
            raise self._silent(error) from error
        if not taken:
            raise ResourceError(f"Ray does not let the node go: {told(said, 300)}", node=node)

    def workers(self, node: str) -> int:
        """Ours that are there, and may hold tiles; none where the node is gone."""
        if node not in self._alive():
            return 0
        try:
            rows = self._state.get_actor_table(None, "ALIVE")
        except RayError as error:
            raise self._silent(error) from error
        actors = [_gcs.ActorTableData.FromString(row) for row in rows]
        return sum(actor.class_name == OURS and actor.address.node_id.hex() == node for actor in actors)

    def _alive(self) -> set[str]:
        alive = _gcs.GcsNodeInfo.GcsNodeState.ALIVE
        try:
            return {node.hex() for node in self._client.get_all_node_info(timeout=ANSWERS_S, state_filter=alive)}
        except RayError as error:
            raise self._silent(error) from error

    def _silent(self, error: Exception) -> ResourceError:
        return ResourceError(
            f"the head of the Ray cluster does not answer: {first_line(error)}",
            fix="try again",
            address=self._address,
        )


def _address(said: str | None) -> str:
    """Of the head: as it was said, by RAY_ADDRESS, or as the Ray on this machine has it."""
    if said in (None, "auto"):
        said = os.environ.get("RAY_ADDRESS") or None
    try:
        address = str(services.canonicalize_bootstrap_address_or_die(cast("str", None if said == "auto" else said)))
    except Exception as error:  # Ray's own words for it are of many kinds
        raise ResourceError(
            "no Ray is on this machine, or several are" if said in (None, "auto") else "this is no address of a head",
            fix="name the head: --address host:6379, or RAY_ADDRESS",
            address=said or "",
        ) from error
    if not re.fullmatch(r"[^/]+:\d+", address):
        raise ResourceError(
            "this is no address of a head", fix="name it as --address host:6379, or in RAY_ADDRESS", address=address
        )
    return address


def _admitted(address: str) -> str:
    """A head that answers us, and whose token we have."""
    manner = manner_of(address)
    if manner == "silent":
        raise ResourceError("no Ray cluster answers", fix="check --address, or RAY_ADDRESS", address=address)
    if manner == "token":
        known = token()
        if known is None:
            raise CredentialsError("this Ray cluster asks for a token, and there is none here", fix=NO_TOKEN)
        if manner_of(address, known) == "token":
            raise CredentialsError("the token here is not the one of this Ray cluster", fix=NO_TOKEN, address=address)
        show_token()
    return address
