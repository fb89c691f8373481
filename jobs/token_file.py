"""The token of a server, in a file that its user alone can read."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from mapper.errors import QuestionError

SHORTEST = 16
"""Characters of a token that somebody made up: fewer can be guessed in time."""

LONGEST = 1000


def kept_token(path: Path) -> str:
    """The token in this file; a new one of 256 bits, if there is no such file yet.

    Raises:
        QuestionError: others can read it, it belongs to somebody else, holds no token, or cannot be made.
    """
    try:
        if not path.exists():
            _make(path)
        with path.open("rb") as file:
            _check(path, os.fstat(file.fileno()))
            token = file.read(LONGEST + 1).decode("utf-8", "replace").strip()
    except OSError as error:
        raise QuestionError(
            f"the token's file cannot be used: {error.strerror}", fix="name another with --token-file", file=path
        ) from error
    if not (SHORTEST <= len(token) <= LONGEST and token.isascii() and token.isprintable() and " " not in token):
        raise QuestionError(
            f"this file holds no token: one is a line of {SHORTEST} letters and digits or more",
            fix="remove it, and a good one is made",
            file=path,
        )
    return token


def _make(path: Path) -> None:
    """Put a new token there; where another process was faster, its own stands."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # 0600 from its first moment on
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        Path(draft).unlink()


def _check(path: Path, of: os.stat_result) -> None:
    if not stat.S_ISREG(of.st_mode):
        raise QuestionError("the token's file is no file", fix="name another with --token-file", file=path)
    if of.st_uid != os.getuid():
        raise QuestionError("the token's file belongs to somebody else", fix=f"chown it, or remove {path}", file=path)
    if of.st_mode & 0o077:
        raise QuestionError(
            f"others can read the token (mode {stat.S_IMODE(of.st_mode):04o})",
            fix=f"chmod 600 {path}; if somebody may have read it, remove it, and a new one is made",
            file=path,
        )
