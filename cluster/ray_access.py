"""What a Ray cluster is shown, and what it asks for: a token, certificates, and whether it asks for a token at all.

The variables are Ray's own, and so is their order. A process of Ray's reads them once; here they are looked at first,
so that what is missing is said in a sentence, at once, and with the exit status of credentials.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from mapper.errors import CredentialsError

PROBE_S = 10.0
"""How long a head may take to say whether it asks for a token."""

Manner: TypeAlias = Literal["open", "token", "silent"]
"""A head that takes anybody, one that wants a token, and one that does not answer."""

NO_TOKEN = "set RAY_AUTH_TOKEN, or name the file that has it in RAY_AUTH_TOKEN_PATH, or put it into ~/.ray/auth_token"
"""Where a token may be put."""

_TLS_FILES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """PEM of a process of the cluster: Ray's TLS has both sides show one."""

    chain: bytes
    key: bytes
    authority: bytes


def token() -> str | None:
    """The user's: ``RAY_AUTH_TOKEN``, the file that ``RAY_AUTH_TOKEN_PATH`` names, or ``~/.ray/auth_token``.

    Raises:
        CredentialsError: the file that was named cannot be read, or is empty.
    """
    said = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if said:
        return said
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not named:
        return _words_in(Path.home() / ".ray" / "auth_token") or None
    found = _words_in(Path(named).expanduser())
    if not found:
        raise CredentialsError(
            "the file that RAY_AUTH_TOKEN_PATH names cannot be read, or is empty",
            fix="put the token of the cluster there, or unset RAY_AUTH_TOKEN_PATH",
            file=named,
        )
    return found


def certificates() -> Certificates | None:
    """Those that ``RAY_USE_TLS`` and its files name; None where TLS is off.

    Raises:
        CredentialsError: half of it is set, or a file cannot be read.
    """
    named = {name: os.environ.get(name, "") for name in _TLS_FILES}
    if os.environ.get("RAY_USE_TLS", "").lower() not in ("1", "true"):
        if any(named.values()):
            raise CredentialsError(
                f"{', '.join(name for name in named if named[name])} set, and RAY_USE_TLS not: Ray would speak plainly",
                fix="set RAY_USE_TLS=1 on every node and here, or unset them",
            )
        return None
    lacking = [name for name, file in named.items() if not file]
    if lacking:
        raise CredentialsError(
            f"RAY_USE_TLS is set, and {' and '.join(lacking)} not",
            fix="name this machine's certificate, its key and the authority's certificate, as on the cluster's nodes",
        )
    read: dict[str, bytes] = {}
    for name, file in named.items():
        try:
            read[name] = Path(file).read_bytes()
        except OSError as error:
            raise CredentialsError(
                f"the file that {name} names cannot be read: {error.strerror}", fix="put it there", file=file
            ) from error
    return Certificates(chain=read[_TLS_FILES[0]], key=read[_TLS_FILES[1]], authority=read[_TLS_FILES[2]])


def manner_of(address: str, shown: str | None = None, *, timeout_s: float = PROBE_S) -> Manner:
    """How the head at an address takes somebody with this token, or with none.

    Args:
        address: host and port of its GCS.
        shown: a token.
        timeout_s: how long it may take.
    """
    # As a stranger to Ray: a process of Ray's has one way to prove who it is, and no second.
    import grpc  # type: ignore[import-untyped]  # ships no types

    tls = certificates()
    if tls is None:
        channel = grpc.insecure_channel(address)
    else:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(tls.authority, tls.key, tls.chain))
    with channel:
        said = [("authorization", f"Bearer {shown}")] if shown else []
        try:
            channel.unary_unary(_ALIVE)(b"", metadata=said, timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            return "token" if error.code() is grpc.StatusCode.UNAUTHENTICATED else "silent"
    return "open"


def show_token() -> None:
    """Have this process prove itself to Ray by its token from now on."""
    import ray._raylet as inside

    os.environ["RAY_AUTH_MODE"] = "token"
    # Compiled, and without types: Ray has read its settings when it was imported.
    inside.Config.initialize("")  # type: ignore[attr-defined]
    inside.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


def _words_in(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
