"""Join a Ray cluster, or start one of this machine; with whom no token is asked for, not without being told to.

Who may talk to a Ray cluster may run anything on it. One that is started here therefore asks for a token, which only
its owner can read.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import secrets
import signal
import tempfile
from collections.abc import Collection, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.http import is_loopback
from cluster.ray_access import NO_TOKEN, certificates, manner_of, show_token, token
from mapper.errors import CredentialsError, MapperError, ResourceError

NODES_SAY_S = 60.0
"""How long the nodes of a cluster may take to say which resmap they have."""

_SIDES = re.compile(r"Ray: (\S+)\s+Python: (\S+).*?Ray: (\S+)\s+Python: (\S+)", re.DOTALL)


def connect(workers: int | None, address: str | None, *, readers: int, insecure: bool) -> bool:
    """Join a cluster or start one here; whether one was started. A Ray that this process has is used as it is.

    Args:
        workers: GPUs of one that is started here; None for those of the machine.
        address: of a running one, as Ray writes it; None to start one.
        readers: actors beside the workers, a core each.
        insecure: whether to join one of other machines that asks nobody for a token.

    Raises:
        ResourceError: the cluster does not answer, is of another version, or asks nobody for a token.
        CredentialsError: it asks for a token that we do not have, or TLS is half set up.
    """
    if ray.is_initialized():
        return False
    if address is not None:
        _join(address, insecure=insecure)
        return False
    certificates()
    if os.environ.get("RAY_AUTH_MODE") != "token":
        os.environ.pop("RAY_AUTH_MODE", None)  # Ray turns to tokens by itself; told so only now, half of it would
    if "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        own_token(Path.home() / ".ray" / "auth_token")
    cores, gpus = os.cpu_count() or 1, workers if workers is not None else _cuda_devices() or 1
    # Without CPUs for the actors they would stay pending on a machine with fewer cores than logical GPUs.
    with _sigterm_kept():
        ray.init(
            address="local",  # also where RAY_ADDRESS names another: without --address, this machine was meant
            num_cpus=max(cores, gpus) + readers + 1,
            num_gpus=gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    return True


def own_token(file: Path) -> None:
    """Have a token in a file that only its owner can read: the one that is there, or a new one. Ray's own code leaves
    it readable to all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(mode="w", dir=file.parent) as draft:  # for its owner alone from the start
        draft.write(secrets.token_hex(32))
        draft.flush()
        with contextlib.suppress(FileExistsError):
            os.link(draft.name, file)  # whole or not at all: others may look for it now
    file.chmod(0o600)


def asks_for_a_token(address: str) -> bool:
    """Whether a cluster refuses who has none. One that does not say so in time is taken not to.

    Args:
        address: host and port of its head.
    """
    return manner_of(address) == "token"


def check_nodes(nodes: Collection[str] | None = None, *, timeout_s: float = NODES_SAY_S) -> None:
    """Have nodes say which resmap they have: a tile that another version maps may be another tile.

    A node that does not answer in time is passed over: it may be leaving, and its actors will say what is wrong.

    Args:
        nodes: Ray's ids of them, in hex; None asks all that live.
        timeout_s: how long they may take, all together.

    Raises:
        ResourceError: a node has another resmap than this process, or none.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    known = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own
    living = {node["NodeID"]: str(node["NodeManagerHostname"]) for node in known if node["Alive"]}
    asked = {
        _asking()
        .options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote(): host
        for node, host in living.items()
        if nodes is None or node in nodes
    }
    said, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s) if asked else ([], [])
    ours = version("resmap")
    others: dict[str, str | None] = {}
    for answer in said:
        with contextlib.suppress(RayError):  # the node is gone, and with it what it has
            found = ray.get(answer)
            if found != ours:
                others[asked[answer]] = found
    if others:
        host, theirs = sorted(others.items())[0]
        more = f", and {len(others) - 1} more nodes differ" if len(others) > 1 else ""
        has = f"resmap {theirs}" if theirs else "no resmap"
        raise ResourceError(
            f"node {host} has {has}, and the driver of this run resmap {ours}{more}",
            fix="give every node the same: one image for all, or pip install in each",
        )


def first_line(error: BaseException) -> str:
    """Of what an error says; its name where it says nothing."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def _join(address: str, *, insecure: bool) -> None:
    if address.startswith(("ray://", "http://", "https://")):
        raise ResourceError(
            "the driver of a run must be in its Ray cluster, not a client of it",
            fix="`resmap run --address` makes it a Ray job there; so does `resmap submit`",
            address=address,
        )
    certificates()
    head = _head_of(address)
    if head is not None:
        _admit(head, insecure=insecure)
    try:
        with _sigterm_kept():
            ray.init(address=head or address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _told(error, address) from error
    if head is None:
        try:
            _admit(ray.get_runtime_context().gcs_address, insecure=insecure)
        except MapperError:
            ray.shutdown()
            raise


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Have whoever listens to SIGTERM here hear it after Ray has begun too. Ray's own handler, put before ours from
    below Python, writes a stack trace and aborts the process three seconds later, drained or not."""
    if not callable(signal.getsignal(signal.SIGTERM)):
        yield
        return
    system = ctypes.CDLL(None)
    ours = ctypes.create_string_buffer(1024)  # a struct sigaction, larger on no system: only put back as it was found
    system.sigaction(signal.SIGTERM, None, ours)
    try:
        yield
    finally:
        system.sigaction(signal.SIGTERM, ours, None)


def _head_of(address: str) -> str | None:
    """Host and port of a cluster's head; None where only Ray can tell.

    Raises:
        ResourceError: it runs none here.
    """
    if address != "auto":
        return address if re.fullmatch(r".+:\d+", address) else None
    from ray._private.services import canonicalize_bootstrap_address_or_die

    try:
        return str(canonicalize_bootstrap_address_or_die(address))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ResourceError(
            "no Ray runs on this machine", fix="start it, or name its head: --address host:6379", address=address
        ) from error


def _admit(head: str, *, insecure: bool) -> None:
    """Refuse a head that we should not join, and prepare for what it asks.

    Raises:
        ResourceError: it does not answer, or asks nobody for a token.
        CredentialsError: it wants a token that we do not have.
    """
    manner = manner_of(head)
    if manner == "silent":
        raise ResourceError(
            "no Ray cluster answers",
            fix="check --address; where its nodes speak TLS, set RAY_USE_TLS=1 and its files here as there",
            address=head,
        )
    if manner == "open":
        if insecure or is_loopback(head.rpartition(":")[0]):
            return
        raise ResourceError(
            "this Ray cluster asks nobody for a token: whoever reaches it can run anything on it",
            fix="start it with RAY_AUTH_MODE=token, or pass --insecure-ray where nobody else reaches it",
            address=head,
        )
    known = token()
    if known is None:
        raise CredentialsError("this Ray cluster asks for a token, and there is none here", fix=NO_TOKEN, address=head)
    if manner_of(head, known) == "token":
        raise CredentialsError("the token here is not the one of this Ray cluster", fix=NO_TOKEN, address=head)
    show_token()


def _told(error: Exception, address: str) -> ResourceError:
    """Why Ray would not let us in, in a sentence."""
    sides = _SIDES.search(str(error)) if "Version mismatch" in str(error) else None
    if sides is not None:
        theirs, ours = _side(sides[1], sides[2]), _side(sides[3], sides[4])
        return ResourceError(
            f"the cluster has {theirs}, and this process {ours}: Ray lets only the same work together",
            fix="install the cluster's versions here, or have the driver run there: --address http://HEAD:8265",
            address=address,
        )
    if "node_ip_address" in str(error) or "raylet" in str(error).lower():
        return ResourceError(
            f"this machine is no node of that Ray cluster: {first_line(error)}",
            fix="run resmap on one of its nodes, or have the driver run there: --address http://HEAD:8265",
            address=address,
        )
    return ResourceError(f"no Ray cluster answers: {first_line(error)}", fix="check --address", address=address)


def _side(of_ray: str, of_python: str) -> str:
    return f"Ray {of_ray} and Python {of_python}"


def _asking() -> Any:
    """A task that says which resmap a node has; sent by value, since a node may have none."""

    def found() -> str | None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("resmap")
        except PackageNotFoundError:
            return None

    return ray.remote(found)


def _cuda_devices() -> int:
    import torch

    return int(torch.cuda.device_count())
