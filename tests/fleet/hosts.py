"""Several machines on one: each host has a network, processes, mounts and a name of its own.

    host ─ eth0 ── port ┐
    host ─ eth0 ── port ┼─ switch       a host, too: nothing of this machine's own network is touched
    host ─ eth0 ── port ┘

A host lives as long as its first process, and that as long as a pipe from the process that made it. With the first
process the kernel ends all others of the host and takes its links and addresses away: nothing is left after an error,
a Ctrl-C or a SIGKILL, and two fleets on one machine know nothing of each other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAMS = {"ip": "iproute2", "bridge": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
"""What is needed, and the Debian package that has it."""

NETWORK = "10.203.0"
DEVICE = "eth0"
SPACES = ("--net", "--uts", "--pid", "--mount")
COMMAND_S = 60.0
"""What a command that is waited for may take."""

NOTHING: Mapping[str, str] = MappingProxyType({})

# It takes up orphans, of which nobody else would ever ask how they ended, and ends with what holds its stdin.
_FIRST = "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('up', flush=True); sys.stdin.read()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine that is up."""

    name: str
    """Which its processes are told as well."""

    address: str
    """Empty for the switch."""

    folder: Path
    """What its processes see as /run; nobody else does."""

    pid: int
    """Of its first process, as seen from here."""

    first: subprocess.Popen[bytes]

    def begin(self, *words: str, env: Mapping[str, str] = NOTHING, **how: Any) -> subprocess.Popen[Any]:
        """A command under way on this host, in the root of the repository.

        Args:
            words: program and arguments.
            env: beside the environment of this process.
            how: as for ``subprocess.Popen``.
        """
        inside = ["nsenter", "--target", str(self.pid), *SPACES, "--", "env", f"--chdir={ROOT}", *words]
        return subprocess.Popen(inside, env={**os.environ, **env}, **{"stdin": subprocess.DEVNULL, **how})

    def run(self, *words: str, env: Mapping[str, str] = NOTHING, timeout_s: float = COMMAND_S) -> str:
        """What a command says on its stdout.

        Raises:
            RuntimeError: it fails, or takes too long.
        """
        file = subprocess.PIPE
        with self.begin(*words, env=env, stdout=file, stderr=file, text=True) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise RuntimeError(f"{self.name}: {' '.join(words)} takes more than {timeout_s:g} s") from error
        if process.returncode:
            said = (err or out)[-2000:]
            raise RuntimeError(f"{self.name}: {' '.join(words)} ended with {process.returncode}: {said}")
        return str(out)

    def kill(self) -> None:
        """End every process of it at once, as when its power fails. Its link goes with it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        assert self.first.stdin is not None
        assert self.first.stdout is not None
        self.first.stdin.close()
        self.first.stdout.close()
        self.first.wait(COMMAND_S)

    @property
    def alive(self) -> bool:
        """Whether it is up."""
        return self.first.poll() is None


def why_not() -> str:
    """Why no hosts can be made here; empty where they can."""
    if sys.platform != "linux":
        return "network namespaces are a thing of Linux"
    if os.geteuid() != 0:
        return "network namespaces are root's to make"
    if missing := sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None}):
        return f"missing programs: apt-get install {' '.join(missing)}"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    tried = ["unshare", *SPACES, "--fork", "ip", "link", "add", "rmf0", "type", "bridge"]
    done = subprocess.run(tried, capture_output=True, text=True, check=False, timeout=COMMAND_S)
    return f"namespaces are not allowed here: {done.stderr.strip()}" if done.returncode else ""


def host(name: str, folder: Path, *, address: str = "") -> Host:
    """A machine, with no link yet; ``kill`` ends it.

    Args:
        name: of it, a word.
        folder: for what it writes to /run; made here.
        address: that it will have.

    Raises:
        RuntimeError: it does not come up.
    """
    for part in ("", "tmp", "home"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "tmp").chmod(0o1777)  # a database has a user of its own
    command = ["unshare", *SPACES, "--fork", "--mount-proc", sys.executable, "-S", "-E", "-c", _FIRST]
    pipe = subprocess.PIPE
    quiet = subprocess.DEVNULL  # unshare remarks on signals when its child has gone
    first = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet, start_new_session=True)
    assert first.stdout is not None
    if not first.stdout.readline():
        raise RuntimeError(f"{name} does not come up: unshare ended with {first.wait(COMMAND_S)}")
    (child,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    made = Host(name=name, address=address, folder=folder, pid=int(child), first=first)
    try:
        made.run("mount", "--bind", str(folder), "/run")
        made.run("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", "/dev/shm")
        made.run("hostname", name)
        made.run("ip", "link", "set", "lo", "up")
    except RuntimeError:
        made.kill()
        raise
    return made


@contextlib.contextmanager
def switch(folder: Path) -> Iterator[Host]:
    """What hosts are linked to."""
    made = host("switch", folder)
    try:
        made.run("ip", "link", "add", "rmf", "type", "bridge")
        made.run("ip", "link", "set", "rmf", "up")
        yield made
    finally:
        made.kill()
