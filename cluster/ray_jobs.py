"""Ray's Jobs API as values: a head that says who it is before it is shown a token, its jobs, and what they say.

It is spoken over HTTP alone: no Ray need run here, and the versions of Ray and Python here do not matter there.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import requires
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, urlsplit

import requests

from cluster.http import CONNECT_S, SILENT_S, Bearer, distrusted, host_of, is_loopback
from cluster.ray_access import NO_TOKEN, token
from mapper.errors import AwayError, CredentialsError, MapperError, QuestionError, ResourceError, SpecError, told

Status: TypeAlias = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]

OPEN: frozenset[Status] = frozenset(("PENDING", "RUNNING"))
"""Of a job that will go on by itself."""

_STATUSES: tuple[Status, ...] = ("PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED")
_SECRET = re.compile(
    r"secret|token|passw|passphrase|userpwd|credential|private|_sas\b|(access|account|api|auth)_?key|_key$", re.I
)
_OF_THE_JOB = ("working_dir", "py_modules", "image_uri")


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """A job of a head, as it stands."""

    submission: str
    status: Status
    message: str = ""
    """What Ray says of its end."""

    error: str = ""
    """Ray's kind of a failure."""

    begun: datetime | None = None
    ended: datetime | None = None
    exit_status: int | None = None
    """Of its process; None where it has not ended, or was stopped, or nobody saw how."""

    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A job to be."""

    submission: str
    entrypoint: str
    runtime_env: Mapping[str, Any]
    metadata: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the node that its driver may be on; empty has it on the head."""

    cpus: float = 0.0
    """Cores that the driver holds, where ``labels`` choose its node: Ray takes them for a wish to leave the head."""


class RayHead:
    """One head. Threads must not share one."""

    def __init__(self, address: str, *, insecure: bool = False, insecure_ray: bool = False) -> None:
        """Ask it who it is, and show it the token if it wants one.

        Args:
            address: ``http(s)://host:port`` of its dashboard; or ``ray://host:port``, whose dashboard is taken to be
                at Ray's usual port of that host.
            insecure: send the token though it crosses the network in plain text.
            insecure_ray: talk to one of other machines that asks nobody for a token.

        Raises:
            AwayError: nobody answers.
            CredentialsError: the token is missing, wrong, or would cross the network in plain text.
            ResourceError: it asks nobody for a token, or its Ray is older than resmap works with.
            QuestionError: it is no address, or no Ray head.
        """
        self.address = dashboard_of(address)
        self.here = is_loopback(urlsplit(self.address).hostname or "")
        """Whether the head is on this machine."""

        self._session = requests.Session()
        self._session.trust_env = not self.here
        self._session.auth = Bearer(None)
        answer = self._request("GET", "api/version")
        if answer.status_code in (401, 403):
            self._show_token(insecure=insecure)
            answer = self._request("GET", "api/version")
            if answer.status_code in (401, 403):
                raise CredentialsError(
                    "the token here is not the one of this Ray cluster", fix=NO_TOKEN, address=self.address
                )
        elif answer.ok and not (self.here or insecure_ray):
            raise ResourceError(
                "this Ray cluster asks nobody for a token: whoever reaches it can run anything on it",
                fix="start it with RAY_AUTH_MODE=token, or pass --insecure-ray where nobody else reaches it",
                address=self.address,
            )
        said = _document(answer)
        self.ray, self.session = _text(said, "ray_version"), _text(said, "session_name")
        """Version of its Ray, and its name for this life of the cluster."""

        if not self.ray:
            raise QuestionError(
                f"no Ray head answers there: it says {answer.status_code}", fix="check --address", address=self.address
            )
        _check_ray(self.ray, self.address)

    def close(self) -> None:
        """Let go of its connections."""
        self._session.close()

    def __enter__(self) -> RayHead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def headers(self) -> dict[str, str]:
        """What proves who we are."""
        assert isinstance(self._session.auth, Bearer)
        return {} if self._session.auth.token is None else {"Authorization": f"Bearer {self._session.auth.token}"}

    def jobs(self) -> tuple[RayJob, ...]:
        """Those that were submitted, in no order."""
        listed = self._said(self._request("GET", "api/jobs/"))
        entries = listed if isinstance(listed, list) else []
        return tuple(job for entry in entries if (job := _job(entry)) is not None)

    def job(self, submission: str) -> RayJob | None:
        """One of them; None where there is none."""
        answer = self._request("GET", f"api/jobs/{_part(submission)}")
        return None if answer.status_code == 404 else _job(self._said(answer))

    def submit(self, wanted: Wanted) -> bool:
        """Have a job begun; whether it was we: a submission of this name that is there already stays as it is.

        Raises:
            MapperError: the head refuses it; what it says.
        """
        body: dict[str, Any] = {
            "entrypoint": wanted.entrypoint,
            "submission_id": wanted.submission,
            "runtime_env": dict(wanted.runtime_env),
            "metadata": dict(wanted.metadata),
        }
        if wanted.labels:
            body |= {"entrypoint_label_selector": dict(wanted.labels), "entrypoint_num_cpus": wanted.cpus}
        answer = self._request("POST", "api/jobs/", json=body)
        if not answer.ok and answer.status_code in (400, 500) and self.job(wanted.submission) is not None:
            return False
        self._said(answer)
        return True

    def stop(self, submission: str) -> None:
        """Have its process told to end; it has as long for that as its ``runtime_env`` says."""
        self._said(self._request("POST", f"api/jobs/{_part(submission)}/stop"))

    def log(self, submission: str) -> str:
        """All that it has said."""
        return _text(self._said(self._request("GET", f"api/jobs/{_part(submission)}/logs")), "logs")

    def keep(self, files: Mapping[str, bytes]) -> str:
        """Put a folder of small files where all nodes find it; its URI, for a ``working_dir``."""
        packed = zipped(files)
        name = f"_ray_pkg_{hashlib.sha256(packed).hexdigest()[:32]}.zip"
        path = f"api/packages/gcs/{name}"
        answer = self._request("GET", path)  # which keeps one that is there from being cleared away just now
        if answer.status_code == 404:
            answer = self._request("PUT", path, data=packed)
        if not answer.ok:
            raise self._refused(answer)
        return f"gcs://{name}"

    def _show_token(self, *, insecure: bool) -> None:
        known = token()
        if known is None:
            raise CredentialsError(
                "this Ray cluster asks for a token, and there is none here", fix=NO_TOKEN, address=self.address
            )
        if self.address.startswith("http:") and not self.here and not insecure:
            raise CredentialsError(
                "the token would cross the network in plain text",
                fix="use https://, or a tunnel to this machine (ssh -L, kubectl port-forward); or say --insecure",
                address=self.address,
            )
        self._session.auth = Bearer(known)

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            return self._session.request(
                method, f"{self.address}/{path}", timeout=(CONNECT_S, SILENT_S), allow_redirects=False, **options
            )
        except requests.exceptions.SSLError as error:
            raise distrusted(self.address) from error
        except requests.RequestException as error:
            raise AwayError(
                "no Ray head answers", fix="check --address: it is the one of Ray's dashboard", address=self.address
            ) from error

    def _said(self, answer: requests.Response) -> Any:
        if not answer.ok or answer.is_redirect:
            raise self._refused(answer)
        return _document(answer)

    def _refused(self, answer: requests.Response) -> MapperError:
        if answer.status_code in (401, 403):
            return CredentialsError("the Ray cluster refuses the token", fix=NO_TOKEN, address=self.address)
        if answer.status_code in (502, 503, 504):
            return AwayError("no Ray head answers now", fix="try again, later", address=self.address)
        lines = [line for line in answer.text[:100_000].splitlines() if line.strip()]
        why = lines[-1].strip() if lines else "nothing more"  # of a traceback, what was raised
        return MapperError(
            f"the Ray head refuses: {told(why, 500)}", fix=f"it has Ray {self.ray}", address=self.address
        )


DASHBOARD_PORT = 8265
"""Where Ray's dashboard is unless it was told otherwise."""


def dashboard_of(address: str) -> str:
    """Where a head's Jobs API is.

    Raises:
        QuestionError: it is no address.
    """
    what = "this is no address of a Ray head"
    host = host_of(address, ("ray", "http", "https"), what=what, fix="write it as http://host:8265")
    if not address.lower().startswith("ray:"):
        return address.rstrip("/")
    return f"http://{f'[{host}]' if ':' in host else host}:{DASHBOARD_PORT}"


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A folder of files; the same bytes for the same files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def checked_env(given: Mapping[str, Any]) -> dict[str, Any]:
    """A runtime environment that somebody wrote, as Ray's own code reads it: files of this machine are read into it.

    Raises:
        SpecError: it is none, holds what looks like a secret, or a folder of this machine.
    """
    from ray.runtime_env import RuntimeEnv

    for name in _OF_THE_JOB:
        if name in given:
            instead = "say --image" if name == "image_uri" else "put code into the image, or name packages under pip"
            raise SpecError(f"the runtime environment has {name}, which is not for it to choose", fix=instead)
    variables = given.get("env_vars") or {}
    if not isinstance(variables, dict):
        raise SpecError("env_vars of the runtime environment is no mapping", fix="write NAME: value, a line each")
    secret = sorted(str(name) for name in variables if _SECRET.search(str(name)))
    if secret:
        raise SpecError(
            f"env_vars of the runtime environment holds what looks like a secret: {', '.join(secret)}",
            fix="give credentials to the cluster's nodes (an instance role, a Kubernetes secret): Ray shows to others "
            "what is here",
        )
    try:
        return dict(RuntimeEnv(**{**given, "env_vars": {str(k): str(v) for k, v in variables.items()}}).to_dict())
    except (TypeError, ValueError, OSError) as error:
        raise SpecError(
            f"Ray refuses the runtime environment: {told(str(error), 500)}", fix="correct its file"
        ) from error


def _check_ray(found: str, address: str) -> None:
    """Refuse a head that is older than what this package asks of Ray."""
    needed = next((line for line in requires("resmap") or () if line.startswith("ray") and "extra" not in line), "")
    oldest = re.search(r">=\s*([\d.]+)", needed)
    if oldest is not None and _numbers(found) < _numbers(oldest[1]):
        raise ResourceError(
            f"this cluster has Ray {found}, and resmap needs {oldest[1]} or later",
            fix="start the cluster with a later Ray",
            address=address,
        )


def _numbers(of: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", of)[:2])


def _document(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _text(document: Any, key: str) -> str:
    found = document.get(key) if isinstance(document, dict) else None
    return found if isinstance(found, str) else ""


def _job(entry: Any) -> RayJob | None:
    """What the head tells of a job; None where it was not submitted, or is told of in words of another time."""
    name, status = _text(entry, "submission_id"), _text(entry, "status")
    known = next((word for word in _STATUSES if word == status), None)
    if not name or known is None:
        return None
    metadata = entry.get("metadata")
    code = entry.get("driver_exit_code")
    return RayJob(
        submission=name,
        status=known,
        message=_text(entry, "message"),
        error=_text(entry, "error_type"),
        begun=_moment(entry.get("start_time")),
        ended=_moment(entry.get("end_time")),
        exit_status=code if isinstance(code, int) else None,
        metadata={str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {},
    )


def _moment(milliseconds: Any) -> datetime | None:
    if not isinstance(milliseconds, int | float) or milliseconds <= 0:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _part(name: str) -> str:
    return quote(name, safe="")
