"""The application on a real port, and how one asks it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from jobs.dashboard.app import app
from jobs.dashboard.keys import Access
from tests.jobs.dashboard.fakes import FakeControl, FakeQueries

TOKEN = "a-token-of-the-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BROWSER = {"Accept": "text/html,application/xhtml+xml"}
HERE = "http://127.0.0.1:8765"


@dataclass
class Asked:
    """An application over fakes, and a client of it that comes from nowhere on this machine."""

    access: Access
    queries: FakeQueries = field(default_factory=FakeQueries)

    def __post_init__(self) -> None:
        self.control = FakeControl(self.queries)
        self.app = app(self.queries, self.control, access=self.access)
        self.client = self.another()

    def __enter__(self) -> Asked:
        self.client.__enter__()  # one loop for all that is asked, not one each
        return self

    def __exit__(self, *_: object) -> None:
        self.client.__exit__()

    def another(self, base: str = HERE, **more: Any) -> TestClient:
        """A client that knows nothing of the others' cookies."""
        return TestClient(self.app, base_url=base, follow_redirects=False, raise_server_exceptions=False, **more)


@contextmanager
def running(pages: FastAPI, *, host: str = "127.0.0.1") -> Iterator[str]:
    """Its address; when it is left, streams end and the server stops."""
    config = uvicorn.Config(pages, log_level="error", proxy_headers=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    with socket.create_server((host, 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            pages.state.streams.stop()
            server.should_exit = True
            thread.join()


@contextmanager
def streamed(root: str, key: str, **headers: str) -> Iterator[Iterator[tuple[str, str, Any]]]:
    """Events of a run: name, id and data, as they come."""
    address = f"{root}/api/v1/runs/{key}/events"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with httpx.Client(timeout=20) as client, client.stream("GET", address, headers=names) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield _events(answer)


def _events(answer: httpx.Response) -> Iterator[tuple[str, str, Any]]:
    told: dict[str, str] = {}
    with contextlib.suppress(httpx.RemoteProtocolError):
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                told[name] = value
            else:
                if "data" in told:
                    yield told["event"], told.get("id", ""), json.loads(told["data"])
                told = {}


def other_address() -> str | None:
    """An address of this machine that is not of its loopback; None where it has none. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address
