"""A real STAC API that changes while one looks: stac-fastapi-pgstac on a PostgreSQL with PostGIS of this machine.

It lives in an environment of its own, made once by ``python -m tests.pgstac --setup``, or named by
``RESMAP_PGSTAC_VENV``. Tests that ask for it are skipped where there is none.
"""

from __future__ import annotations

import argparse
import os
import pwd
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import sqlalchemy as sa

from tests.jobs.postgres import postgres
from tests.servers import free_port, wait_until_answers

PACKAGES = ("stac-fastapi.pgstac==7.2.0", "pypgstac[psycopg]==0.10.0", "uvicorn", "setuptools")
ANSWER_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class PgStac:
    """A STAC API to which items can be posted."""

    url: str
    """With no slash at the end."""

    def post(self, item: Mapping[str, Any]) -> None:
        """A new item; its collection is named in it."""
        self._done(requests.post(self._items(item["collection"]), json=item, timeout=ANSWER_S))

    def put(self, item: Mapping[str, Any]) -> None:
        """Another version of an item that is there."""
        address = f"{self._items(item['collection'])}/{item['id']}"
        self._done(requests.put(address, json=item, timeout=ANSWER_S))

    def delete(self, name: str, *, collection: str) -> None:
        """Without an item that is there."""
        self._done(requests.delete(f"{self._items(collection)}/{name}", timeout=ANSWER_S))

    def post_collection(self, collection: Mapping[str, Any]) -> None:
        """A new collection."""
        self._done(requests.post(f"{self.url}/collections", json=collection, timeout=ANSWER_S))

    def _items(self, collection: str) -> str:
        return f"{self.url}/collections/{collection}/items"

    def _done(self, answer: requests.Response) -> None:
        if not answer.ok:
            raise RuntimeError(f"pgstac answers {answer.status_code}: {answer.text[:500]}")


@contextmanager
def pgstac(collections: Sequence[Mapping[str, Any]] = (), *, host: str = "127.0.0.1") -> Iterator[PgStac]:
    """The API, with these collections and no items. The test is skipped where it cannot be had.

    Args:
        collections: documents of them.
        host: address of this machine at which it listens.
    """
    programs = environment() / "bin"
    if not (programs / "pypgstac").exists():
        pytest.skip(f"no pgstac in {programs.parent}: make it with `python -m tests.pgstac --setup`")
    with postgres() as database, tempfile.TemporaryDirectory() as folder:
        if not _has_postgis(database):
            pytest.skip("PostGIS is not installed beside this PostgreSQL")
        there = urlsplit(database)
        settings = os.environ | {
            "PGHOST": str(there.hostname),
            "PGPORT": str(there.port),
            "PGUSER": str(there.username),
            "PGPASSWORD": "trusted",
            "PGDATABASE": there.path.strip("/"),
            "ENABLE_TRANSACTIONS_EXTENSIONS": "TRUE",
            "PYTHONPATH": "",
        }
        log = Path(folder) / "log"
        with log.open("wb") as said:
            migrate = [str(programs / "pypgstac"), "migrate"]
            done = subprocess.run(migrate, env=settings, stdout=said, stderr=said, timeout=120, cwd=folder)
            if done.returncode:
                raise RuntimeError(f"pypgstac migrate ended with {done.returncode}: {log.read_text()[-2000:]}")
            port = free_port()
            words = ["--factory", "stac_fastapi.pgstac.app:create_app", "--host", host, "--port", str(port)]
            command = [str(programs / "uvicorn"), *words, "--log-level", "warning"]
            process = subprocess.Popen(command, env=settings, stdout=said, stderr=said, cwd=folder)
        try:
            served = PgStac(url=f"http://{host}:{port}")
            wait_until_answers(f"{served.url}/", process, log)
            for collection in collections:
                served.post_collection(collection)
            yield served
        finally:
            process.terminate()
            process.wait(ANSWER_S)


def environment() -> Path:
    """Where its programs are, or would be."""
    if named := os.environ.get("RESMAP_PGSTAC_VENV"):
        return Path(named)
    home = pwd.getpwuid(os.getuid()).pw_dir  # tests have a HOME of their own
    return Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "resmap" / "pgstac"


def _has_postgis(database: str) -> bool:
    engine = sa.create_engine(database.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        found = connection.execute(sa.text("select 1 from pg_available_extensions where name = 'postgis'"))
        return found.first() is not None


def main() -> None:
    """Make the environment: ``python -m tests.pgstac --setup``."""
    parser = argparse.ArgumentParser(prog="python -m tests.pgstac", description="a STAC API for tests")
    parser.add_argument("--setup", action="store_true", required=True, help="install it, in an environment of its own")
    parser.parse_args()
    make()


def make() -> None:
    """The environment, anew."""
    place = environment()
    venv.create(place, with_pip=True)
    subprocess.run([place / "bin" / "python", "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    print(f"pgstac is in {place}", file=sys.stderr)


if __name__ == "__main__":
    main()
