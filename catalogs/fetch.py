"""The one door to catalogs: bytes of a file or URL, within limits of time, size and patience."""

from __future__ import annotations

import json
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
from urllib3.exceptions import HTTPError

from catalogs.connections import bounded, guarded_session
from catalogs.hrefs import check_link, is_remote, local_path, reach_of, scheme_of, unsigned
from mapper.errors import CatalogError, CredentialsError, MapperError, MissingError, SpecError
from mapper.traffic import TRAFFIC, host_of

_AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
_LONGEST_WAIT_S = 30.0
_MOST_REDIRECTS = 3
_PIECE_BYTES = 2**18
DEEPEST = 100
"""Brackets in brackets. STAC has a dozen; a thousand would break whatever looks into them later."""

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """How long, how much and how often."""

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    """Between two pieces of an answer."""

    answer_timeout_s: float = 300.0
    """For one whole answer: a server that sends a byte a second is down too."""

    attempts: int = 4
    backoff_s: float = 0.5
    """Before the second attempt; doubled for each after."""

    page_limit_bytes: int = 64 * 2**20
    """Of one JSON document, decompressed. A page of 200 Sentinel-2 items has 6 MB."""

    table_limit_bytes: int = 512 * 2**20
    """Of one stac-geoparquet file."""

    subject: str = "the catalog"
    """What is read, as errors call it."""

    catalog: str = ""
    """Path or URL that the job names: nothing nearer is asked for. Empty where each place is the job's own word."""

    session: requests.Session = field(default_factory=lambda: _session())

    def read(
        self,
        place: str,
        *,
        body: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> bytes:
        """The bytes of a file, or of the answer to a GET (with a body: to a POST of it as JSON).

        Raises:
            SpecError: a local file is not there, or the place is of no kind that is read.
            CredentialsError: we are refused.
            MissingError: the server has no such thing.
            CatalogError: unreachable, too slow, too large, or another status, after all attempts.
        """
        limit = limit or self.page_limit_bytes
        if not is_remote(place):
            return self._file(local_path(place), limit)
        if scheme_of(place) not in ("http", "https"):
            raise SpecError(
                f"{self.subject} cannot be read over {scheme_of(place)[:20]}:",
                fix="give its path or https URL",
                catalog=unsigned(place)[:300],
            )
        with bounded(reach=reach_of(self.catalog or place), head_s=self.answer_timeout_s):
            return self._patiently(place, body, headers, limit)

    def _patiently(
        self, place: str, body: dict[str, Any] | None, headers: Mapping[str, str] | None, limit: int
    ) -> bytes:
        """The answer, at the first of some attempts at which there is one."""
        trouble: MapperError | None = None
        for attempt in range(1, self.attempts + 1):
            wait_s = self.backoff_s * 2 ** (attempt - 1)
            try:
                with self._answer(place, body, headers) as answer:
                    if answer.status_code not in _AGAIN:
                        return self._content(answer, place, limit)
                    trouble = CatalogError(
                        f"{self.subject} answers with status {answer.status_code}",
                        fix="try again later",
                        catalog=unsigned(place),
                    )
                    wait_s = max(wait_s, _asked_wait_s(answer.headers.get("Retry-After", "")))
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
                raise SpecError("this is no address", fix="check the URL", catalog=unsigned(place)[:300]) from error
            except (requests.exceptions.RequestException, HTTPError) as error:
                trouble = CatalogError(
                    f"{self.subject} cannot be reached: {_reason(error)}",
                    fix="check the address and the network, and try again",
                    catalog=unsigned(place),
                )
            except ValueError as error:  # requests looks at a redirect before we do, and stumbles over some
                raise CatalogError(
                    f"{self.subject} answers with what is no HTTP: {str(error)[:120]}",
                    fix="check the address",
                    catalog=unsigned(place),
                ) from error
            if attempt < self.attempts:
                time.sleep(min(wait_s, _LONGEST_WAIT_S))
        assert trouble is not None
        raise trouble

    def json(
        self, place: str, *, body: dict[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The JSON object of a file or answer.

        Raises:
            CatalogError: it is not a JSON object; and whatever ``read`` raises.
        """
        return parse_json(self.read(place, body=body, headers=headers), place)

    def _answer(self, place: str, body: dict[str, Any] | None, headers: Mapping[str, str] | None) -> requests.Response:
        """The head of an answer, redirects followed: but not to what is nearer than the place that was asked."""
        target = place
        for _ in range(_MOST_REDIRECTS + 1):
            with TRAFFIC.request("catalog", host_of(target)) as request:  # until its answer begins
                answer = self.session.request(
                    "GET" if body is None else "POST",
                    target,
                    json=body,
                    headers=dict(headers or {}),
                    timeout=(self.connect_timeout_s, self.read_timeout_s),
                    stream=True,
                    allow_redirects=False,
                )
                request.status = answer.status_code
            if not answer.is_redirect:
                return answer
            answer.close()
            body = body if answer.status_code in (307, 308) else None
            target = check_link(answer.headers["Location"], base=target, catalog=self.catalog or place)
        raise CatalogError(
            f"{self.subject} redirects in a circle, or more than {_MOST_REDIRECTS} times",
            fix="give the address it leads to",
            catalog=unsigned(place),
        )

    def _content(self, answer: requests.Response, place: str, limit: int) -> bytes:
        self._check_status(answer, place)
        deadline = time.monotonic() + self.answer_timeout_s
        content = bytearray()
        # What has come, not what was asked for: else a server that sends a byte a minute is waited for for ever.
        while piece := answer.raw.read1(_PIECE_BYTES, decode_content=True):
            content += piece
            check_size(content, place, limit)
            if time.monotonic() > deadline:
                raise requests.exceptions.ReadTimeout(f"no whole answer in {self.answer_timeout_s:g} s")
        return bytes(content)

    def _file(self, path: Path, limit: int) -> bytes:
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                kind = "a folder" if path.is_dir() else "no file but a pipe or device"
                raise SpecError(f"{self.subject} is {kind}", fix="give a file", catalog=str(path))
            with path.open("rb") as file:
                content = file.read(limit + 1)
        except FileNotFoundError as error:
            raise SpecError(
                f"{self.subject} is not there: no such file", fix="check its path", catalog=str(path)
            ) from error
        except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
            said = error.strerror if isinstance(error, OSError) else error
            raise SpecError(
                f"{self.subject} cannot be read: {said}", fix="check its path", catalog=str(path)[:300]
            ) from error
        if len(content) > limit:
            raise CatalogError(
                f"{self.subject} has a document larger than {limit / 2**20:.0f} MiB",
                fix="name a smaller one",
                catalog=str(path),
            )
        return content

    def _check_status(self, answer: requests.Response, place: str) -> None:
        status = answer.status_code
        if 200 <= status < 300:
            return
        if status in (401, 403, 407):
            raise CredentialsError(
                f"{self.subject} refuses us with status {status}",
                fix="log in, or check that the address is the public one",
                catalog=unsigned(place),
            )
        if status in (404, 410):
            raise MissingError(
                f"{self.subject} has nothing at this address (status {status})",
                fix="check its address",
                catalog=unsigned(place),
            )
        said = " ".join(answer.raw.read1(400, decode_content=True).decode(errors="replace").split())
        raise CatalogError(
            f"{self.subject} answers with status {status}: {said[:200]}",
            fix="check the address",
            catalog=unsigned(place),
        )


def check_size(content: bytes | bytearray, place: str, limit: int) -> None:
    """CatalogError where an answer is larger than it may be."""
    if len(content) > limit:
        raise CatalogError(
            f"an answer is larger than {limit / 2**20:.0f} MiB",
            fix="narrow the area or the dates, or name a smaller catalog",
            catalog=unsigned(place),
        )


def parse_json(content: bytes, place: str, *, deepest: int = DEEPEST) -> dict[str, Any]:
    """The JSON object in some bytes; CatalogError where there is none. Of a key given twice, the last counts."""
    try:
        if is_deeper(content, deepest):
            raise ValueError(f"brackets lie more than {deepest} deep")
        doc = json.loads(content)
    except (ValueError, RecursionError) as error:
        start = content[:200].lstrip().lower()
        kind = "a web page, not STAC" if start.startswith((b"<!doctype", b"<html")) else "not JSON, so not STAC"
        raise CatalogError(
            f"what the catalog gives is {kind}",
            fix="give the address of a STAC API, a STAC JSON document or a stac-geoparquet file",
            catalog=unsigned(place),
        ) from error
    if not isinstance(doc, dict):
        raise CatalogError("a STAC document is a JSON object; this is not", catalog=unsigned(place))
    return doc


def is_deeper(content: bytes, depth: int) -> bool:
    """Whether brackets of a JSON text lie deeper in one another than that."""
    return _depth(content) > depth and _depth(_TEXT.sub(b"", content)) > depth


def _depth(content: bytes) -> int:
    """How deep brackets lie in brackets, those in texts counted with them: a tenth of the time that reading takes."""
    brackets = np.frombuffer(content.translate(None, _NOT_BRACKETS), np.uint8)
    opened = (brackets & 2).astype(np.int32) - 1  # bit 1 is set in [ and {, and not in ] and }
    return int(opened.cumsum().max(initial=0))


def links_of(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The links of a document that are links."""
    links = doc.get("links")
    return [
        link
        for link in (links if isinstance(links, list) else [])
        if isinstance(link, dict) and isinstance(link.get("href"), str) and isinstance(link.get("rel"), str)
    ]


def _session() -> requests.Session:
    session = guarded_session()
    session.headers["Accept"] = "application/geo+json, application/json, */*"
    session.headers["User-Agent"] = "resmap"
    return session


def _asked_wait_s(retry_after: str) -> float:
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0


def _reason(error: Exception) -> str:
    """The innermost of the reasons that requests and urllib3 wrap, in one line."""
    inner: object = error
    while isinstance(inner, BaseException):
        below = [getattr(inner, "reason", None), *inner.args]
        wrapped = next((cause for cause in below if isinstance(cause, BaseException)), None)
        if wrapped is None:
            break
        inner = wrapped
    return " ".join(str(inner).split())[:200] or type(error).__name__
