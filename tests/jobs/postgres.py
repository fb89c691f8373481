"""A PostgreSQL of this machine, for as long as a test needs it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_S = 60


@contextmanager
def postgres() -> Iterator[str]:
    """Its URL. The test is skipped where there is none, or nobody may start it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: neither in /usr/lib/postgresql nor on PATH")
    programs = Path(initdb).resolve().parent
    as_user: list[str] = []
    owner = pwd.getpwuid(os.getuid())
    if os.getuid() == 0:  # it refuses to be run by root
        names = [name.pw_name for name in pwd.getpwall()]
        if "postgres" not in names or shutil.which("runuser") is None:
            pytest.skip("PostgreSQL refuses to be run by root, and there is no user postgres to run it")
        as_user, owner = ["runuser", "-u", "postgres", "--"], pwd.getpwnam("postgres")
    folder = Path(tempfile.mkdtemp(prefix="resmap-postgres-"))  # short: the path of its socket has 107 letters at most
    os.chown(folder, owner.pw_uid, owner.pw_gid)

    def run(program: str, *words: str) -> None:
        command = [*as_user, str(programs / program), *words]
        subprocess.run(command, check=True, capture_output=True, timeout=START_S, cwd=folder)

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "postgres", "--no-sync")
        run("pg_ctl", "-D", str(folder / "data"), "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
