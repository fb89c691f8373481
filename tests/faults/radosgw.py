"""An S3 server that is in production elsewhere, on this machine: Ceph's radosgw on one small disk.

It checks signatures, and obeys conditions of a put; moto does neither as strictly. It takes half a gigabyte of memory
and some twenty seconds to start, so only the long runs use it, where it is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import fsspec

PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "radosgw-admin", "ceph-authtool", "monmaptool", "ceph")
MONITOR_PORT, PORT = 3300, 8903
KEY, SECRET = "a-key-for-tests", "a-secret-for-tests"
CAPABILITIES: Mapping[str, Mapping[str, str]] = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx", "mgr": "allow rw"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *", "mds": "allow *"},
    "osd.0": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
}


def installed() -> bool:
    """Whether all its programs are, and may be started."""
    return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


@contextmanager
def radosgw(*, host: str = "127.0.0.1", under: str = "/tmp") -> Iterator[str]:
    """The server's URL; the environment holds its keys meanwhile, and a bucket ``maps`` is in it.

    Args:
        host: address of this machine at which it listens.
        under: folder that its own is made in. A short name: sockets lie in it, whose paths have 107 letters at most.
    """
    settings = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
    before = {name: os.environ.get(name) for name in (*settings, "AWS_ENDPOINT_URL")}
    url = f"http://{host}:{PORT}"
    with tempfile.TemporaryDirectory(prefix="rgw-", dir=under, ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        try:
            _begin(root, uuid.uuid4(), host)
            _wait(url)
            _run(root, "radosgw-admin", "-n", "client.rgw", "user", "create", "--uid=tests", "--display-name=tests",
                 f"--access-key={KEY}", f"--secret-key={SECRET}")  # fmt: skip
            os.environ |= settings | {"AWS_ENDPOINT_URL": url}
            _make_bucket(url)
            yield url
        finally:
            _end(root)
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _begin(root: Path, cluster: uuid.UUID, host: str) -> None:
    for name in ("mon", "osd", "mgr", "run", "log", "rgw"):
        (root / name).mkdir()
    (root / "ceph.conf").write_text(_configuration(root, cluster, host))
    for number, (name, capabilities) in enumerate(CAPABILITIES.items()):
        given = [word for service, what in capabilities.items() for word in ("--cap", service, what)]
        created = ["-C"] if number == 0 else []
        _run(None, "ceph-authtool", *created, str(root / "keyring"), "--gen-key", "-n", name, *given)
    address = f"[v2:127.0.0.1:{MONITOR_PORT}]"
    _run(None, "monmaptool", "--create", "--fsid", str(cluster), "--addv", "a", address, str(root / "monmap"))
    keyring, disk = str(root / "keyring"), str(uuid.uuid4())
    _run(root, "ceph-mon", "--id", "a", "--mkfs", "--monmap", str(root / "monmap"), "--keyring", keyring)
    _run(root, "ceph-mon", "--id", "a")
    _run(root, "ceph-mgr", "--id", "x")
    _run(root, "ceph", "osd", "new", disk)
    _run(root, "ceph-osd", "--id", "0", "--mkfs", "--osd-uuid", disk)
    _run(root, "ceph-osd", "--id", "0")
    _run(root, "radosgw", "-n", "client.rgw")


def _configuration(root: Path, cluster: uuid.UUID, host: str) -> str:
    facts: dict[str, dict[str, object]] = {
        "global": {
            "fsid": cluster,
            "mon initial members": "a",
            "mon host": f"[v2:127.0.0.1:{MONITOR_PORT}/0]",
            "public addr": "127.0.0.1",
            "cluster addr": "127.0.0.1",
            "auth cluster required": "cephx",
            "auth service required": "cephx",
            "auth client required": "cephx",
            "keyring": root / "keyring",
            "osd pool default size": 1,
            "osd pool default min size": 1,
            "osd pool default pg num": 8,
            "osd crush chooseleaf type": 0,
            "mon allow pool size one": "true",
            "mon max pg per osd": 1000,
            "auth allow insecure global id reclaim": "false",
            "run dir": root / "run",
            "admin socket": root / "run/$cluster-$name.asok",
            "log file": root / "log/$name.log",
            "pid file": root / "run/$name.pid",
        },
        "mon.a": {"mon data": root / "mon"},
        "mgr": {"mgr data": root / "mgr"},
        "osd": {
            "osd data": root / "osd",
            "osd objectstore": "bluestore",
            "osd memory target": 900 << 20,
            "bluestore block size": 10 << 30,
        },
        "client.rgw": {"rgw frontends": f"beast endpoint={host}:{PORT}", "rgw data": root / "rgw"},
    }
    return "".join(
        f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in of.items()) for section, of in facts.items()
    )


def _run(root: Path | None, program: str, *words: str) -> None:
    configured = [] if root is None else ["-c", str(root / "ceph.conf")]
    subprocess.run([program, *configured, *words], check=True, capture_output=True, timeout=120)


def _wait(url: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("radosgw does not answer")


def _make_bucket(url: str) -> None:
    fsspec.filesystem("s3", endpoint_url=url).mkdir("maps")


def _end(root: Path) -> None:
    """Stop what was started, by its own process id, and wait: its disk takes some seconds."""
    pids = [int(file.read_text()) for file in (root / "run").glob("*.pid") if file.read_text().strip()]
    for pid in pids:
        _tell(pid, signal.SIGTERM)
    until = time.monotonic() + 20
    while any(_tell(pid, 0) for pid in pids) and time.monotonic() < until:
        time.sleep(0.2)
    for pid in pids:
        _tell(pid, signal.SIGKILL)


def _tell(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
