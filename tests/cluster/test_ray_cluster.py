"""Who may talk to a Ray cluster: one started here asks for a token, one that asks nobody is not joined unasked."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.ray_cluster import connect, own_token
from mapper.errors import ResourceError

STARTED_HERE = """
import os, ray
from pathlib import Path
from cluster.ray_cluster import asks_for_a_token, connect

assert connect(1, None, readers=0, insecure=False)
secret = (Path.home() / ".ray" / "auth_token").read_text()
assert secret not in str(ray.get_runtime_context().runtime_env)
print("asks", asks_for_a_token(ray.get_runtime_context().gcs_address))
ray.shutdown()
"""

ASKS_NOBODY = """
import ray
from ray.cluster_utils import Cluster
from cluster.ray_cluster import asks_for_a_token, connect
from mapper.errors import ResourceError

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
try:
    connect(None, cluster.address, readers=0, insecure=False)
except ResourceError as error:
    print("refused", error, "joined", ray.is_initialized())
assert not connect(None, cluster.address, readers=0, insecure=True)
print("then joined", ray.is_initialized())
ray.shutdown()
cluster.shutdown()
"""


def said_by(program: str, home: Path, **environment: str) -> str:
    """What a process of its own says: this one may have a Ray already, and only one."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=mine | {"HOME": str(home)} | environment, capture_output=True, text=True,
        timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_cluster_started_here_asks_for_a_token_that_only_its_owner_can_read(tmp_path: Path) -> None:
    assert "asks True" in said_by(STARTED_HERE, tmp_path, RAY_AUTH_MODE="disabled")  # whatever the environment says
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


def test_a_cluster_that_asks_nobody_for_a_token_is_joined_only_where_that_was_said(tmp_path: Path) -> None:
    said = said_by(ASKS_NOBODY, tmp_path, RAY_AUTH_MODE="disabled")
    assert "refused this Ray cluster asks nobody for a token" in said
    assert "--insecure-ray" in said
    assert "joined False" in said
    assert "then joined True" in said


def test_a_token_that_is_there_is_kept_and_closed_to_others(tmp_path: Path) -> None:
    file = tmp_path / "auth_token"
    file.write_text("one of before")
    file.chmod(0o644)
    own_token(file)
    assert file.read_text() == "one of before"
    assert file.stat().st_mode & 0o777 == 0o600


def test_of_many_who_make_a_token_at_once_all_have_the_same(tmp_path: Path) -> None:
    file = tmp_path / ".ray" / "auth_token"

    def make(_: int) -> str:
        own_token(file)
        return file.read_text()

    with ThreadPoolExecutor(8) as threads:
        seen = set(threads.map(make, range(40)))
    assert len(seen) == 1
    assert len(seen.pop()) == 64
    assert [left.name for left in file.parent.iterdir()] == ["auth_token"]


def test_a_client_from_outside_is_told_to_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ResourceError, match="must be in its Ray cluster") as caught:
        connect(None, "ray://head:10001", readers=0, insecure=False)
    assert "ray job submit" in caught.value.fix
