"""The command that serves the dashboard: who may come, where the token lies, how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from jobs import serve_cli
from jobs.cli import app as commands
from jobs.dashboard.keys import Access
from jobs.serve_cli import access_of
from jobs.token_file import kept_token
from mapper.errors import QuestionError
from tests.jobs.dashboard.fakes import LIVE
from tests.jobs.dashboard.running import BROWSER, TOKEN, other_address, streamed

# The token's file ----------------------------------------------------------------------------------------------------


def test_a_token_is_made_for_its_user_alone_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    token = kept_token(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) >= 43  # 256 bits
    assert kept_token(path) == token
    assert kept_token(tmp_path / "other") != token
    assert [kept.name for kept in path.parent.iterdir()] == ["token"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666, 0o610])
def test_a_token_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    kept_token(path)
    path.chmod(mode)
    with pytest.raises(QuestionError, match="others can read the token") as refused:
        kept_token(path)
    assert "chmod 600" in refused.value.fix


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"short", b"two words are no token", b"\xff" * 40, b"x" * 5000, "ä".encode() * 20]
)
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(QuestionError, match="holds no token"):
        kept_token(path)


def test_a_token_that_cannot_be_kept_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "token", tmp_path):
        with pytest.raises(QuestionError, match="token's file"):
            kept_token(path)


# The command ---------------------------------------------------------------------------------------------------------


@contextmanager
def served(tmp_path: Path, *options: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """The command, running; killed at the end if it is running still."""
    command = [sys.executable, "-m", "jobs.cli", "serve", "--port", "0", "--no-open", *options]
    home = os.environ | {"XDG_DATA_HOME": str(tmp_path), "RESMAP_REGISTRY": f"sqlite:///{tmp_path}/registry.db"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    with subprocess.Popen(command, text=True, env=home, **pipes) as running:
        try:
            yield running
        finally:
            running.kill()


def told(running: subprocess.Popen[str]) -> dict[str, Any]:
    """What it says with ``--json``."""
    assert running.stdout is not None
    said = ""
    for line in running.stdout:
        said += line
        if line.startswith("}"):
            found: dict[str, Any] = json.loads(said)
            return found
    assert running.stderr is not None
    raise AssertionError(running.stderr.read())


def test_the_command_serves_takes_changes_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    with served(tmp_path, "--json") as running:
        said = told(running)
        assert said["token_needed"] is False
        assert said["token_file"] == str(tmp_path / "resmap" / "token")
        token = Path(said["token_file"]).read_text().strip()
        with httpx.Client(base_url=said["url"]) as client:
            assert client.get("/", headers=BROWSER).status_code == 200
            assert client.get("/api/v1/runs").json() == []
            refused = client.post(
                "/api/v1/runs", json={"job": "nonsense"}, headers={"Authorization": f"Bearer {token}"}
            )
            assert refused.status_code == 422
            running.send_signal(signal.SIGINT)
            out, complaints = running.communicate(timeout=60)
    assert running.returncode == 0
    assert token not in out + complaints
    (line,) = complaints.splitlines()
    assert re.fullmatch(r"\S+Z audit by=token from=127\.0\.0\.1 act=submit run=- outcome=refused: .*", line)


def test_ctrl_c_ends_it_though_somebody_looks_at_a_run_that_goes_on() -> None:
    command = [sys.executable, "-m", "tests.jobs.dashboard.fakes", "--port", "0"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            root = running.stdout.readline().strip().removesuffix("/")
            with streamed(root, LIVE.id) as events:
                assert next(events)[0] == "page"
                running.send_signal(signal.SIGINT)
                _, complaints = running.communicate(timeout=60)
        finally:
            running.kill()
    # uvicorn complains of answers that it has to cut off when its patience ends.
    assert (running.returncode, complaints) == (0, "")


def test_the_token_is_asked_for_wherever_others_can_come_from() -> None:
    def access(host: str, *names: str) -> Access:
        return access_of(TOKEN, host=host, names=names, readonly=False)

    assert all(access(host).loopback for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"))
    assert not any(access(host).loopback for host in ("0.0.0.0", "::", "192.0.2.2", "example.com", "localhost.example"))
    assert not access("127.0.0.1", "maps.example.org").loopback
    assert "maps.example.org" in access("127.0.0.1", "Maps.Example.org").hosts
    assert access_of(TOKEN, host="127.0.0.1", names=(), readonly=True).readonly


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made by openssl")
def test_away_from_loopback_a_terminal_is_shown_a_link_and_only_its_token_opens_over_tls(tmp_path: Path) -> None:
    host = other_address()
    if host is None:
        pytest.skip("this machine has no address but its loopback")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", f"subjectAltName=IP:{host}", "-keyout", str(key), "-out",
            str(certificate)]  # fmt: skip
    subprocess.run(make, check=True, capture_output=True, timeout=60)
    ours, theirs = pty.openpty()
    with served(tmp_path, "--host", host, "--tls-cert", str(certificate), "--tls-key", str(key), stdout=theirs):
        os.close(theirs)
        with os.fdopen(ours) as terminal:  # open to the end: what is still said into one that is closed is an error
            root, link, file = (terminal.readline().split()[-1] for _ in range(3))
            token = Path(file).read_text().strip()
            assert link == f"{root}?token={token}"
            with httpx.Client(verify=ssl.create_default_context(cafile=str(certificate))) as client:
                assert client.get(f"{root}healthz").status_code == 401
                signed = client.get(link, headers=BROWSER)
                assert "; Secure" in signed.headers["set-cookie"]
                assert client.get(f"{root}healthz").text == "ok\n"


def test_where_nobody_sits_at_a_terminal_the_token_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    access = access_of(TOKEN, host="192.0.2.2", names=(), readonly=False)
    for as_json in (True, False):
        serve_cli._tell("http://192.0.2.2:8765/", Path("/kept/token"), access, plain_text=True, as_json=as_json)
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    assert said.out.count("/kept/token") == 2
    assert "plain text" in said.err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--host", "no-such-host.invalid"], "cannot listen at no-such-host.invalid"),
        (["--host", "203.0.113.7"], "cannot listen at 203.0.113.7"),
        (["--tls-cert", "{here}"], "TLS needs a certificate and its key"),
        (["--tls-cert", "{here}", "--tls-key", "{here}"], "the certificate and its key cannot be used"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], sentence: str
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    here = [option.format(here=__file__) for option in options]
    asked = CliRunner().invoke(commands, ["serve", "--no-open", "--port", "0", "--read-only", *here])
    assert isinstance(asked.exception, QuestionError)
    assert sentence in asked.exception.what


def test_a_port_that_is_taken_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        asked = CliRunner().invoke(commands, ["serve", "--port", port, "--no-open"])
    assert isinstance(asked.exception, QuestionError)
    assert "Address already in use" in asked.exception.what
    assert "--port" in asked.exception.fix
