"""Hosts and links are what the tests of fleets take them for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.hosts import ROOT, Host, host, switch, why_not
from tests.fleet.links import Link, address

pytestmark = pytest.mark.fleet

SERVER = """
import http.server, socket, sys
class Named(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = socket.gethostname().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(name)))
        self.end_headers()
        self.wfile.write(name)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer((sys.argv[1], 80), Named).serve_forever()
"""
ASK = """
import sys, urllib.request
print(urllib.request.urlopen("http://" + sys.argv[1], timeout=float(sys.argv[2])).read().decode())
"""
PATIENCE_S = 20.0


class Pair:
    """Two hosts, one of which serves its name."""

    def __init__(self, folder: Path, middle: Host) -> None:
        self.asks = host("asks", folder / "asks", address=address(2))
        self.serves = host("serves", folder / "serves", address=address(3))
        self.links = [Link(one, middle) for one in (self.asks, self.serves)]
        self.server = self.serves.begin(sys.executable, "-S", "-c", SERVER, self.serves.address)

    def answer(self, timeout_s: float = PATIENCE_S) -> str:
        """What one hears of the other; RuntimeError after so long."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                return self.asks.run(sys.executable, "-S", "-c", ASK, self.serves.address, str(timeout_s)).strip()
            except RuntimeError as error:
                if "refused" not in str(error) or time.monotonic() > until:
                    raise


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    if why := why_not():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("hosts")
    with switch(folder / "switch") as middle:
        made = Pair(folder, middle)
        try:
            yield made
        finally:
            made.asks.kill()
            made.serves.kill()
            made.server.wait(PATIENCE_S)


def test_hosts_reach_one_another_under_names_and_addresses_of_their_own(pair: Pair) -> None:
    assert pair.answer() == "serves"


def test_nothing_of_the_machines_own_network_is_there(pair: Pair) -> None:
    devices = pair.asks.run("ip", "-brief", "link").split("\n")
    assert sorted(line.split("@")[0].split(" ")[0] for line in devices if line) == ["eth0", "lo"]
    assert "10.203" not in subprocess.run(["ip", "address"], capture_output=True, text=True, check=True).stdout


def test_a_link_that_is_cut_swallows_everything_and_tells_nobody(pair: Pair) -> None:
    pair.answer()
    pair.links[1].cut()
    with pytest.raises(RuntimeError, match="timed out"):
        pair.answer(2.0)
    pair.links[1].restore()
    assert pair.answer() == "serves"


def test_a_long_link_takes_its_time_and_can_be_cut_as_well(pair: Pair) -> None:
    pair.links[1].delay(0.3)
    began = time.monotonic()
    assert pair.answer() == "serves"
    assert time.monotonic() - began > 4 * 0.3  # two round trips: to connect, and to ask
    pair.links[1].cut()
    with pytest.raises(RuntimeError, match="timed out"):
        pair.answer(2.0)
    pair.links[1].restore()
    pair.links[1].delay(0)
    assert pair.answer() == "serves"


TALK = """
import socket, sys
line = socket.create_connection((sys.argv[1], 80))
print("begun", flush=True)
sys.stdin.readline()
line.sendall(bytes(1000))
print("sent", flush=True)
sys.stdin.readline()
"""


def test_a_host_that_ends_behind_a_cut_link_with_something_to_send_can_come_back(tmp_path: Path) -> None:
    """Its network lives on for as long as it tries to send that."""
    if why := why_not():
        pytest.skip(why)
    with switch(tmp_path / "switch") as middle:
        pair = Pair(tmp_path, middle)
        try:
            pair.answer()
            pipe = subprocess.PIPE
            words = (sys.executable, "-S", "-c", TALK, pair.serves.address)
            with pair.asks.begin(*words, stdin=pipe, stdout=pipe, text=True) as talks:
                assert talks.stdin is not None
                assert talks.stdout is not None
                assert talks.stdout.readline() == "begun\n"
                pair.links[0].cut()
                talks.stdin.write("\n")
                talks.stdin.flush()
                assert talks.stdout.readline() == "sent\n"
                pair.asks.kill()
            pair.links[0].pull()
            pair.asks = host("asks", tmp_path / "again", address=address(2))
            pair.links[0] = Link(pair.asks, middle)
            assert pair.answer() == "serves"
        finally:
            pair.asks.kill()
            pair.serves.kill()
            pair.server.wait(PATIENCE_S)


def test_all_that_runs_on_a_host_ends_with_it(tmp_path: Path) -> None:
    if why := why_not():
        pytest.skip(why)
    made = host("ends", tmp_path / "ends")
    sleeper = made.begin("sh", "-c", "setsid sleep 600 & echo begun; wait", stdout=subprocess.PIPE, text=True)
    assert sleeper.stdout is not None
    assert sleeper.stdout.readline() == "begun\n"
    assert "sleep" in made.run("ps", "-e", "-o", "comm")
    made.kill()
    with sleeper:
        assert sleeper.wait(PATIENCE_S) != 0
    assert not made.alive


def test_a_host_ends_with_the_process_that_made_it_however_that_ends(tmp_path: Path) -> None:
    if why := why_not():
        pytest.skip(why)
    script = f"""
import sys, time
from pathlib import Path
from tests.fleet.hosts import host
print(host("left", Path({str(tmp_path / "left")!r})).pid, flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        os.kill(process.pid, 9)
    until = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until, "a host outlives what made it"
        time.sleep(0.05)
