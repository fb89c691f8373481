"""Join a Ray cluster, or start one of this machine; with whom no token is asked for, not without being told to.

Who may talk to a Ray cluster may run anything on it. One that is started here therefore asks for a token, which only
its owner can read.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import ray

from mapper.errors import ResourceError

PROBE_S = 60.0
"""How long it may take to find out whether a cluster asks for a token."""


def connect(workers: int | None, address: str | None, *, readers: int, insecure: bool) -> bool:
    """Join a cluster or start one here; whether one was started. A Ray that this process has is used as it is.

    Args:
        workers: GPUs of one that is started here; None for those of the machine.
        address: of a running one, as Ray writes it; None to start one.
        readers: actors beside the workers, a core each.
        insecure: whether to join one of other machines that asks nobody for a token.

    Raises:
        ResourceError: the cluster does not answer, or asks nobody for a token.
    """
    if ray.is_initialized():
        return False
    if address is not None:
        _join(address, insecure=insecure)
        return False
    if os.environ.get("RAY_AUTH_MODE") != "token":
        os.environ.pop("RAY_AUTH_MODE", None)  # Ray turns to tokens by itself; told so only now, half of it would
    if "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        own_token(Path.home() / ".ray" / "auth_token")
    cores = os.cpu_count() or 1
    # Without CPUs for the actors they would stay pending on a machine with fewer cores than logical GPUs.
    ray.init(
        address="local",  # also where RAY_ADDRESS names another: without --address, this machine was meant
        num_cpus=max(cores, workers or 1) + readers + 1,
        num_gpus=workers if workers is not None else _cuda_devices() or 1,
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
    words = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    try:
        # In a process of its own: one process has one way to prove who it is.
        asked = subprocess.run(
            words, env=environment | {"RAY_AUTH_MODE": "disabled"}, capture_output=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode != 0


def first_line(error: BaseException) -> str:
    """Of what an error says; its name where it says nothing."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def _join(address: str, *, insecure: bool) -> None:
    if address.startswith("ray://"):
        raise ResourceError(
            "the driver of a run must be in its Ray cluster, not a client of it",
            fix="run resmap on a node of the cluster (`ray job submit`), with --address auto",
            address=address,
        )
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ResourceError(
            f"no Ray cluster answers: {first_line(error)}", fix="check --address", address=address
        ) from error
    head = ray.get_runtime_context().gcs_address
    if insecure or _is_loopback(head) or asks_for_a_token(head):
        return
    ray.shutdown()
    raise ResourceError(
        "this Ray cluster asks nobody for a token: whoever reaches it can run anything on it",
        fix="start it with RAY_AUTH_MODE=token, or pass --insecure-ray where nobody else reaches it",
        address=address,
    )


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cuda_devices() -> int:
    import torch

    return int(torch.cuda.device_count())
