"""What a cloud tells a machine that it takes away: asked of the metadata service, which only the machine reaches.

| cloud | asked for                                     | what is a notice                      | told before    |
|-------|-----------------------------------------------|---------------------------------------|----------------|
| aws   | latest/meta-data/spot/instance-action         | any action, with its ``time``         | 120 s          |
| gcp   | computeMetadata/v1/instance/preempted         | TRUE                                  | 30 s           |
|       | computeMetadata/v1/instance/maintenance-event | TERMINATE_ON_HOST_MAINTENANCE         | 60 s to 1 h    |
| azure | metadata/scheduledevents                      | Preempt, Terminate, Redeploy, Reboot  | 30 s or more   |
|       |                                               | of this machine, with ``NotBefore``   |                |

A rebalance recommendation is no notice: the machine may stay for hours. Which cloud it is says ``RESMAP_SPOT``: aws,
gcp, azure, off, or auto, which asks once and then never again where nobody answers.
"""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse
from typing import Literal, TypeAlias, cast, get_args

from mapper.errors import told

Cloud: TypeAlias = Literal["aws", "gcp", "azure"]

SERVICE = "169.254.169.254:80"
"""Where all three have it. ``RESMAP_METADATA`` names another."""

ANSWER_S = 2.0
"""An answer takes a millisecond where there is a service; so long it is waited for where there may be none."""

MOST_BYTES = 64 * 1024
"""Of an answer."""

SOON_S = 300.0
"""A machine that goes later than this works on until then."""

ASK_EVERY_S: Mapping[Cloud, float] = {"aws": 5.0, "gcp": 1.0, "azure": 1.0}
"""As each asks to be asked, the shorter the notice the oftener."""

AWS_S, GCP_S, GCP_MAINTENANCE_S, AZURE_S = 120.0, 30.0, 60.0, 30.0
"""What a notice gives where it does not say when."""

_AZURE_GOES = frozenset(("Preempt", "Terminate", "Redeploy", "Reboot"))

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leaving:
    """Its machine goes away in so many seconds: a cloud has said so, or a signal."""

    within_s: float
    reason: str


class Spot:
    """Asks for a notice. To be used in one thread, which may wait ``ANSWER_S`` at each question."""

    def __init__(
        self, cloud: Cloud | Literal["auto", "off"] = "auto", *, service: str = SERVICE,
        answer_s: float = ANSWER_S, now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """Ask nothing yet.

        Args:
            cloud: whose machine this is; auto finds out at the first question.
            service: host and port of the metadata service.
            answer_s: how long an answer is waited for.
            now: the clock, seconds since 1970.
        """
        self._cloud: Cloud | Literal["auto", "off"] = cloud
        host, _, port = service.removeprefix("http://").rstrip("/").rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._answer_s, self._now = answer_s, now
        self._token = self._name = ""

    @classmethod
    def here(cls) -> Spot:
        """As the environment says."""
        said, service = os.environ.get("RESMAP_SPOT", "auto"), os.environ.get("RESMAP_METADATA", SERVICE)
        if said not in ("auto", "off", *get_args(Cloud)):
            _log.warning("RESMAP_SPOT is %s, and is taken for auto: it may be auto, aws, gcp, azure or off", said)
            said = "auto"
        try:
            return cls(cast("Cloud", said), service=service)
        except ValueError:
            _log.warning(
                "RESMAP_METADATA is %s and must be host:port: no cloud is asked for notices", told(service, 80)
            )
            return cls("off")

    @property
    def ask_every_s(self) -> float | None:
        """How long to wait between two questions; None where nobody would answer."""
        if self._cloud == "off":
            return None
        return 0.0 if self._cloud == "auto" else ASK_EVERY_S[self._cloud]

    def notice(self) -> Leaving | None:
        """Whether the machine goes soon, and how soon. Raises nothing: what cannot be understood is no notice."""
        if self._cloud == "auto":
            self._cloud = self._found()
        try:
            match self._cloud:
                case "aws":
                    leaving = self._of_aws()
                case "gcp":
                    leaving = self._of_gcp()
                case "azure":
                    leaving = self._of_azure()
                case _:
                    return None
        except Exception as error:  # whatever a stranger answers
            _log.debug("no notice from %s:%s: %s: %s", *self._address, type(error).__name__, error)
            return None
        return leaving if leaving is not None and leaving.within_s <= SOON_S else None

    # Each cloud -------------------------------------------------------------------------------------------------------

    def _found(self) -> Cloud | Literal["off"]:
        """Whose service answers."""
        try:
            if (said := self._get("/", {"Metadata-Flavor": "Google"})).flavor == "Google":
                return "gcp"
            if self._new_token():
                return "aws"
            if self._azure_name():
                return "azure"
        except Exception as error:  # nobody, or a stranger
            _log.debug("no cloud's metadata service at %s:%s: %s", *self._address, error)
            return "off"
        _log.debug("who answers at %s:%s is no cloud's metadata service: %d", *self._address, said.status)
        return "off"

    def _of_aws(self) -> Leaving | None:
        if not self._token and not self._new_token():
            return None
        said = self._get("/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token})
        if said.status == 401:  # tokens end
            self._token = ""
            return None
        if said.status != 200:
            return None
        action = json.loads(said.body)
        if not isinstance(action, dict) or not isinstance(action.get("action"), str):
            return None
        at = _time_of(action.get("time"))
        return Leaving(AWS_S if at is None else self._left_s(at), f"AWS takes it back ({told(action['action'], 40)})")

    def _of_gcp(self) -> Leaving | None:
        flavor = {"Metadata-Flavor": "Google"}
        said = self._get("/computeMetadata/v1/instance/preempted", flavor)
        if said.status == 200 and said.flavor == "Google" and said.body.strip() == b"TRUE":
            return Leaving(GCP_S, "Google Cloud preempts it")
        said = self._get("/computeMetadata/v1/instance/maintenance-event", flavor)
        if said.status == 200 and said.flavor == "Google" and said.body.strip() == b"TERMINATE_ON_HOST_MAINTENANCE":
            return Leaving(GCP_MAINTENANCE_S, "Google Cloud maintains its host")
        return None

    def _of_azure(self) -> Leaving | None:
        if not self._name and not self._azure_name():
            return None
        said = self._get("/metadata/scheduledevents?api-version=2020-07-01", {"Metadata": "true"})
        events = json.loads(said.body).get("Events") if said.status == 200 else None
        going = []
        for event in events if isinstance(events, list) else []:
            if not isinstance(event, dict):
                continue
            # Those of other machines of a scale set are told, too.
            if event.get("EventType") in _AZURE_GOES and self._name in event.get("Resources", ()):
                at = _time_of(event.get("NotBefore"))
                left_s = AZURE_S if at is None else self._left_s(at)
                going.append(Leaving(left_s, f"Azure takes it ({event['EventType']})"))
        return min(going, key=lambda one: one.within_s, default=None)

    def _new_token(self) -> bool:
        said = self._get("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}, method="PUT")
        token = said.body.decode("latin-1").strip() if said.status == 200 else ""
        self._token = token if token.isascii() and token.isprintable() and " " not in token and len(token) < 512 else ""
        return bool(self._token)

    def _azure_name(self) -> bool:
        said = self._get("/metadata/instance/compute?api-version=2021-02-01", {"Metadata": "true"})
        compute = json.loads(said.body) if said.status == 200 else {}
        name = compute.get("name") if isinstance(compute, dict) else None
        self._name = name if isinstance(name, str) else ""
        return bool(self._name)

    def _left_s(self, at: float) -> float:
        return max(0.0, at - self._now())

    # One question -----------------------------------------------------------------------------------------------------

    def _get(self, path: str, headers: Mapping[str, str], *, method: str = "GET") -> _Said:
        """One answer; no proxy is asked for it, and where it leads is not followed.

        Raises:
            OSError: it did not come in time, or is too long.
            HTTPException: it is none.
        """
        until = time.monotonic() + self._answer_s
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._address[0]}", "Connection: close", "Accept: */*"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += ["Content-Length: 0"] if method == "PUT" else []
        with socket.create_connection(self._address, timeout=self._answer_s) as wire:
            wire.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            answer = HTTPResponse(cast("socket.socket", _Bounded(wire, until)), method=method)
            try:
                answer.begin()
                body = answer.read(MOST_BYTES + 1)
            finally:
                answer.close()
        if len(body) > MOST_BYTES:
            raise OSError(f"the answer is longer than {MOST_BYTES} bytes")
        return _Said(answer.status, answer.headers.get("Metadata-Flavor", ""), body)


@dataclass(frozen=True, slots=True)
class _Said:
    """An answer."""

    status: int
    flavor: str
    body: bytes


class _Bounded(io.RawIOBase):
    """What comes in on a wire until a time; as much of a socket as ``HTTPResponse`` needs."""

    def __init__(self, wire: socket.socket, until: float) -> None:
        super().__init__()
        self._wire, self._until = wire, until

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, into: bytearray | memoryview) -> int:  # type: ignore[override]  # any buffer
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer takes too long")
        self._wire.settimeout(left_s)
        return self._wire.recv_into(into)


def _time_of(said: object) -> float | None:
    """Seconds since 1970, of a time as AWS or Azure writes it; None where it is none."""
    if not isinstance(said, str):
        return None
    try:
        if said.endswith("Z"):
            return datetime.fromisoformat(said).replace(tzinfo=UTC).timestamp()
        at = parsedate_to_datetime(said)
        return at.replace(tzinfo=at.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
