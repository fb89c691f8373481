"""What a Ray job says, as it says it: whole lines, each once, whatever becomes of the connection meanwhile."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import quote

from cluster.http import CONNECT_S
from cluster.ray_jobs import OPEN, RayHead

AGAIN_S = 1.0
"""After this a connection that broke is made again."""

BEAT_S = 20.0
"""How often a sign of life crosses the connection: less than what proxies take for silence."""


class Log:
    """Listens to a job in a thread till it ends; ``lines`` gives what came."""

    def __init__(self, head: RayHead, submission: str) -> None:
        job = f"{head.address}/api/jobs/{quote(submission, safe='')}"
        self._job, self._tail = job, f"{job}/logs/tail"
        self._headers, self._here = head.headers, head.here
        self._came: SimpleQueue[str | None] = SimpleQueue()
        self._heard = 0
        """Characters that were handed over: a connection that is made anew begins with the first again."""

        self._rest = ""
        self.over = False
        """Whether the job has ended and all that it said was given."""

        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="ray-log", daemon=True)
        self._thread.start()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more."""
        self._ready.wait(CONNECT_S)
        if self._loop is not None and self._task is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(CONNECT_S)

    def lines(self, timeout_s: float) -> list[str]:
        """Those that came, waiting so long for the first; without their ends."""
        until = time.monotonic() + timeout_s
        found: list[str] = []
        while not self.over:
            try:
                text = self._came.get(timeout=0 if found else max(0.0, until - time.monotonic()))
            except Empty:
                break
            if text is None:
                self.over = True
                found += [self._rest] if self._rest else []
                break
            *whole, self._rest = (self._rest + text).split("\n")
            found += whole
        return found

    def behind(self, whole: str) -> list[str]:
        """Of all that the job has said, the lines that never came."""
        rest, self._rest = self._rest, ""
        return (rest + whole[self._heard :]).splitlines()

    def _listen(self) -> None:
        try:
            asyncio.run(self._until_it_ends())
        except asyncio.CancelledError:
            pass
        finally:
            self._ready.set()
            self._came.put(None)

    async def _until_it_ends(self) -> None:
        import aiohttp

        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._ready.set()
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        async with aiohttp.ClientSession(
            headers=self._headers, trust_env=not self._here, timeout=limits, connector=_connector()
        ) as session:
            while True:
                broke = False
                try:
                    await self._hear(session)
                    async with session.get(self._job) as answer:
                        told = await answer.json() if answer.status == 200 else {}
                    if isinstance(told, dict) and told.get("status") not in OPEN:
                        return
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                    broke = True
                await asyncio.sleep(AGAIN_S if broke else AGAIN_S / 2)

    async def _hear(self, session: Any) -> None:
        import aiohttp

        passed = 0
        async with session.ws_connect(self._tail, heartbeat=BEAT_S, max_msg_size=0) as socket:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                text = str(message.data)
                new = text[max(0, self._heard - passed) :]
                passed += len(text)
                if new:
                    self._heard += len(new)
                    self._came.put(new)


def _connector() -> Any:
    """Trusts whom ``requests`` trusts."""
    import aiohttp
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    context = ssl.create_default_context()
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    if Path(bundle).is_dir():
        context.load_verify_locations(capath=bundle)
    else:
        context.load_verify_locations(cafile=bundle)
    return aiohttp.TCPConnector(ssl=context)
