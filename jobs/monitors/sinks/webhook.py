"""Alerts posted to an address, signed as Standard Webhooks say (https://www.standardwebhooks.com).

    POST <address>
    content-type: application/json
    webhook-id: <key>                      the same at every attempt: whoever has seen it lets it pass
    webhook-timestamp: 1795327200          seconds, of this attempt
    webhook-signature: v1,<base64>         HMAC-SHA256 of "id.timestamp.body", where a secret is given
    idempotency-key: "<key>"

    2xx: delivered · 410: no more of them, for good · 429, 503: later, after Retry-After · all else: later

No redirect is followed. The address may be a secret as a whole, so no error names more of it than its host.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from catalogs.addresses import addresses_of, nearness_of_address
from catalogs.connections import bounded, guarded_session
from jobs.monitors.alert import Alert
from jobs.monitors.sinks.reach import checked_webhook, not_from_here
from jobs.settings import named_secret
from mapper.errors import CatalogError, DeliveryError, SinkGoneError, told

CONNECT_S, HEAD_S = 10.0, 30.0
"""To be connected; until the head of the answer is there, however slowly it comes."""

MOST_READ_BYTES = 300
"""Of the answer's body, where it is a refusal: enough to say why."""

_AFTER = (429, 503)


class Webhook:
    """One address. Threads may share it."""

    def __init__(
        self, url: str, *, secret: str | None = None, clock: Callable[[], float] = time.time, head_s: float = HEAD_S
    ) -> None:
        """Nothing is looked up or sent yet.

        Args:
            url: https, or http on this machine.
            secret: name of the environment variable that holds the secret.
            clock: seconds since 1970, for the signature.
            head_s: how long an answer may take to begin.

        Raises:
            SpecError: it is no address to which an alert may go.
        """
        self._url, self._reach = checked_webhook(url)
        self._host = urlsplit(self._url).hostname or ""
        self._secret, self._clock, self._head_s = secret, clock, head_s

    def send(self, alert: Alert) -> None:
        """Post one alert.

        Raises:
            SinkGoneError: whoever listens there wants no more.
            DeliveryError: it was not taken this time; ``wait_s`` where the server says for how long.
        """
        body = alert.body().encode()
        headers = self._headers(alert.key, body)
        with bounded(reach=self._reach, head_s=self._head_s), guarded_session() as session:
            try:
                answer = session.post(
                    self._url,
                    data=body,
                    headers=headers,
                    timeout=(CONNECT_S, self._head_s),
                    stream=True,
                    allow_redirects=False,
                    auth=_no_login,
                )
                with answer:
                    self._judge(answer)
            except CatalogError as error:  # the connection's own word: it lies too near
                raise self._too_near() from error
            except (requests.exceptions.RequestException, HTTPError, ValueError) as error:
                raise self._error(f"cannot be reached: {_reason(error)}", "check its address and the network") from None

    def _headers(self, key: str, body: bytes) -> dict[str, str]:
        moment = str(int(self._clock()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "resmap",
            "Idempotency-Key": f'"{key}"',
            "webhook-id": key,
            "webhook-timestamp": moment,
        }
        if self._secret is not None:
            signed = hmac.digest(self._key(self._secret), f"{key}.{moment}.".encode() + body, hashlib.sha256)
            headers["webhook-signature"] = f"v1,{base64.b64encode(signed).decode()}"
        return headers

    def _key(self, variable: str) -> bytes:
        """What is signed with: the bytes behind ``whsec_`` in base64, else the text itself."""
        text = named_secret(variable)
        if text is None:
            raise self._error("is given no alerts: its secret is not set", f"set {variable} where resmap runs")
        if not text.startswith("whsec_"):
            return text.encode()
        try:
            key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not key:
            raise self._error("is given no alerts: its secret is no base64 behind whsec_", f"correct {variable}")
        return key

    def _judge(self, answer: requests.Response) -> None:
        status = answer.status_code
        if 200 <= status < 300:
            return
        if status == 410:
            raise SinkGoneError(
                f"the webhook at {self._host} wants no more alerts (status 410)",
                fix="take it out of monitor.sinks, or give its new address",
            )
        if answer.is_redirect or 300 <= status < 400:
            raise self._error(
                f"answers with a redirect (status {status}), which is not followed",
                "give the address at which it listens",
            )
        wait_s = _asked_wait_s(answer.headers.get("Retry-After", "")) if status in _AFTER else None
        said = self._said(answer)
        raise self._error(
            f"does not take it: status {status}" + (f": {said}" if said else ""), "see what it says there", wait_s
        )

    def _said(self, answer: requests.Response) -> str:
        """How a refusal begins, in one line; nothing of one in pieces or packed, which could go on for ever."""
        if "Content-Length" not in answer.headers or "Content-Encoding" in answer.headers:
            return ""
        try:
            content = answer.raw.read1(MOST_READ_BYTES)  # what has come: one look at the line
        except (HTTPError, OSError, ValueError):
            return ""
        return told(" ".join(content.decode(errors="replace").split()), 200)

    def _too_near(self) -> DeliveryError:
        nearest = max(map(nearness_of_address, addresses_of(self._host)))
        what, fix = not_from_here(self._host, nearest.said)
        return DeliveryError(f"the webhook is not called: {what}", fix=fix)

    def _error(self, what: str, fix: str, wait_s: float | None = None) -> DeliveryError:
        return DeliveryError(f"the webhook at {self._host} {what}", fix=fix, wait_s=wait_s)


def _no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """What ``requests`` would find in a file of this user's passwords is for nobody whom a job names."""
    return request


def _asked_wait_s(retry_after: str) -> float | None:
    """Seconds or a date, as HTTP has them."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _reason(error: BaseException) -> str:
    """The innermost of the reasons that requests and urllib3 wrap, in one line and without an address."""
    inner: BaseException = error
    while True:
        below = [getattr(inner, "reason", None), *inner.args]
        wrapped = next((cause for cause in below if isinstance(cause, BaseException)), None)
        if wrapped is None:
            break
        inner = wrapped
    said = re.sub(r"\S*(?:/|\?)\S*", "…", " ".join(str(inner).split()))
    return told(said, 200) or type(inner).__name__
