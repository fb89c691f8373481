"""What ``docs/dashboard.md`` says is so: commands, addresses, metrics, and the proxy."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from shutil import which

import pytest
from typer.main import get_command

from jobs import cli
from jobs.dashboard.api import PREFIX
from jobs.dashboard.app import app
from jobs.dashboard.keys import Access
from jobs.dashboard.metric_families import FAMILIES
from tests.jobs.dashboard.fakes import FakeControl, FakeQueries

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "dashboard.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_every_command_has_the_options_it_is_shown_with() -> None:
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    shown = re.findall(r"\bresmap ([a-z]+)((?: [^\n`#]+)?)", PAGE)
    assert {"serve", "report", "submit"} <= {name for name, _ in shown}
    for name, rest in shown:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, name


def test_every_address_is_one_of_the_api() -> None:
    queries = FakeQueries()
    paths = app(queries, FakeControl(queries), access=Access()).openapi()["paths"]
    shown = re.findall(r"\$HERE(/[\w/{}]+)", PAGE)
    assert len(shown) == 6
    assert {PREFIX + path.replace("KEY", "{key}") for path in shown} <= set(paths)


def test_every_metric_is_one_that_is_told() -> None:
    shown = set(re.findall(r"`(resmap_[a-z_]+)", PAGE))
    assert len(shown) > 15
    assert {name.removesuffix("_bucket") for name in shown} <= set(FAMILIES)


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGE) if not link.endswith(".png")]
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_the_example_in_python_is_python() -> None:
    (example,) = blocks("python")
    compile(example, "docs/dashboard.md", "exec")


@pytest.mark.skipif(which("nginx") is None, reason="nginx is in Debian's package nginx-light, not installed here")
def test_nginx_takes_the_proxys_configuration(tmp_path: Path) -> None:
    (example,) = blocks("nginx")
    names = {"pem": tmp_path / "cert.pem", "key": tmp_path / "key.pem"}
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=maps.example.org",
         "-out", names["pem"], "-keyout", names["key"]], check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    for suffix, path in names.items():
        example = example.replace(f"/etc/ssl/maps.example.org.{suffix}", str(path))
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{example}}}\n")
    tried = subprocess.run(
        ["nginx", "-t", "-c", tmp_path / "nginx.conf", "-e", tmp_path / "log"], capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert tried.returncode == 0, tried.stderr
    assert "warn" not in tried.stderr
