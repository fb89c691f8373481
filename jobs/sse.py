"""Server-sent events, from the bytes of an answer that does not end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mapper.errors import MapperError

LONGEST_MESSAGE = 64 * 2**20
"""Bytes that a server may send without an end of the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message."""

    event: str
    data: str
    id: str


def messages(chunks: Iterable[bytes]) -> Iterator[Message]:
    """The messages, each once it is whole; what a broken connection leaves half is none.

    Raises:
        MapperError: one has no end.
    """
    event, data, number, size = "", list[str](), "", 0
    for line in _lines(chunks):
        size += len(line)
        if size > LONGEST_MESSAGE:
            raise MapperError("a message of the server has no end", fix="check the address")
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Message(event=event or "message", data="\n".join(data), id=number)
            event, data, size = "", [], 0
        elif name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            number = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines without their ends, however the bytes are cut."""
    rest: list[bytes] = []
    size = 0
    for chunk in chunks:
        *whole, left = chunk.split(b"\n")
        for line in whole:
            yield b"".join([*rest, line]).removesuffix(b"\r").decode("utf-8", errors="replace")
            rest, size = [], 0
        rest.append(left)
        size += len(left)
        if size > LONGEST_MESSAGE:
            raise MapperError("a line of the server has no end", fix="check the address")
