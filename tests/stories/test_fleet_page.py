"""``docs/fleet.md``: what it says to type runs, as it stands there, and says what the page shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from ray.scripts.scripts import cli as ray
from typer.main import get_command

from jobs import cli
from jobs.gpu_prices import read_prices
from jobs.spec import JobSpec
from tests.stories.world import World

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "fleet.md").read_text()
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

ALONE = ("unshare", "--net", "--pid", "--fork", "--mount-proc", "--mount", "--kill-child")
"""With a loopback, processes and a Ray of its own: the page uses Ray's usual ports, and ends with ``ray stop``."""


def part(title: str) -> str:
    """What stands under a heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found.group(1)


def steps() -> list[tuple[str, list[str]]]:
    """Each block to be typed, and the lines that are shown after it."""
    found: list[tuple[str, list[str]]] = []
    for kind, text in FENCED.findall(part("Try it here")):
        if kind == "sh":
            found.append((text, []))
        else:
            assert kind == "output", kind
            found[-1][1].extend(text.splitlines())
    return found


def shown_in(said: str, line: str) -> bool:
    """Whether a line was said, where … stands for anything."""
    pattern = ".*".join(re.escape(piece) for piece in line.split("…"))
    return re.search(rf"^{pattern}$", said, re.MULTILINE) is not None


# Typed ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def alone() -> None:
    """The test is skipped where nobody may part a process from this machine's network."""
    if shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("processes with a network of their own are not allowed here: root, and `unshare`, are needed")


@pytest.mark.fleet
@pytest.mark.timeout(1200)
def test_the_page_does_what_it_says(alone: None, tmp_path: Path) -> None:
    typed = steps()
    script = ["set -euo pipefail", "ip link set lo up", "mkdir -p /tmp/ray", "mount -t tmpfs tmpfs /tmp/ray"]
    for number, (text, _) in enumerate(typed):
        script += [f"echo '@@ {number}'", text]
    (tmp_path / "page.sh").write_text("\n".join(script))
    environment = {
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "LANG": "C.UTF-8",
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*ALONE, "bash", str(tmp_path / "page.sh")], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False, timeout=1150,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    said = re.split(r"^@@ \d+\n", done.stdout, flags=re.MULTILINE)[1:]
    assert len(said) == len(typed)
    missing = [line for (_, shown), text in zip(typed, said, strict=True) for line in shown if not shown_in(text, line)]
    assert missing == [], done.stdout[-6000:]
    assert (tmp_path / ".resmap" / "fleet" / "auth_token").stat().st_mode & 0o777 == 0o600


# Read ----------------------------------------------------------------------------------------------------------------


def test_the_part_to_try_goes_from_a_token_to_a_map_that_is_held_against_the_laptops() -> None:
    typed = "\n".join(text for text, _ in steps())
    words = [
        "RAY_AUTH_MODE=token", "ray start --head", "ray start --address", "resmap demo", "resmap submit",
        "resmap status", "resmap cancel", "resmap logs", "--wait", "resmap verify", "diff ", "ray stop",
    ]  # fmt: skip
    places = [typed.index(word) for word in words]
    assert places == sorted(places)
    assert sum(len(shown) for _, shown in steps()) >= 4


def test_a_line_that_was_not_said_is_noticed() -> None:
    assert shown_in("run a-1 is done: job b\n", "run a-… is done: job …")
    assert not shown_in("run a-1 is running: job b\n", "run a-… is done: job …")


def test_every_command_is_one_and_has_the_options_it_is_shown_with() -> None:
    known = get_command(cli.app).commands  # type: ignore[attr-defined]
    text = re.sub(r"\\\n\s*", " ", PAGE)
    shown = re.findall(
        r"\bresmap (run|submit|status|logs|cancel|retry|verify|plan|drain|serve|demo)\b([^\n`#|]*)", text
    )
    assert {name for name, _ in shown} >= {"run", "submit", "status", "logs", "cancel", "retry", "plan", "drain"}
    for name, rest in shown:
        options = {option for parameter in known[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= options, (name, rest)
    of_run = {option for parameter in known["run"].params for option in parameter.opts}
    alone_named = set(re.findall(r"`(--[a-z-]+)[ `…]", PAGE)) - {"--exclude", "--num-gpus"}
    everywhere = {option for command in known.values() for parameter in command.params for option in parameter.opts}
    assert alone_named <= everywhere
    assert {"--driver-label", "--image", "--runtime-env", "--insecure-ray"} <= of_run


def test_every_command_of_ray_is_one_and_has_the_options_it_is_shown_with() -> None:
    for word, rest in re.findall(r"^ray (start|stop|up|down|dashboard)\b([^\n#]*)", PAGE, re.MULTILINE):
        helped = CliRunner().invoke(ray, [word, "--help"]).output
        assert [option for option in re.findall(r"--[a-z-]+", rest) if option not in helped] == [], word


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGE) if "://" not in link]
    headings = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
                for title in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)}  # fmt: skip
    assert [link for link in links if link.startswith("#") and link[1:] not in headings] == []
    assert [link for link in links if not link.startswith("#") and not (DOCS / link).exists()] == []


def test_what_is_said_to_go_wrong_is_said_so_by_the_code() -> None:
    sources = "\n".join(
        path.read_text() for package in ("cluster", "jobs") for path in sorted((ROOT / package).rglob("*.py"))
    )
    messages = re.findall(r"^\| ([^|]+?) \|", part("When it does not work"), re.MULTILINE)
    ours = [text for text in messages if not text.startswith(("it says", "a ", "nodes ", "---"))]
    assert len(ours) >= 9
    assert [text for text in ours for piece in text.split("…") if piece.strip() not in sources] == []


def test_the_yaml_of_the_page_is_what_a_job_and_a_table_of_prices_take(world: World, tmp_path: Path) -> None:
    compute, prices = (yaml.safe_load(text) for kind, text in FENCED.findall(PAGE) if kind == "yaml")
    job = world.job(tmp_path / "map.zarr") | compute
    spec = JobSpec.model_validate(job)
    assert spec.compute.gpu_type == "L4"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(prices))
    assert set(read_prices(tmp_path / "mine.yaml").gpus) == {"L4", "H100"}


def test_the_settings_of_ray_are_those_of_the_image_and_of_the_tests_of_a_fleet() -> None:
    from tests.fleet.fleet import SETTINGS

    said = dict(re.findall(r"\b(RAY_[a-z_]+)=(\d+)", part("Spot, and whatever else goes away")))
    assert said == dict(SETTINGS)
    image = (ROOT / "cluster" / "deploy" / "docker" / "Dockerfile").read_text()
    assert all(f"{name}={value}" in image for name, value in said.items())
