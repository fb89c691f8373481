"""Who may talk to a Ray cluster: one started here asks for a token, one that asks nobody is not joined unasked."""

from __future__ import annotations

import ipaddress
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from ray._private.utils import check_version_info

from cluster.ray_access import certificates, manner_of
from cluster.ray_cluster import _asking, _told, check_nodes, connect, own_token
from mapper.errors import CredentialsError, ResourceError
from tests.cluster.ray_head import Head, ray_head

PEM = Encoding.PEM

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
    assert "resmap run --address" in caught.value.fix


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as started:
        yield started


JOINS = """
import ray, sys
from cluster.ray_cluster import connect
from mapper.errors import MapperError

try:
    connect(None, sys.argv[1], readers=0, insecure=False)
    print("joined", ray.get(ray.remote(lambda: 6 * 7).options(num_cpus=0).remote()))
except MapperError as error:
    print(type(error).__name__, error)
"""


def joining(head: Head, home: Path, **environment: str) -> str:
    """What becomes of a driver that joins by the address of the head."""
    mine = {name: value for name, value in head.environment.items() if not name.startswith("RAY_AUTH_")}
    done = subprocess.run(
        [sys.executable, "-c", JOINS, head.gcs], env=mine | {"HOME": str(home)} | environment, capture_output=True,
        text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.chaos
def test_a_driver_shows_the_token_that_the_head_asks_for_and_is_told_at_once_where_it_has_none(
    head: Head, tmp_path: Path
) -> None:
    assert joining(head, tmp_path, RAY_AUTH_TOKEN=head.token) == "joined 42\n"  # though no mode was set
    assert "CredentialsError this Ray cluster asks for a token, and there is none here" in joining(head, tmp_path)
    wrong = joining(head, tmp_path, RAY_AUTH_TOKEN="not the token of this head")
    assert "CredentialsError the token here is not the one of this Ray cluster" in wrong


@pytest.mark.chaos
def test_a_head_that_speaks_tls_is_joined_with_its_certificates_and_not_without(tmp_path: Path) -> None:
    tls = certificates_in(tmp_path)
    with ray_head(more=tls) as started:
        token = {"RAY_AUTH_TOKEN": started.token}
        assert joining(started, tmp_path, **token) == "joined 42\n"
        plainly = joining(started, tmp_path, **token, RAY_USE_TLS="0", **dict.fromkeys(list(tls)[1:], ""))
        assert "ResourceError no Ray cluster answers" in plainly
        assert "RAY_USE_TLS=1" in plainly
        strange = tmp_path / "another"
        strange.mkdir()
        other = joining(started, tmp_path, **token, **certificates_in(strange))
        assert "ResourceError no Ray cluster answers" in other


@pytest.mark.parametrize(
    ("set_to", "sentence"),
    [
        (
            {"RAY_USE_TLS": "1"},
            "RAY_USE_TLS is set, and RAY_TLS_SERVER_CERT and RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT",
        ),
        ({"RAY_USE_TLS": "1", "RAY_TLS_SERVER_CERT": "a", "RAY_TLS_CA_CERT": "c"}, "and RAY_TLS_SERVER_KEY not"),
        ({"RAY_TLS_CA_CERT": "c"}, "RAY_TLS_CA_CERT set, and RAY_USE_TLS not"),
        (
            {"RAY_USE_TLS": "1", "RAY_TLS_SERVER_CERT": "a", "RAY_TLS_SERVER_KEY": "b", "RAY_TLS_CA_CERT": "c"},
            "the file that RAY_TLS_SERVER_CERT names cannot be read",
        ),
    ],
)
def test_half_of_tls_is_told_in_a_sentence(
    set_to: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CredentialsError, match=sentence) as caught:
        certificates()
    assert caught.value.fix
    assert caught.value.exit_status == 5


def test_nobody_at_an_address_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("cluster.ray_cluster.manner_of", lambda head: manner_of(head, timeout_s=0.2))
    with pytest.raises(ResourceError, match="no Ray cluster answers"):
        connect(None, "127.0.0.1:1", readers=0, insecure=False)


def test_other_versions_of_ray_or_python_are_told_in_one_sentence() -> None:
    theirs = {"ray_version": "2.40.0", "python_version": "3.9.1"}
    with pytest.raises(RuntimeError) as of_ray:
        check_version_info(theirs, "node 10.0.0.1")
    said = _told(of_ray.value, "head:6379")
    assert "the cluster has Ray 2.40.0 and Python 3.9.1, and this process Ray" in said.what
    assert f"Python {platform.python_version()}" in said.what
    assert "http://HEAD:8265" in said.fix


def test_nodes_with_another_resmap_are_named_before_a_tile_is_handed_out(
    ray_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_nodes()
    check_nodes([])  # none has joined
    monkeypatch.setattr("cluster.ray_cluster.version", lambda package: "9.9.9")
    with pytest.raises(
        ResourceError, match=r"node .* has resmap \S+, and the driver of this run resmap 9\.9\.9"
    ) as caught:
        check_nodes([node["NodeID"] for node in ray_cluster.nodes()])
    assert "one image for all" in caught.value.fix


def test_a_node_without_our_code_can_say_that_it_has_none() -> None:
    asks = ray.cloudpickle.dumps(_asking()._function)  # type: ignore[no-untyped-call]  # Ray's own
    program = (
        "import sys, importlib.metadata as found; sys.modules['cluster'] = None\n"
        "found.version = lambda package: (_ for _ in ()).throw(found.PackageNotFoundError(package))\n"
        "from ray import cloudpickle; print(cloudpickle.loads(sys.stdin.buffer.read())())"
    )
    said = subprocess.run([sys.executable, "-c", program], input=asks, capture_output=True, timeout=60, check=True)
    assert said.stdout == b"None\n"


def certificates_in(folder: Path) -> dict[str, str]:
    """An authority, and one certificate of it for all addresses of this machine; Ray's variables that name them."""
    now = datetime.now(UTC)

    def signed(name: str, key: Any, by: Any, by_name: str, *, authority: bool) -> x509.Certificate:
        addresses = {one.address.partition("%")[0] for found in psutil.net_if_addrs().values() for one in found
                     if one.family in (socket.AF_INET, socket.AF_INET6)}  # fmt: skip
        names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.DNSName(socket.gethostname())]
        names += [x509.IPAddress(ipaddress.ip_address(one)) for one in sorted(addresses)]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by_name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(by, hashes.SHA256())
        )

    root, node = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
    kept = {
        "RAY_TLS_SERVER_CERT": signed("a node", node, root, "the tests", authority=False).public_bytes(PEM),
        "RAY_TLS_SERVER_KEY": node.private_bytes(PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        "RAY_TLS_CA_CERT": signed("the tests", root, root, "the tests", authority=True).public_bytes(PEM),
    }
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    return {"RAY_USE_TLS": "1"} | {name: str(folder / name) for name in kept}
