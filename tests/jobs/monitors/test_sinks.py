"""Sinks against real receivers: what they are sent, whom they may reach, and what a refusal means."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # its stubs are a package of their own

from jobs.monitors.alert import Alert
from jobs.monitors.sinks import sinks_of
from jobs.monitors.sinks.webhook import Webhook
from jobs.spec import Monitor
from mapper.errors import DeliveryError, SinkGoneError, SpecError
from tests.jobs.monitors.receiver import KEY, Posted, Receiver, an_alert, receiver

MOMENT = 1_795_327_200


@pytest.fixture
def heard() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


def hook(url: str, secret: str | None = None, *, head_s: float = 5.0) -> Webhook:
    return Webhook(url, secret=secret, clock=lambda: MOMENT, head_s=head_s)


# What a webhook is sent -----------------------------------------------------------------------------------------------


def test_a_webhook_is_posted_the_alert_with_its_key_as_its_id(heard: Receiver) -> None:
    hook(f"{heard.url}/hook?team=7").send(an_alert())
    (posted,) = heard.posted
    assert posted.path == "/hook?team=7"
    assert posted.headers["content-type"] == "application/json"
    assert posted.headers["webhook-id"] == KEY
    assert posted.headers["idempotency-key"] == f'"{KEY}"'
    assert posted.headers["webhook-timestamp"] == str(MOMENT)
    assert "webhook-signature" not in posted.headers
    assert Alert.of(posted.body.decode()) == an_alert()


@pytest.mark.parametrize(
    ("secret", "key"),
    [("whsec_" + base64.b64encode(b"\x00\x01secret of 24 bytes!!").decode(), b"\x00\x01secret of 24 bytes!!"),
     ("a plain passphrase", b"a plain passphrase")],
)  # fmt: skip
def test_the_signature_is_what_whoever_shares_the_secret_computes(
    heard: Receiver, monkeypatch: pytest.MonkeyPatch, secret: str, key: bytes
) -> None:
    monkeypatch.setenv("HOOK_SECRET", secret)
    hook(heard.url, "HOOK_SECRET").send(an_alert())
    (posted,) = heard.posted
    signed = b".".join([KEY.encode(), posted.headers["webhook-timestamp"].encode(), posted.body])
    version, _, signature = posted.headers["webhook-signature"].partition(",")
    assert version == "v1"
    assert base64.b64decode(signature) == hmac.new(key, signed, hashlib.sha256).digest()


def test_the_signature_is_that_of_the_example_in_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    # https://github.com/standard-webhooks/standard-webhooks, libraries: the values that all of them are tested with.
    monkeypatch.setenv("HOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    sink = Webhook("https://example.com/", secret="HOOK_SECRET", clock=lambda: 1_614_265_330)
    headers = sink._headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", [None, "", "whsec_", "whsec_not base64!"])
def test_without_the_secret_that_it_names_a_webhook_is_sent_nothing(
    heard: Receiver, monkeypatch: pytest.MonkeyPatch, secret: str | None
) -> None:
    if secret is not None:
        monkeypatch.setenv("HOOK_SECRET", secret)
    with pytest.raises(DeliveryError, match="HOOK_SECRET") as caught:
        hook(heard.url, "HOOK_SECRET").send(an_alert())
    assert "base64!" not in str(caught.value)
    assert heard.posted == []


def test_what_is_posted_is_what_its_schema_says(heard: Receiver) -> None:
    hook(heard.url).send(an_alert(revises=KEY, run="run-1", pictures={"before": "/b.png", "after": "/a.png"}))
    schema = Alert.model_json_schema(by_alias=True, mode="serialization")
    Draft202012Validator.check_schema(schema)
    checker = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    checker.validate(json.loads(heard.posted[0].body))
    with pytest.raises(Exception, match=r"'resmap\.alert/1' was expected"):
        checker.validate({**json.loads(heard.posted[0].body), "schema": "resmap.alert/2"})


def test_passwords_of_this_user_are_for_nobody_whom_a_job_names(
    heard: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passwords = tmp_path / "netrc"
    passwords.write_text("machine 127.0.0.1 login somebody password c4n4ry\n")
    monkeypatch.setenv("NETRC", str(passwords))
    hook(heard.url).send(an_alert())
    assert "authorization" not in heard.posted[0].headers


# What a refusal means -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 404, 422, 500, 502])
def test_a_refusal_is_tried_again_and_says_why(heard: Receiver, status: int) -> None:
    heard.answer = lambda posted: (status, {}, b"no such\n  channel\x00")
    with pytest.raises(DeliveryError, match=rf"status {status}: no such channel") as caught:
        hook(heard.url).send(an_alert())
    assert not isinstance(caught.value, SinkGoneError)
    assert caught.value.wait_s is None
    assert "\x00" not in str(caught.value)


def test_gone_is_for_good(heard: Receiver) -> None:
    heard.answer = lambda posted: (410, {}, b"")
    with pytest.raises(SinkGoneError):
        hook(heard.url).send(an_alert())


@pytest.mark.parametrize("status", [429, 503])
def test_who_asks_to_wait_is_heard(heard: Receiver, status: int) -> None:
    heard.answer = lambda posted: (status, {"Retry-After": "3600"}, b"")
    with pytest.raises(DeliveryError) as caught:
        hook(heard.url).send(an_alert())
    assert caught.value.wait_s == 3600


@pytest.mark.parametrize(
    ("said", "at_least"), [("Wed, 21 Oct 2099 07:28:00 GMT", 1e9), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)]
)
def test_a_wait_may_be_a_date(heard: Receiver, said: str, at_least: float) -> None:
    heard.answer = lambda posted: (429, {"Retry-After": said}, b"")
    with pytest.raises(DeliveryError) as caught:
        hook(heard.url).send(an_alert())
    assert caught.value.wait_s is not None
    assert caught.value.wait_s >= at_least


@pytest.mark.parametrize("said", ["soon", "-5", "", "9" * 5000, "Wed, 99 Oct 2015 07:28:00 GMT"])
def test_a_wait_that_is_none_leaves_ours(heard: Receiver, said: str) -> None:
    heard.answer = lambda posted: (503, {"Retry-After": said}, b"")
    with pytest.raises(DeliveryError) as caught:
        hook(heard.url).send(an_alert())
    assert caught.value.wait_s is None or caught.value.wait_s == 999_999_999


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(heard: Receiver, status: int) -> None:
    with receiver() as inner:
        heard.answer = lambda posted: (status, {"Location": f"{inner.url}/inside"}, b"")
        with pytest.raises(DeliveryError, match="redirect"):
            hook(heard.url).send(an_alert())
        assert inner.posted == []
    assert len(heard.posted) == 1


def test_one_that_hangs_is_left(heard: Receiver) -> None:
    def hang(posted: Posted) -> tuple[int, dict[str, str], bytes]:
        heard.let_go.wait(20)
        return 204, {}, b""

    heard.answer = hang
    with pytest.raises(DeliveryError, match="cannot be reached"):
        hook(heard.url, head_s=0.3).send(an_alert())


def test_one_that_answers_byte_by_byte_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        from threading import Event, Thread

        done = Event()

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                while not done.wait(0.05):
                    try:
                        connection.sendall(b"H")
                    except OSError:
                        return

        thread = Thread(target=drip, daemon=True)
        thread.start()
        try:
            with pytest.raises(DeliveryError, match="cannot be reached"):
                hook(f"http://127.0.0.1:{listening.getsockname()[1]}/", head_s=0.5).send(an_alert())
        finally:
            done.set()
            thread.join(5)


def test_an_endless_refusal_is_not_read(heard: Receiver) -> None:
    heard.answer = lambda posted: (500, {}, b"x" * 50_000_000)
    with pytest.raises(DeliveryError) as caught:
        hook(heard.url).send(an_alert())
    assert len(str(caught.value)) < 1000


def test_what_is_secret_in_an_address_is_in_no_error(heard: Receiver) -> None:
    heard.answer = lambda posted: (500, {}, b"")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for url in (heard.url, nobody, "http://localhost:1"):
        with pytest.raises(DeliveryError) as caught:
            hook(f"{url}/services/c4n4ry?token=c4n4ry").send(an_alert())
        assert "c4n4ry" not in str(caught.value)
    with pytest.raises(SpecError) as refused:
        hook("http://example.com/services/c4n4ry")
    assert "c4n4ry" not in str(refused.value)


# Whom it may reach ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "ftp://example.com/", "file:///etc/passwd", "/etc/passwd", "https://user:pw@example.com/",
     "https://169.254.169.254/latest", "https://2130706433/", "https://[fd00:ec2::254]/", "http://10.0.0.1/",
     "http://localhost.example.com/", "https://exa mple.com/", "s3://bucket/key", "https://"],
)  # fmt: skip
def test_what_is_no_address_for_alerts_is_refused_at_the_door(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        hook(url)
    assert caught.value.fix


def answering(monkeypatch: pytest.MonkeyPatch, name: str, *addresses: str) -> None:
    """The network's resolver, of which a test needs none."""
    real = socket.getaddrinfo

    def looked_up(host: str, *args: object, **kwargs: object) -> list[object]:
        if host != name:
            return list(real(host, *args, **kwargs))  # type: ignore[arg-type]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)


@pytest.mark.parametrize("inside", ["10.1.2.3", "192.168.1.7", "127.0.0.1", "169.254.169.254"])
def test_a_name_that_leads_inside_is_not_connected_to(monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    name = f"hooks-{inside.replace('.', '-')}.example"
    answering(monkeypatch, name, "203.0.114.5", inside)
    with pytest.raises(DeliveryError, match="RESMAP_ALERT_HOSTS") as caught:
        hook(f"https://{name}/").send(an_alert())
    assert name in str(caught.value)


def test_a_private_host_is_reached_where_the_owner_of_the_machine_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[str] = []

    def noted(address: tuple[str, int], *args: object, **kwargs: object) -> socket.socket:
        connected.append(address[0])
        raise OSError("nobody there")

    monkeypatch.setattr("urllib3.util.connection.create_connection", noted)
    answering(monkeypatch, "hooks.corp.example", "10.20.30.40")
    monkeypatch.setenv("RESMAP_ALERT_HOSTS", "other.example, Hooks.Corp.example")
    with pytest.raises(DeliveryError, match="cannot be reached"):
        hook("https://hooks.corp.example/").send(an_alert())
    assert connected == ["10.20.30.40"]
    answering(monkeypatch, "hooks.corp.example", "127.0.0.1")  # allowed is the network, not this machine


def test_even_a_host_that_is_allowed_may_not_be_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "inner.corp.example", "127.0.0.1")
    monkeypatch.setenv("RESMAP_ALERT_HOSTS", "inner.corp.example")
    with pytest.raises(DeliveryError, match="local address"):
        hook("https://inner.corp.example/").send(an_alert())


def test_a_name_that_nobody_knows_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str, *args: object, **kwargs: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DeliveryError, match="cannot be reached"):
        hook("https://nobody-knows.example/").send(an_alert())


# Sinks of a job -------------------------------------------------------------------------------------------------------


def test_a_job_gives_its_sinks_by_name(tmp_path: Path) -> None:
    monitor = Monitor.model_validate(
        {
            "schedule": "every 1d",
            "sinks": [
                {"name": "hook", "webhook": "https://example.com/"},
                {"name": "rows", "file": str(tmp_path / "alerts.parquet")},
                {"name": "items", "stac": str(tmp_path / "stac")},
                {"name": "mail", "email": ["a@example.org"], "smtp": "smtp://mail.example", "sender": "b@example.org"},
            ],
        }
    )
    found = sinks_of(monitor)
    assert {name: type(sink).__name__ for name, sink in found.items()} == {
        "hook": "Webhook", "rows": "GrowingFile", "items": "AlertCatalog", "mail": "Mail",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []
