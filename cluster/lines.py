"""Messages between a driver and its actors, each actor on a connection of its own.

    actor ─ Line ─┐
    actor ─ Line ─┼─► Switchboard ◄─ one thread: who asks what was heard
    actor ─ Line ─┘

Ray places actors and tells when they die; a call of an actor costs a driver one to two milliseconds of CPU, though, and
a message here a twentieth of that. No message waits for another worker's: nothing here blocks on one that has stopped.

Either end proves that it knows the key the driver gave its actors before anything is unpacked, and a number is good
for one connection: whoever has been hung up on is heard no more.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
import secrets
import selectors
import socket
import struct
import threading
from dataclasses import dataclass, field

from mapper.errors import ResourceError

CONNECT_S = 30.0
"""How long an actor tries to reach its driver."""

MOST_BYTES = 256 * 1024**2
"""Of a message; a tile's task or result is some kilobytes."""

_HELLO_BYTES = 256
"""Of a message of somebody unknown, at most."""

_LENGTH = struct.Struct("!I")
_NUMBER = struct.Struct("!Q")
_NONCE = 16
_AT_ONCE = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """Where an actor finds its driver, and as whom."""

    host: str
    port: int
    number: int
    key: bytes = field(repr=False)


@dataclass(slots=True, kw_only=True)
class _Wire:
    socket: socket.socket
    nonce: bytes
    number: int | None = None
    """None until it has proved itself."""

    inbox: bytearray = field(default_factory=bytearray)
    outbox: bytearray = field(default_factory=bytearray)


class Switchboard:
    """The driver's end of all lines. To be used in one thread, but for ``ring``."""

    def __init__(self, host: str) -> None:
        """Listen.

        Args:
            host: an address of this machine that the actors reach.

        Raises:
            ResourceError: it is none of this machine's.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._door = socket.create_server((host, 0), family=family, backlog=1024)
        except OSError as error:
            raise ResourceError(f"the driver cannot listen for its workers: {error.strerror}", host=host) from error
        self._host, self._port = self._door.getsockname()[:2]
        self._key = secrets.token_bytes(32)
        self._numbers = itertools.count(1)
        self._awaited: set[int] = set()
        self._wires: dict[int, _Wire] = {}
        self._broken: list[int] = []
        self._bell, self._rope = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for entrance in (self._door, self._bell):
            entrance.setblocking(False)
            self._selector.register(entrance, selectors.EVENT_READ)
        self._rope.setblocking(False)

    def contact(self) -> Contact:
        """For one more actor."""
        number = next(self._numbers)
        self._awaited.add(number)
        return Contact(host=self._host, port=self._port, number=number, key=self._key)

    def heard(self, timeout_s: float) -> list[tuple[int, bytes | None]]:
        """What has come in, as line and message, None where the line broke; waits for the first, or for ``ring``."""
        said: list[tuple[int, bytes | None]] = []
        for key, events in self._selector.select(0 if self._broken else timeout_s):
            if key.fileobj is self._door:
                self._let_in()
            elif key.fileobj is self._bell:
                self._bell.recv(_AT_ONCE)
            else:
                if events & selectors.EVENT_READ:
                    said.extend(self._read(key.data))
                if events & selectors.EVENT_WRITE and key.data.socket.fileno() >= 0:  # not dropped just now
                    self._write(key.data)
        said.extend((number, None) for number in self._broken)
        self._broken.clear()
        return said

    def send(self, number: int, message: bytes) -> None:
        """Say something; returns at once. That a line is broken is told by ``heard``."""
        if (wire := self._wires.get(number)) is not None:
            wire.outbox += _LENGTH.pack(len(message)) + message
            self._write(wire)

    def hang_up(self, number: int) -> None:
        """Hear and say no more on a line, also if its actor calls only now."""
        self._awaited.discard(number)
        if (wire := self._wires.get(number)) is not None:
            self._drop(wire)
            self._broken.remove(number)

    def ring(self) -> None:
        """Have ``heard`` return. From any thread."""
        with contextlib.suppress(OSError):  # full of rings that nobody has heard, or closed
            self._rope.send(b"!")

    def close(self) -> None:
        """Hang up on all."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._rope.close()
        self._wires.clear()

    def _let_in(self) -> None:
        with contextlib.suppress(OSError):  # whoever knocked has gone
            new, _ = self._door.accept()
            new.setblocking(False)
            new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = _Wire(socket=new, nonce=secrets.token_bytes(_NONCE))
            self._selector.register(new, selectors.EVENT_READ, wire)
            wire.outbox += _LENGTH.pack(_NONCE) + wire.nonce
            self._write(wire)

    def _read(self, wire: _Wire) -> list[tuple[int, bytes | None]]:
        try:
            some = wire.socket.recv(_AT_ONCE)
        except BlockingIOError:
            return []
        except OSError:
            some = b""
        if not some:
            self._drop(wire)
            return []
        wire.inbox += some
        said: list[tuple[int, bytes | None]] = []
        while (message := self._unframed(wire)) is not None:
            if wire.number is None:
                self._check(wire, message)
            else:
                said.append((wire.number, message))
        return said

    def _unframed(self, wire: _Wire) -> bytes | None:
        """The next whole message, if there is one."""
        if len(wire.inbox) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(wire.inbox)
        if length > (_HELLO_BYTES if wire.number is None else MOST_BYTES):
            self._drop(wire)
            return None
        end = _LENGTH.size + length
        if len(wire.inbox) < end:
            return None
        message = bytes(wire.inbox[_LENGTH.size : end])
        del wire.inbox[:end]
        return message

    def _check(self, wire: _Wire, hello: bytes) -> None:
        """Let a wire speak if it knows the key and has a number that is awaited; else it is nobody's."""
        number, nonce = hello[: _NUMBER.size], hello[_NUMBER.size : _NUMBER.size + _NONCE]
        told = hello[_NUMBER.size + _NONCE :]
        known = hmac.compare_digest(told, _proof(self._key, b"actor", number, wire.nonce, nonce))
        if not known or (name := _NUMBER.unpack(number)[0]) not in self._awaited:
            self._drop(wire)
            return
        self._awaited.discard(name)
        wire.number = name
        self._wires[name] = wire
        self.send(name, _proof(self._key, b"driver", number, nonce))

    def _write(self, wire: _Wire) -> None:
        try:
            while wire.outbox:
                del wire.outbox[: wire.socket.send(wire.outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(wire)
            return
        waits = selectors.EVENT_READ | (selectors.EVENT_WRITE if wire.outbox else 0)
        if self._selector.get_key(wire.socket).events != waits:
            self._selector.modify(wire.socket, waits, wire)

    def _drop(self, wire: _Wire) -> None:
        wire.inbox.clear()
        wire.outbox.clear()
        if wire.socket.fileno() < 0:
            return
        self._selector.unregister(wire.socket)
        wire.socket.close()
        if wire.number is not None:
            del self._wires[wire.number]
            self._broken.append(wire.number)


class Line:
    """An actor's end. Any thread may send; one listens."""

    def __init__(self, contact: Contact) -> None:
        """Call the driver.

        Raises:
            ResourceError: it does not answer, or is not the one that gave us its key.
        """
        self._lock = threading.Lock()
        try:
            self._socket = socket.create_connection((contact.host, contact.port), timeout=CONNECT_S)
            try:
                self._introduce(contact)
            except OSError:
                self.close()
                raise
        except OSError as error:
            raise ResourceError(
                f"a worker does not reach the driver: {error}",
                fix="the nodes of a Ray cluster must reach one another at any port",
                driver=f"{contact.host}:{contact.port}",
                host=socket.gethostname(),
            ) from error

    def send(self, message: bytes) -> None:
        """Say something. To a driver that is gone it is said in vain: ``heard`` will tell."""
        with self._lock, contextlib.suppress(OSError):
            self._socket.sendall(_LENGTH.pack(len(message)) + message)

    def heard(self) -> bytes | None:
        """The next message; None once the driver has hung up."""
        try:
            return self._exactly(_LENGTH.unpack(self._exactly(_LENGTH.size))[0])
        except OSError:
            return None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _introduce(self, contact: Contact) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        theirs, ours = self.heard() or b"", secrets.token_bytes(_NONCE)
        number = _NUMBER.pack(contact.number)
        self.send(number + ours + _proof(contact.key, b"actor", number, theirs, ours))
        if not hmac.compare_digest(self.heard() or b"", _proof(contact.key, b"driver", number, ours)):
            raise ConnectionError("who answers there is not the driver, or has no use for us any more")
        self._socket.settimeout(None)

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            some = self._socket.recv(min(count - len(parts), _AT_ONCE))
            if not some:
                raise ConnectionError("the driver has hung up")
            parts += some
        return bytes(parts)


def _proof(key: bytes, *parts: bytes) -> bytes:
    """Of parts whose lengths are known to both."""
    return hmac.digest(key, b"".join(parts), "sha256")
