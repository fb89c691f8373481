"""The cable between a host and its switch: it can be cut without a word, restored, and made long."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from tests.fleet.hosts import COMMAND_S, DEVICE, NETWORK, Host

FORWARDING, DISABLED = "3", "0"
"""States of a port of a bridge. One that is disabled drops what comes, and no end of the cable is told."""


class Link:
    """One host's."""

    def __init__(self, host: Host, switch: Host) -> None:
        self._host, self._switch = host, switch
        number = int(host.address.rpartition(".")[2])
        self._port, self._mac = f"port{number}", f"02:00:00:00:00:{number:02x}"
        self._wire: subprocess.Popen[str] | None = None
        self.whole = True
        """Whether anything passes."""

        self._lay_short()

    def cut(self) -> None:
        """Lose whatever is sent, both ways, and tell nobody: what a firewall or a broken route does."""
        self._switch.run("bridge", "link", "set", "dev", self._port, "state", DISABLED)
        self.whole = False

    def restore(self) -> None:
        """Let everything pass again."""
        self._switch.run("bridge", "link", "set", "dev", self._port, "state", FORWARDING)
        self.whole = True

    def delay(self, seconds: float) -> None:
        """Let everything take so long, each way. Connections outlast it: the host keeps its addresses."""
        self._take_away()
        if seconds:
            self._lay_long(seconds)
        else:
            self._lay_short()

    def pull(self) -> None:
        """Take the cable of a host away that has ended. What its network still had to send keeps that network for
        minutes where nobody answers, and with it this end."""
        with contextlib.suppress(RuntimeError):  # it went with the host
            self._take_away()

    def _lay_short(self) -> None:
        host, switch = str(self._host.pid), str(self._switch.pid)
        theirs = ("name", DEVICE, "netns", host, "address", self._mac)
        _ip("link", "add", *theirs, "type", "veth", "peer", "name", self._port, "netns", switch)
        self._connect()

    def _lay_long(self, seconds: float) -> None:
        far = f"far{self._port}"
        words = [sys.executable, "-m", "tests.fleet.wire", self._port, far, str(seconds)]
        self._wire = self._switch.begin(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._wire.stdout is not None
        if not self._wire.stdout.readline():
            raise RuntimeError(f"{self._host.name}: its long link ended with {self._wire.wait(10)}")
        self._switch.run("ip", "link", "set", far, "address", self._mac)
        _ip("link", "set", far, "netns", str(self._host.pid), "name", DEVICE, network_of=self._switch)
        self._connect()

    def _connect(self) -> None:
        self._switch.run("ip", "link", "set", self._port, "master", "rmf")
        self._switch.run("ip", "link", "set", self._port, "up")
        self._host.run("ip", "address", "add", f"{self._host.address}/24", "dev", DEVICE)
        self._host.run("ip", "link", "set", DEVICE, "up")

    def _take_away(self) -> None:
        if self._wire is None:
            self._switch.run("ip", "link", "del", self._port)
            return
        assert self._wire.stdin is not None
        assert self._wire.stdout is not None
        self._wire.stdin.close()
        self._wire.stdout.close()
        self._wire.wait(10)
        self._wire = None


def address(number: int) -> str:
    """Of a host."""
    return f"{NETWORK}.{number}"


def _ip(*words: str, network_of: Host | None = None) -> None:
    """``ip`` with words that name hosts by their processes: those of a host know no other's."""
    there = [] if network_of is None else ["nsenter", "--target", str(network_of.pid), "--net", "--"]
    subprocess.run([*there, "ip", *words], check=True, capture_output=True, timeout=COMMAND_S)
