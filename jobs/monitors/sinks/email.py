"""Alerts as e-mail: text and HTML, the two pictures in it.

``smtps://`` is TLS from the first byte, ``smtp://`` becomes TLS before anything is said (STARTTLS); without it mail
goes to this machine alone. User and password come from the environment, together with the name of the server they are
for: no job file can have them sent elsewhere. The message's id is made of the alert's key, so that what comes twice is
known, and what revises an alert answers it.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, getaddresses
from threading import Event, Timer
from typing import Any
from urllib.parse import urlsplit

from catalogs.addresses import Nearness, addresses_of, nearness_of_address
from jobs.monitors.alert import Alert
from jobs.monitors.sinks.letter import html_of, text_of
from jobs.monitors.sinks.reach import not_from_here, reach_of_host
from jobs.settings import smtp_login
from mapper.errors import DeliveryError, MapperError, SpecError, told
from mapper.storage import Folder

STEP_S, WHOLE_S = 20.0, 90.0
"""How long one answer of the server is waited for, and all of them."""

PORTS = {"smtp": 587, "smtps": 465}
_SUBJECT = 150


class Mail:
    """Some addresses, by one server. Threads may share it."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        smtp: str,
        sender: str,
        clock: Callable[[], float] = time.time,
        whole_s: float = WHOLE_S,
    ) -> None:
        """Nothing is looked up or sent yet.

        Args:
            addresses: whom it is for.
            smtp: ``smtp://host:port`` or ``smtps://host:port``.
            sender: whom it is from.
            clock: seconds since 1970, for the date.
            whole_s: how long sending one may take.

        Raises:
            SpecError: an address, or the server's, is none.
        """
        self._scheme, self._host, self._port = _server(smtp)
        self._to, self._from = tuple(_address(one) for one in addresses), _address(sender)
        self._reach = reach_of_host(self._host)
        self._clock, self._whole_s = clock, whole_s

    def send(self, alert: Alert) -> None:
        """Send one alert. Addresses that the server refuses while it takes others are not tried again.

        Raises:
            DeliveryError: it was not taken this time.
        """
        message = self._message(alert)
        try:
            with self._talking() as server:
                server.send_message(message, self._from.addr_spec, [one.addr_spec for one in self._to])
        except smtplib.SMTPRecipientsRefused as error:
            code, refusal = next(iter(error.recipients.values()))
            said = f"{code} {_line(refusal)}"
            raise self._error(f"takes mail for none of the addresses: {said}", "correct them") from None
        except smtplib.SMTPResponseException as error:
            said = f"{error.smtp_code} {_line(error.smtp_error)}"
            raise self._error(f"does not take it: {said}", "see what it says there") from None
        except (smtplib.SMTPException, OSError, UnicodeError) as error:
            raise self._error(f"cannot be reached: {_line(error)}", "check its address and the network") from None

    @contextmanager
    def _talking(self) -> Iterator[smtplib.SMTP]:
        """A connection on which nobody else listens, as whom the environment says."""
        login = smtp_login()
        if login is not None and not login[2]:
            raise self._error(
                "is given no password: nobody says that it is for this server",
                f"set RESMAP_SMTP_SERVER={self._host} beside RESMAP_SMTP_USER, where that is right",
            )
        context = ssl.create_default_context()
        server = (
            _Server(self._host, self._reach) if self._scheme == "smtp" else _TlsServer(self._host, self._reach, context)
        )
        late = Event()
        watch = Timer(self._whole_s, _cut, [server, late])
        watch.daemon = True
        watch.start()
        try:
            server.connect(self._host, self._port)
            server.ehlo()
            if self._scheme == "smtp" and (server.has_extn("starttls") or self._reach != Nearness.THIS_MACHINE):
                server.starttls(context=context)
                server.ehlo()
            if login is not None and login[2] == self._host:
                server.login(login[0], login[1])
            yield server
            with suppress(smtplib.SMTPException, OSError):  # it has the message
                server.quit()
        except (smtplib.SMTPException, OSError) as error:
            if late.is_set():
                raise OSError(f"it took longer than {self._whole_s:g} s") from error
            raise
        finally:
            watch.cancel()
            server.close()

    def _message(self, alert: Alert) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = told(" ".join(alert.headline.split()), _SUBJECT)
        message["From"], message["To"] = self._from, self._to
        message["Date"] = formatdate(self._clock())
        message["Message-ID"] = self._id(alert.key)
        if alert.revises:
            message["In-Reply-To"] = message["References"] = self._id(alert.revises)
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text_of(alert))
        pictures = _pictures(alert)
        message.add_alternative(html_of(alert, {name: f"cid:{name}@resmap" for name in pictures}), subtype="html")
        whole: Any = message.get_payload()
        for name, content in pictures.items():
            whole[1].add_related(
                content, maintype="image", subtype="png", cid=f"<{name}@resmap>", filename=f"{name}.png",
                disposition="inline",
            )  # fmt: skip
        return message

    def _id(self, key: str) -> str:
        return f"<{key}@{self._from.domain.encode('idna').decode() or 'resmap.invalid'}>"

    def _error(self, what: str, fix: str) -> DeliveryError:
        return DeliveryError(f"the mail server {self._host} {what}", fix=fix)


class _Server(smtplib.SMTP):
    """Connects to the addresses that were judged, and to no other."""

    def __init__(self, host: str, reach: Nearness) -> None:
        super().__init__(timeout=STEP_S)
        self._host, self._reach = host, reach  # the name is what a certificate is held against

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        found = addresses_of(host)
        nearest = max(map(nearness_of_address, found))
        if nearest > self._reach:
            what, fix = not_from_here(host, nearest.said)
            raise DeliveryError(f"no mail is sent: {what}", fix=fix)
        failure: OSError | None = None
        for address in found:
            try:
                return socket.create_connection((address, port), timeout)
            except OSError as error:
                failure = error
        raise failure or OSError(f"{host} has no address")


class _TlsServer(_Server):
    """The same, TLS from the first byte."""

    def __init__(self, host: str, reach: Nearness, context: ssl.SSLContext) -> None:
        super().__init__(host, reach)
        self._context = context

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self._context.wrap_socket(super()._get_socket(host, port, timeout), server_hostname=host)


def _cut(server: smtplib.SMTP, late: Event) -> None:
    late.set()
    with suppress(OSError, AttributeError):  # it may have ended meanwhile
        if server.sock is not None:
            server.sock.shutdown(socket.SHUT_RDWR)


def _pictures(alert: Alert) -> dict[str, bytes]:
    """Those that can be had; an alert without pictures is better than none."""
    found = {}
    for name, place in (("before", alert.pictures.before), ("after", alert.pictures.after)):
        if place is not None:
            folder, _, file = place.rpartition("/")
            with suppress(MapperError, FileNotFoundError):
                found[name] = Folder(folder).read(file)
    return found


def _server(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a mail server."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
        parts = urlsplit("")
    odd = parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme not in PORTS or not host or odd or not host.isascii():
        raise SpecError(
            "monitor.sinks: smtp is no address of a mail server",
            fix="write smtp://host:587 or smtps://host:465; user and password are RESMAP_SMTP_USER and "
            "RESMAP_SMTP_PASSWORD in the environment",
        )
    return parts.scheme, host, port or PORTS[parts.scheme]


def _address(text: str) -> Address:
    """One address, with a name or without."""
    try:
        ((name, spec),) = getaddresses([text])
        if spec.count("@") != 1 or not text.isprintable():
            raise ValueError(text)
        return Address(display_name=name, addr_spec=spec)
    except (ValueError, IndexError, UnicodeError) as error:
        raise SpecError(
            f"monitor.sinks: {text[:100]!r} is no e-mail address", fix="write name@example.org, one an entry"
        ) from error


def _line(said: object) -> str:
    """What a server or the system says, in one line."""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return told(" ".join(text.split()), 200)
