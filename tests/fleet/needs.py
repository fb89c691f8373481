"""What a fleet needs of a machine: ``python -m tests.fleet.needs [--setup]``."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests import pgstac
from tests.faults.radosgw import PROGRAMS as CEPH
from tests.fleet import hosts

PACKAGES = {**hosts.PROGRAMS, **dict.fromkeys(CEPH, "radosgw ceph-mon ceph-mgr ceph-osd ceph-common")}
"""Program → the packages of Debian 12 that bring it."""

POSTGIS = "postgresql-15 postgresql-15-postgis-3"


def missing() -> str:
    """Why there can be no fleet here, and what to do about it; empty where there can."""
    if packages := wanted():
        return f"programs are missing: apt-get install --no-install-recommends {' '.join(packages)}"
    if not _has_pgstac():
        return "there is no pgstac: make stac-api"
    return hosts.why_not()


def wanted() -> list[str]:
    """Packages that are not installed."""
    lacking = {name for program, names in PACKAGES.items() if shutil.which(program) is None for name in names.split()}
    if not any(Path("/usr/share/postgresql").glob("*/extension/postgis.control")):
        lacking |= set(POSTGIS.split())
    return sorted(lacking)


def install() -> None:
    """Bring what is missing.

    Raises:
        subprocess.CalledProcessError: apt-get or pip fails.
    """
    if packages := wanted():
        silent = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=silent)
        words = ["install", "--yes", "-qq", "--no-install-recommends", *packages]
        subprocess.run(["apt-get", *words], check=True, env=silent)
    if not _has_pgstac():
        pgstac.make()


def main() -> int:
    """Say what is missing, if anything. With ``--setup``, bring it first: 1 where that cannot be done. Namespaces that
    are not allowed are no failure: the tests say so, and are skipped."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.needs", description=main.__doc__)
    parser.add_argument("--setup", action="store_true", help="install what is missing with apt-get, where this is root")
    asked = parser.parse_args()
    if asked.setup and os.geteuid() == 0 and shutil.which("apt-get"):
        try:
            install()
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(map(str, error.cmd))} ended with {error.returncode}", file=sys.stderr)
            return 1
    if why := missing():
        print(f"There will be no fleet here: {why}", file=sys.stderr)
    return 0


def _has_pgstac() -> bool:
    return (pgstac.environment() / "bin" / "pypgstac").exists()


if __name__ == "__main__":
    sys.exit(main())
