"""E-mail about alerts, against a real SMTP server on loopback."""

from __future__ import annotations

import asyncio
import datetime as dt
import email
import email.policy
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from html.parser import HTMLParser
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from jobs.monitors.sinks.email import Mail
from mapper.errors import DeliveryError, SpecError
from tests.jobs.monitors.receiver import KEY, an_alert
from tests.jobs.monitors.test_sinks import answering

OTHER = "1111111111111111-2222222222222222"
TO = ("Ranger One <one@example.org>", "two@example.org")


@dataclass(slots=True)
class Post:
    """A mail server and what it has taken."""

    port: int = 0
    taken: list[tuple[Envelope, EmailMessage]] = field(default_factory=list)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)
    tls: list[bool] = field(default_factory=list)
    refused: frozenset[str] = frozenset()
    refuse: str = ""

    async def handle_RCPT(  # noqa: N802  # as aiosmtpd calls it
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return "550 nobody of that\tname"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.refuse:
            return self.refuse
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.taken.append((envelope, message))
        self.tls.append(session.ssl is not None)
        return "250 taken"

    def login(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)


@contextmanager
def post_office(*, asks_login: bool = False, ssl_context: ssl.SSLContext | None = None, **how: Any) -> Iterator[Post]:
    """A mail server on loopback; ``how`` as aiosmtpd takes it."""
    post = Post()
    login: dict[str, Any] = {"authenticator": post.login, "auth_require_tls": False} if asks_login else {}
    loop = asyncio.new_event_loop()
    serving = loop.create_server(
        lambda: SMTP(post, hostname="localhost", loop=loop, **login, **how), "127.0.0.1", 0, ssl=ssl_context
    )
    server = loop.run_until_complete(serving)
    post.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def end() -> None:
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    try:
        yield post
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture
def post() -> Iterator[Post]:
    with post_office() as server:
        yield server


def mail(post: Post, *, scheme: str = "smtp", host: str = "127.0.0.1", **how: Any) -> Mail:
    how = {"sender": "resmap <maps@example.org>"} | how
    return Mail(how.pop("to", TO), smtp=f"{scheme}://{host}:{post.port}", clock=lambda: 1_795_327_200, **how)


# What is sent ---------------------------------------------------------------------------------------------------------


def test_a_message_says_what_changed_where_and_shows_it(post: Post, tmp_path: Path) -> None:
    pictures = {}
    for name in ("before", "after"):
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG of " + name.encode())
        pictures[name] = str(tmp_path / f"{name}.png")
    mail(post).send(an_alert(pictures=pictures))
    ((envelope, message),) = post.taken
    assert envelope.mail_from == "maps@example.org"
    assert envelope.rcpt_tos == ["one@example.org", "two@example.org"]
    assert message["Subject"] == "“the lakes” appeared in Long Lake: 1,700 m² in 2 places"
    assert message["Message-ID"] == f"<{KEY}@example.org>"
    assert message["Auto-Submitted"] == "auto-generated"
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    for part in (text.get_content(), html.get_content()):
        for said in ("1,700 m²", "Long Lake", "2016-08-16", "2020-08-31", "98 %", "95 %", "/data/lakes.zarr", KEY):
            assert said in part
    shown = {part["Content-ID"].strip("<>"): part for part in message.walk() if part.get_content_maintype() == "image"}
    assert set(shown) == {"before@resmap", "after@resmap"}
    assert shown["after@resmap"].get_payload(decode=True) == b"\x89PNG of after"
    assert all(part.get_content_disposition() == "inline" for part in shown.values())
    assert all(f'src="cid:{name}"' in html.get_content() for name in shown)


def test_without_pictures_there_is_a_message_all_the_same(post: Post, tmp_path: Path) -> None:
    mail(post).send(an_alert(pictures={"before": str(tmp_path / "gone.png")}))
    ((_, message),) = post.taken
    assert [part.get_content_type() for part in message.walk() if not part.is_multipart()] == [
        "text/plain",
        "text/html",
    ]


def test_what_revises_an_alert_answers_it(post: Post) -> None:
    mail(post).send(an_alert(key=OTHER, revises=KEY, over_threshold=False))
    ((_, message),) = post.taken
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    for part in (message["Subject"], text.get_content(), html.get_content()):
        assert "corrected" in part
        assert "no longer over the threshold" in " ".join(part.split())
    assert message["In-Reply-To"] == message["References"] == f"<{KEY}@example.org>"


HOSTILE = 'x\r\nBcc: victim@example.com\r\n\r\n<script>alert(1)</script><a href="https://evil.example">click</a>'


def test_no_word_of_a_stranger_is_a_header_or_a_tag(post: Post) -> None:
    mail(post).send(
        an_alert(place=HOSTILE, expression=HOSTILE, prompt=HOSTILE, monitor=HOSTILE, rule=HOSTILE, mosaic=HOSTILE)
    )
    ((envelope, message),) = post.taken
    assert envelope.rcpt_tos == ["one@example.org", "two@example.org"]
    assert message["Bcc"] is None
    assert set(message.keys()) == {
        "Subject", "From", "To", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type",
    }  # fmt: skip
    html = message.get_body(("html",))
    assert html is not None
    seen: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append(tag)

    Tags().feed(html.get_content())
    assert {"script", "a"}.isdisjoint(seen)
    assert "table" in seen


@pytest.mark.parametrize(
    "address", ["", "nobody", "a@example.org\nBcc: b@example.org", "a@example.org, b@example.org", "a@b@c", "<>"]
)
def test_what_is_no_address_is_refused_at_the_door(post: Post, address: str) -> None:
    with pytest.raises(SpecError):
        mail(post, to=[address])
    with pytest.raises(SpecError):
        mail(post, sender=address)


@pytest.mark.parametrize(
    "smtp",
    ["mail.example", "http://mail.example", "smtp://", "smtp://user:pw@mail.example", "smtp://mail.example/x",
     "smtp://mail.example:99999", "smtp://[", "smtps:mail.example"],
)  # fmt: skip
def test_what_is_no_mail_server_is_refused_at_the_door(smtp: str) -> None:
    with pytest.raises(SpecError) as caught:
        Mail(TO, smtp=smtp, sender="a@example.org")
    assert "pw" not in str(caught.value)


# Who is trusted with it -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of ``localhost``, vouched for by itself alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def server_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_mail_goes_over_tls_where_the_server_can(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with post_office(tls_context=server_context(certificate)) as post:
        mail(post).send(an_alert())
    assert post.tls == [True]


def test_a_server_that_nobody_vouches_for_is_given_nothing(certificate: tuple[Path, Path]) -> None:
    with post_office(tls_context=server_context(certificate)) as post:
        with pytest.raises(DeliveryError, match=r"(?i)certificate"):
            mail(post).send(an_alert())
        assert post.taken == []


def test_smtps_is_tls_from_the_first_byte(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with post_office() as plain, pytest.raises(DeliveryError):
        mail(plain, scheme="smtps").send(an_alert())
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with post_office(ssl_context=server_context(certificate)) as post:
        mail(post, scheme="smtps").send(an_alert())
    assert len(post.taken) == 1


def test_user_and_password_are_for_the_server_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESMAP_SMTP_USER", "maps")
    monkeypatch.setenv("RESMAP_SMTP_PASSWORD", "right")
    with post_office(asks_login=True) as post:
        with pytest.raises(DeliveryError, match=r"RESMAP_SMTP_SERVER=127\.0\.0\.1") as caught:
            mail(post).send(an_alert())
        assert "right" not in str(caught.value).replace("that is right", "")
        monkeypatch.setenv("RESMAP_SMTP_SERVER", "mail.example.org")
        mail(post).send(an_alert())
        assert post.logins == []
        monkeypatch.setenv("RESMAP_SMTP_SERVER", "127.0.0.1")
        mail(post).send(an_alert())
        assert post.logins == [(b"maps", b"right")]
        monkeypatch.setenv("RESMAP_SMTP_PASSWORD", "c4n4ry")
        with pytest.raises(DeliveryError, match="535") as refused:
            mail(post).send(an_alert())
    assert "c4n4ry" not in str(refused.value)


@pytest.mark.parametrize("inside", ["10.0.0.25", "127.0.0.1", "169.254.169.254"])
def test_a_mail_server_that_lies_inside_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, post: Post, inside: str
) -> None:
    name = f"mail-{inside.replace('.', '-')}.example"
    answering(monkeypatch, name, inside)
    with pytest.raises(DeliveryError, match="RESMAP_ALERT_HOSTS"):
        mail(post, host=name).send(an_alert())
    assert post.taken == []


def test_elsewhere_nothing_is_said_without_tls(monkeypatch: pytest.MonkeyPatch, post: Post) -> None:
    # The server answers for one on a private network that is allowed, and offers no TLS.
    answering(monkeypatch, "mail.corp.example", "127.0.0.1")
    monkeypatch.setattr("jobs.monitors.sinks.email.nearness_of_address", lambda address: 1)
    monkeypatch.setenv("RESMAP_ALERT_HOSTS", "mail.corp.example")
    with pytest.raises(DeliveryError, match="STARTTLS"):
        mail(post, host="mail.corp.example").send(an_alert())
    assert post.taken == []


# What a refusal means -------------------------------------------------------------------------------------------------


def test_a_server_that_takes_it_for_some_has_taken_it(post: Post) -> None:
    post.refused = frozenset({"one@example.org"})
    mail(post).send(an_alert())
    ((envelope, _),) = post.taken
    assert envelope.rcpt_tos == ["two@example.org"]


def test_a_server_that_takes_it_for_nobody_has_not(post: Post) -> None:
    post.refused = frozenset({"one@example.org", "two@example.org"})
    with pytest.raises(DeliveryError, match="550 nobody of that name"):
        mail(post).send(an_alert())


def test_a_refusal_is_tried_again_and_says_why(post: Post) -> None:
    post.refuse = "451 come back later"
    with pytest.raises(DeliveryError, match="451 come back later"):
        mail(post).send(an_alert())


def test_a_server_that_never_greets_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        silent = Post(port=listening.getsockname()[1])
        with pytest.raises(DeliveryError, match="longer than"):
            mail(silent, whole_s=0.3).send(an_alert())
