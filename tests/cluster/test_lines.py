"""Lines between a driver and its actors: what is said arrives whole and in order, and from nobody else."""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cluster.lines import Contact, Line, Switchboard
from mapper.errors import ResourceError

LONG = bytes(range(256)) * 40_000
"""More than any socket's buffer takes at once."""


@pytest.fixture
def board() -> Iterator[Switchboard]:
    opened = Switchboard("127.0.0.1")
    yield opened
    opened.close()


def called(board: Switchboard, contact: Contact) -> Line:
    """The line of an actor that calls; the driver has to listen for it to be let in."""
    made: list[Line | ResourceError] = []

    def call() -> None:
        try:
            made.append(Line(contact))
        except ResourceError as error:
            made.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    while caller.is_alive():
        assert board.heard(0.01) == []
    caller.join()
    if isinstance(made[0], ResourceError):
        raise made[0]
    return made[0]


def hung_up_on(stranger: socket.socket) -> bool:
    """Whether the other end closes, whatever it says before that."""
    with contextlib.suppress(ConnectionError):
        while stranger.recv(4096):
            pass
    return True


def all_heard(board: Switchboard, count: int) -> list[tuple[int, bytes | None]]:
    said: list[tuple[int, bytes | None]] = []
    deadline = time.monotonic() + 30
    while len(said) < count and time.monotonic() < deadline:
        said += board.heard(1.0)
    return said


def test_what_is_said_arrives_whole_and_in_order_both_ways(board: Switchboard) -> None:
    contact = board.contact()
    line = called(board, contact)
    messages = [b"", b"one", LONG, b"two"]
    for message in messages:
        board.send(contact.number, message)
    answers: list[bytes | None] = []

    def echo() -> None:
        for _ in messages:
            answers.append(line.heard())
            line.send(answers[-1] or b"")

    echoing = threading.Thread(target=echo)
    echoing.start()
    assert all_heard(board, 4) == [(contact.number, message) for message in messages]
    echoing.join()
    assert answers == messages
    line.close()


def test_one_who_does_not_listen_holds_up_nobody(board: Switchboard) -> None:
    asleep, awake = board.contact(), board.contact()
    sleeper, other = called(board, asleep), called(board, awake)
    for _ in range(8):
        board.send(asleep.number, LONG)  # returns although nobody takes it
    board.send(awake.number, b"are you there?")
    assert other.heard() == b"are you there?"
    other.send(b"yes")
    assert all_heard(board, 1) == [(awake.number, b"yes")]
    for line in (sleeper, other):
        line.close()


def test_a_line_that_breaks_is_told_once(board: Switchboard) -> None:
    contact = board.contact()
    line = called(board, contact)
    line.send(b"farewell")
    line.close()
    assert all_heard(board, 2) == [(contact.number, b"farewell"), (contact.number, None)]
    board.send(contact.number, b"are you there?")
    assert board.heard(0.05) == []


def test_whoever_was_hung_up_on_is_heard_no_more(board: Switchboard) -> None:
    contact = board.contact()
    line = called(board, contact)
    board.hang_up(contact.number)
    line.send(b"I am back")
    assert board.heard(0.05) == []
    assert line.heard() is None
    line.close()


@pytest.mark.parametrize("wrong", ["key", "number", "hung up on", "calls twice"])
def test_who_cannot_prove_who_it_is_is_not_let_in(board: Switchboard, wrong: str) -> None:
    contact = board.contact()
    if wrong == "key":
        contact = replace(contact, key=b"guessed" * 4)
    elif wrong == "number":
        contact = replace(contact, number=contact.number + 1)
    elif wrong == "hung up on":
        board.hang_up(contact.number)
    else:
        called(board, contact).close()
        assert all_heard(board, 1) == [(contact.number, None)]
    with pytest.raises(ResourceError, match="a worker does not reach the driver") as caught:
        called(board, contact)
    assert caught.value.where["driver"] == f"{contact.host}:{contact.port}"
    assert "any port" in caught.value.fix


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x38" + bytes(56), b"\x00\x00\x00\x00"])
def test_strangers_say_what_they_like_and_nothing_is_heard(board: Switchboard, said: bytes) -> None:
    contact = board.contact()
    with socket.create_connection((contact.host, contact.port), timeout=10) as stranger:
        assert board.heard(1.0) == []
        stranger.sendall(said + pickle.dumps("nobody unpacks this"))
        assert board.heard(1.0) == []
        stranger.settimeout(10)
        assert hung_up_on(stranger)
    line = called(board, contact)
    line.send(b"hello")
    assert all_heard(board, 1) == [(contact.number, b"hello")]
    line.close()


def test_an_actor_does_not_work_for_whoever_answers_at_the_drivers_port() -> None:
    """One that does not know the key is told nothing."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def pretend() -> None:
            other, _ = door.accept()
            with other:
                other.sendall(b"\x00\x00\x00\x10" + bytes(16))
                other.recv(4096)
                other.sendall(b"\x00\x00\x00\x20" + bytes(32))

        pretending = threading.Thread(target=pretend)
        pretending.start()
        with pytest.raises(ResourceError, match="not the driver"):
            Line(Contact(host="127.0.0.1", port=door.getsockname()[1], number=1, key=b"k" * 32))
        pretending.join()


def test_a_ring_from_another_thread_ends_the_waiting(board: Switchboard) -> None:
    threading.Timer(0.05, board.ring).start()
    began = time.monotonic()
    assert board.heard(60.0) == []
    assert time.monotonic() - began < 60.0


def test_the_key_is_not_in_what_is_printed_of_a_contact(board: Switchboard) -> None:
    contact = board.contact()
    assert repr(contact.key) not in repr(contact)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ResourceError, match="cannot listen") as caught:
        Switchboard("203.0.113.7")
    assert caught.value.where == {"host": "203.0.113.7"}
