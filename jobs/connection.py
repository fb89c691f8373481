"""One server over HTTP: who we are, what it answers, and why it refuses, as values and errors of ours."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import requests
from pydantic import TypeAdapter, ValidationError

from cluster.http import CONNECT_S, SILENT_S, Bearer, distrusted, host_of, is_loopback
from jobs.dashboard.peers import same_user
from jobs.settings import token as token_set
from jobs.settings import token_file
from jobs.sse import Message, messages
from mapper.errors import AwayError, BusyError, CredentialsError, MapperError, QuestionError, SpecError, told

DEFAULT_ADDRESS = "http://127.0.0.1:8765"

LONGEST_PAUSE_S = 8.0
"""A server that wants to be left alone for longer is told of, not waited for."""

_ASKED_AGAIN = 3
_LOOKS, _LOOK_S = 20, 0.01
_ERRORS: dict[int, type[MapperError]] = {
    401: CredentialsError,
    403: CredentialsError,
    404: QuestionError,
    409: BusyError,
    413: SpecError,
    422: SpecError,
}

_NEEDS_TOKEN = "set RESMAP_TOKEN to the token of the server, or name the file that has it: --token-file"

Kind = TypeVar("Kind")


class Connection:
    """Asks a server. Threads must not share one."""

    def __init__(self, address: str, token: str | None, *, insecure: bool, unknown: bool = False) -> None:
        """As ``Client``; one that is ``unknown`` is shown no token."""
        self.address = address.rstrip("/")
        what = "this is no server's address"
        fix = f"write it as https://host, or {DEFAULT_ADDRESS}"
        self.here = is_loopback(host_of(self.address, ("http", "https"), what=what, fix=fix))
        """Whether the server is on this machine."""

        known = None if unknown else token or token_set() or (_own_token(self.address) if self.here else None)
        if known and not self.here and self.address.startswith("http:") and not insecure:
            raise CredentialsError(
                "the token would cross the network in plain text",
                fix="use https://, or a tunnel to this machine; or say --insecure",
                address=self.address,
            )
        self._session = requests.Session()
        self._session.trust_env = not self.here  # no proxy stands between us and ourselves
        self._session.auth = Bearer(known)
        self._session.headers["Accept"] = "application/json"

    def close(self) -> None:
        """Let go of its connections."""
        self._session.close()

    def stream(self, path: str, last: int | None) -> Iterator[Message]:
        """The messages of a stream, from behind number ``last``; one named ``over`` where there are no more.

        Raises:
            AwayError, requests.RequestException: it broke; it can be taken up again.
            MapperError: as ``ask``.
        """
        headers = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": str(last)})
        with self._request("GET", path, stream=True, headers=headers) as response:
            if response.status_code == 204:
                yield Message(event="over", data="", id="")
                return
            self._check(response, "text/event-stream")
            yield from messages(response.iter_content(None))

    def ask(
        self,
        kind: type[Kind],
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        params: dict[str, str] | None = None,
    ) -> Kind:
        """What the API answers.

        Raises:
            AwayError: the server does not answer, or not now.
            CredentialsError, QuestionError, SpecError, BusyError: it refuses.
            MapperError: what answers there is no resmap server, or one of another version.
        """
        for left in reversed(range(_ASKED_AGAIN)):
            with self._request(method, path, json=body, params=params) as response:
                pause = _pause(response)
                if pause is not None and left:
                    time.sleep(pause)
                    continue
                self._check(response, "application/json")
                return self.value(kind, response.content)
        raise AssertionError("the last answer is always looked at")

    def get(self, path: str) -> requests.Response:
        """What lies at a path of any server.

        Raises:
            AwayError: the server does not answer.
            MapperError: this machine does not trust its certificate.
        """
        return self._asked("GET", f"{self.address}/{path}", headers={"Accept": "*/*"})

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        return self._asked(method, f"{self.address}/api/v1/{path}", **options)

    def _asked(self, method: str, url: str, **options: Any) -> requests.Response:
        try:
            return self._session.request(
                method,
                url,
                timeout=(CONNECT_S, SILENT_S),
                allow_redirects=False,
                **options,
            )
        except requests.exceptions.SSLError as error:
            raise distrusted(self.address) from error
        except requests.RequestException as error:
            raise self.away(error) from error

    def _check(self, response: requests.Response, kind: str) -> None:
        found = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if response.ok and not response.is_redirect and found == kind:
            return
        said = _said(response)
        if said is None:
            if response.status_code in (502, 503, 504):
                raise self.away(None)
            raise self._strange(f"it answers {response.status_code} {found or 'with nothing'}")
        error = _ERRORS.get(response.status_code, AwayError if response.status_code >= 500 else MapperError)
        fix = _NEEDS_TOKEN if response.status_code == 401 else said[1]
        raise error(said[0], fix=fix, address=self.address)

    def value(self, kind: type[Kind], said: bytes | str) -> Kind:
        """JSON of the server as a value; what is not known here is left out.

        Raises:
            MapperError: it is none.
        """
        try:
            return TypeAdapter(kind).validate_json(said)
        except ValidationError as error:
            place = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise self._strange(f"its answer is not one that is known here: {place or 'all of it'}") from error

    def _strange(self, what: str) -> MapperError:
        return MapperError(
            f"this is no resmap server, or one of another version: {told(what, 300)}",
            fix=f"check the address; here is resmap {version('resmap')}, `resmap --version` there says what it is",
            address=self.address,
        )

    def away(self, error: Exception | None) -> AwayError:
        """Why nothing came."""
        if isinstance(error, AwayError):
            return error
        return AwayError(
            "the server does not answer",
            fix="check the address; `resmap serve` starts one" if self.here else "check the address, and that it runs",
            address=self.address,
        )


def kind_of(address: str) -> Literal["resmap", "ray"]:
    """Whose server answers at an address. It is shown no token: that of one kind is not for the other.

    Raises:
        AwayError: none answers.
        MapperError: it cannot be told whose it is.
    """
    server = Connection(address, None, insecure=True, unknown=True)
    try:
        with server.get("api/version") as response:
            if response.status_code in (502, 503, 504):
                raise server.away(None)
            if response.ok and "ray_version" in _object(response):
                return "ray"
            if response.status_code not in (401, 403) or _said(response) is not None:
                return "resmap"
        # Ray asks for its token in plain text, and shows its page to anybody; a proxy before either does neither.
        with server.get("") as response:
            return "ray" if b"<title>Ray Dashboard</title>" in response.content[:100_000] else "resmap"
    finally:
        server.close()


def _own_token(address: str) -> str | None:
    """What a server of this user has kept. It is shown to none of another user, who may have its port by now."""
    try:
        found = token_file().read_text().strip()
        parts = urlsplit(address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S) as line:
            return found if found and _is_mine(line) else None
    except (OSError, ValueError):
        return None


def _is_mine(line: socket.socket) -> bool:
    """Whether the process at the other end is of our user. It has no owner till it is taken up: a moment."""
    ours, theirs = line.getsockname()[:2], line.getpeername()[:2]
    for _ in range(_LOOKS):
        if same_user(theirs, ours):
            return True
        time.sleep(_LOOK_S)
    return False


def _pause(response: requests.Response) -> float | None:
    """How long a server that has enough of us wants to be left alone, where that can be waited for."""
    after = response.headers.get("Retry-After", "1")
    if response.status_code != 429 or not after.isdigit() or int(after) > LONGEST_PAUSE_S:
        return None
    return float(after)


def _object(response: requests.Response) -> dict[str, Any]:
    """The JSON object of an answer; an empty one where it is none."""
    try:
        found = json.loads(response.content[:100_000])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _said(response: requests.Response) -> tuple[str, str] | None:
    """Why it refuses, and what to do; None where that is not said as our servers say it."""
    problem = _object(response)
    if not isinstance(problem.get("error"), str):
        return None
    return told(problem["error"], 2000), told(str(problem.get("fix") or ""), 2000)
