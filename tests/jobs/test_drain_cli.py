"""What `resmap drain` says, and how it ends: a pod's hook reads both. A real Ray is in tests/cluster/test_drain.py."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.drain import Drained
from jobs.cli import app

NODE = "ab12" * 14


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Ray was asked: two workers are there, and one stays if the time is short."""
    asked: list[dict[str, Any]] = []

    def drain(**words: Any) -> Drained:
        asked.append(words)
        left = 2 if not words["wait"] else int(words["within_s"] < 10)
        return Drained(node=NODE, within_s=words["within_s"], workers=2, left=left)

    monkeypatch.setattr("cluster.drain.drain", drain)
    return asked


@pytest.mark.parametrize(
    ("words", "within_s", "says", "status"),
    [
        ((), 110.0, "node ab12ab12ab12 drains, and goes within 110 s; workers there: 2", 0),
        (("--within", "0.5"), 0.5, "goes within 0.5 s", 0),
        (("--within", "inf"), math.inf, "node ab12ab12ab12 drains; workers there: 2", 0),
        (("--wait",), 110.0, "is drained: none of 2 workers is left there", 0),
        (("--wait", "--within", "5"), 5.0, "the time is up; workers still there: 1 of 2", 1),
    ],
)
def test_it_says_what_came_of_it(
    asked: list[dict[str, Any]], words: tuple[str, ...], within_s: float, says: str, status: int
) -> None:
    done = CliRunner().invoke(app, ["drain", *words])
    assert (done.exit_code, asked[0]["within_s"]) == (status, within_s)
    assert says in done.stdout


def test_it_says_so_to_programs_too(asked: list[dict[str, Any]]) -> None:
    done = CliRunner().invoke(app, ["drain", "--json", "--node", NODE, "--address", "10.0.0.7:6379"])
    assert json.loads(done.stdout) == {"node": NODE, "within_s": 110.0, "workers": 2, "left": 2}
    done = CliRunner().invoke(app, ["drain", "--json", "--within", "inf"])
    assert json.loads(done.stdout)["within_s"] is None
    assert asked[:1] == [{"within_s": 110.0, "node": NODE, "address": "10.0.0.7:6379", "wait": False}]


@pytest.mark.parametrize("within", ["-1", "nan", "soon"])
def test_what_is_no_time_is_refused_before_ray_is_asked(asked: list[dict[str, Any]], within: str) -> None:
    done = CliRunner().invoke(app, ["drain", "--within", within])
    assert (done.exit_code, asked) == (2, [])
    assert "--within" in done.stderr
