"""``resmap drain``: this node of a Ray cluster goes away; what a pod's preStop hook calls."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.terminal import AsJson, print_json

WITHIN_S = 110.0
"""Of the 120 s that the shipped pods have until they are ended."""


def drain(
    within: Annotated[float, typer.Option(min=0, help="Seconds that the node will still be there.")] = WITHIN_S,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until no worker is left there; exit status 1 where the time is up first.")
    ] = False,
    node: Annotated[
        str | None, typer.Option(help="Ray's id of the node; the one on this machine where left out.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Head of the cluster, host:port; RAY_ADDRESS, or the Ray of this machine, where left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say that a node of a Ray cluster goes away: its workers take no more tiles, and give back those they cannot end.

    Saying it twice is saying it once more. Ray ends the node itself once nothing runs there.
    """
    if math.isnan(within):
        raise typer.BadParameter("nan is no number of seconds", param_hint="--within")
    from cluster.drain import drain as tell_ray

    drained = tell_ray(within_s=within, node=node, address=address, wait=wait)
    if as_json:
        print_json({**asdict(drained), "within_s": within if math.isfinite(within) else None})
    else:
        print(_told(drained.node, drained.workers, drained.left, within_s=within, waited=wait))
    raise typer.Exit(1 if wait and drained.left else 0)


def _told(node: str, workers: int, left: int, *, within_s: float, waited: bool) -> str:
    if not waited or workers == 0:
        goes = f", and goes within {within_s:g} s" if math.isfinite(within_s) else ""
        return f"node {node[:12]} drains{goes}; workers there: {workers}"
    if left:
        return f"node {node[:12]}: the time is up; workers still there: {left} of {workers}"
    return f"node {node[:12]} is drained: none of {workers} workers is left there"
