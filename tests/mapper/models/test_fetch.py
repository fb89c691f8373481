"""Weights from elsewhere: vouched for, fetched once a machine, whole or not at all."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mapper import models
from mapper.errors import CredentialsError, ModelError
from mapper.models.fetch import cache_folder, check_address, fetch, hub_file, kept_weights, sha256_of, shown
from mapper.models.weights import read_weights, write_weights
from tests.mapper.models.hub import COMMIT, a_hub
from tests.servers import Fault, FileServer, files_over_http


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, str]:
    """A weights file of ``lines`` and its sha256, in the folder that is served."""
    (tmp_path / "served").mkdir()
    path = tmp_path / "served" / "w.safetensors"
    torch.manual_seed(5)
    net = {"first.weight": torch.randn(4, 3), "first.bias": torch.randn(4)}
    net |= {"second.weight": torch.randn(1, 4), "second.bias": torch.randn(1)}
    return path, write_weights(path, model="lines", tensors=net)


@pytest.fixture
def served(made: tuple[Path, str]) -> Iterator[FileServer]:
    with files_over_http(made[0].parent) as server:
        yield server


def gets(server: FileServer, path: str = "/w.safetensors") -> int:
    return sum(request.method == "GET" for request in server.asked(path))


def left(cache: Path) -> list[str]:
    """What is in the cache beside locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") if cache.is_dir() else []


# ── paths ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_path_is_used_where_it_lies(made: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sha256 = made
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("HOME", str(path.parent))
    for given in (str(path), "w.safetensors", "./w.safetensors", "~/w.safetensors", path.as_uri()):
        assert fetch(given, sha256).samefile(path)
    assert not cache.exists()


def test_a_path_with_another_sha256_is_refused(made: tuple[Path, str]) -> None:
    with pytest.raises(ModelError, match=f"sha256 {made[1][:12]}…, and the job asks for 000000000000…"):
        fetch(str(made[0]), "0" * 64)


def test_a_digest_may_be_written_in_capitals(made: tuple[Path, str]) -> None:
    assert fetch(str(made[0]), made[1].upper()) == made[0]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux tells how much a process has read")
def test_weights_are_read_once_to_be_checked_by_job_and_by_model(tmp_path: Path) -> None:
    def read_so_far() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])

    path = tmp_path / "large.safetensors"
    sha256 = write_weights(path, model="lines", tensors={"a": torch.zeros(2_000_000)})
    before = read_so_far()
    read_weights(fetch(str(path), sha256), model="lines")
    assert 8_000_000 < read_so_far() - before < 12_000_000


def test_a_file_that_changed_has_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"one")
    first = sha256_of(path)
    path.write_bytes(b"other")
    assert (first, sha256_of(path)) == (hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"other").hexdigest())


# ── what vouches for an address ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("address", "what", "remedy"),
    [
        ("https://example.com/w.safetensors", "vouched for", "give its sha256"),
        ("s3://bucket/w.safetensors", "vouched for", "give its sha256"),
        ("hf://owner/name@main/w.safetensors", "vouched for", "a commit of 40 hex digits"),
        (f"hf://owner/name@{COMMIT[:-1]}/w.safetensors", "vouched for", "a commit of 40 hex digits"),
        ("hf://owner/name/w.safetensors", "no file on the model hub", "hf://owner/name@revision/file"),
        (f"hf://owner/name@{COMMIT}/../w.safetensors", "no file on the model hub", "hf://owner/name@revision/file"),
        ("ftp://example.com/w.safetensors", "from ftp://", "https, http, s3"),
    ],
)
def test_an_address_that_nothing_vouches_for_is_refused_unopened(address: str, what: str, remedy: str) -> None:
    with pytest.raises(ModelError, match=what) as refused:
        check_address(address, None)
    assert remedy in refused.value.fix
    assert refused.value.where == {"weights": address}


def test_a_sha256_vouches_for_any_address_and_a_commit_for_the_hub() -> None:
    for address in ("https://example.com/w", "s3://bucket/w", "gs://bucket/w", "az://box/w", "hf://owner/name@main/w"):
        check_address(address, "0" * 64)
    check_address(f"hf://owner/name@{COMMIT}/w", None)


def test_an_address_of_the_hub_has_three_parts() -> None:
    parts = hub_file("hf://some-one/a.model_2@refs%2Fpr%2F1/folder/w.safetensors")
    assert (parts.repo, parts.revision, parts.file) == ("some-one/a.model_2", "refs/pr/1", "folder/w.safetensors")


def test_secrets_of_an_address_are_not_shown() -> None:
    assert shown("https://me:word@example.com:8443/w?X-Amz-Signature=1#x") == "https://example.com:8443/w"
    assert shown(f"hf://owner/name@{COMMIT}/w") == f"hf://owner/name@{COMMIT}/w"
    assert shown("/data/what?.safetensors") == "/data/what?.safetensors"


# ── fetching ────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_fetched_is_kept_under_its_digest_and_not_asked_for_again(
    made: tuple[Path, str], served: FileServer, cache: Path
) -> None:
    path, sha256 = made
    kept = fetch(f"{served.url}/w.safetensors", sha256)
    assert kept == cache / f"{sha256}.safetensors"
    assert kept.read_bytes() == path.read_bytes()
    assert fetch(f"{served.url}/w.safetensors", sha256) == kept
    assert fetch("https://elsewhere.example/the/same", sha256) == kept
    assert gets(served) == 1
    assert left(cache) == [f"{sha256}.json", f"{sha256}.safetensors"]


def test_a_model_is_loaded_from_an_address_and_its_digest_is_in_its_fingerprint(
    made: tuple[Path, str], served: FileServer, cache: Path, lines_model: str
) -> None:
    net = models.load(lines_model, weights=f"{served.url}/w.safetensors", sha256=made[1])
    assert made[1] in net.fingerprint
    (kept,) = kept_weights()
    assert (kept.model, kept.sha256, kept.source) == ("lines", made[1], f"{served.url}/w.safetensors")


def test_eight_workers_of_a_machine_fetch_once(made: tuple[Path, str], served: FileServer, cache: Path) -> None:
    served.fail("/w.safetensors", Fault(delay_s=1.5))
    code = "import sys; from mapper.models.fetch import fetch; print(fetch(sys.argv[1], sys.argv[2]))"
    command = [sys.executable, "-c", code, f"{served.url}/w.safetensors", made[1]]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    said = {worker.communicate(timeout=120)[0].strip() for worker in workers}
    assert said == {str(cache / f"{made[1]}.safetensors")}
    assert gets(served) == 1


def test_another_digest_is_refused_and_nothing_is_kept(made: tuple[Path, str], served: FileServer, cache: Path) -> None:
    with pytest.raises(ModelError, match=f"has sha256 {made[1][:12]}…, and the job asks for 0000"):
        fetch(f"{served.url}/w.safetensors", "0" * 64)
    assert left(cache) == []


def test_a_pickle_is_not_kept_and_the_command_to_convert_it_is_told(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps([1, 2, 3], protocol=2))
    sha256 = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    with files_over_http(tmp_path) as server, pytest.raises(ModelError, match="pickle, which could run") as refused:
        fetch(f"{server.url}/w.pth", sha256)
    assert "resmap models convert" in refused.value.fix
    assert left(cache) == []


def test_a_damaged_copy_is_fetched_again(made: tuple[Path, str], served: FileServer, cache: Path) -> None:
    kept = fetch(f"{served.url}/w.safetensors", made[1])
    kept.write_bytes(kept.read_bytes()[:-1])
    assert fetch(f"{served.url}/w.safetensors", made[1]).read_bytes() == made[0].read_bytes()
    assert gets(served) == 2


@pytest.mark.parametrize(
    "fault",
    [Fault(truncate_at=300, times=2), Fault(status=503, times=2)],
    ids=["the connection breaks", "the server is busy"],
)
def test_trouble_that_passes_is_waited_out(
    made: tuple[Path, str], served: FileServer, cache: Path, fault: Fault
) -> None:
    served.fail("/w.safetensors", fault)
    assert sha256_of(fetch(f"{served.url}/w.safetensors", made[1], wait_s=0.01)) == made[1]
    assert gets(served) == 3


@pytest.mark.parametrize(
    ("fault", "kind", "what", "asked"),
    [
        (Fault(status=404), ModelError, "there are no weights at this address", 1),
        (Fault(status=403), CredentialsError, "the weights may not be read", 1),
        (Fault(status=400), ModelError, "the server answers with status 400", 1),
        (Fault(status=500), ModelError, "the server answers with status 500", 3),
        (Fault(truncate_at=300), ModelError, "the weights did not arrive", 3),
    ],
    ids=["missing", "forbidden", "refused", "broken", "cut short"],
)
def test_trouble_that_lasts_gets_a_sentence_without_secrets(
    made: tuple[Path, str], served: FileServer, cache: Path, fault: Fault, kind: type[Exception], what: str, asked: int
) -> None:
    served.fail("/w.safetensors", fault)
    with pytest.raises(kind, match=what) as failed:
        fetch(f"{served.url}/w.safetensors?token=secret-word", made[1], wait_s=0.01)
    assert "secret-word" not in str(failed.value)
    assert failed.value.fix  # type: ignore[attr-defined]  # both kinds are MapperErrors
    assert gets(served) == asked
    assert left(cache) == []


def test_a_server_that_is_not_there_gets_a_sentence(cache: Path) -> None:
    with pytest.raises(ModelError, match="the weights did not arrive") as failed:
        fetch("http://127.0.0.1:9/w.safetensors", "0" * 64, wait_s=0.01)
    assert "network" in failed.value.fix


@contextmanager
def boasting(length: int) -> Iterator[str]:
    """The URL of a server that promises so many bytes and never sends them."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815  # the server looks for this name

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/w"
    server.shutdown()
    server.server_close()


def test_what_is_too_large_for_weights_is_not_begun(cache: Path) -> None:
    with boasting(10**14) as url, pytest.raises(ModelError, match="more than 64 GB"):
        fetch(url, "0" * 64)
    assert left(cache) == []


def test_a_cache_that_cannot_be_written_names_the_variable(
    made: tuple[Path, str], served: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RESMAP_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot be kept here") as refused:
        fetch(f"{served.url}/w.safetensors", made[1])
    assert "RESMAP_CACHE" in refused.value.fix


def test_the_cache_lies_in_the_users_own_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESMAP_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "resmap" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert cache_folder() == Path("/var/cache/me/resmap/weights")
    monkeypatch.setenv("RESMAP_CACHE", "/scratch")
    assert cache_folder() == Path("/scratch/weights")


def test_weights_come_from_a_bucket(made: tuple[Path, str], bucket: str, cache: Path) -> None:
    import s3fs

    s3fs.S3FileSystem().put_file(str(made[0]), f"{bucket}/models/w.safetensors")
    assert sha256_of(fetch(f"{bucket}/models/w.safetensors", made[1])) == made[1]
    with pytest.raises(ModelError, match="no weights at this address"):
        fetch(f"{bucket}/models/gone.safetensors", "0" * 64)


# ── the model hub ───────────────────────────────────────────────────────────────────────────────────────────


def fetched_from(hub: str, *addresses: str, offline: bool = False) -> list[str]:
    """What ``fetch`` gives or says for each, in a process of its own: the hub's address is read at import."""
    code = """
import sys
from mapper.errors import ModelError
from mapper.models.fetch import fetch
for address in sys.argv[1:]:
    try:
        print(fetch(address))
    except ModelError as error:
        print(error.what)
"""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": str(int(offline)),
    }
    command = [sys.executable, "-c", code, *addresses]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_a_file_of_the_hub_is_fetched_once_by_its_commit(made: tuple[Path, str], cache: Path) -> None:
    address = f"hf://owner/lines@{COMMIT}/w.safetensors"
    with a_hub({"w.safetensors": made[0].read_bytes()}) as (url, asked):
        assert fetched_from(url, address, address) == 2 * [str(cache / f"{made[1]}.safetensors")]
        assert len([request for request in asked if request.startswith("GET /owner/")]) == 1
    assert json.loads((cache / f"{made[1]}.json").read_text()) == {"source": address}
    assert fetched_from(url, address, offline=True) == [str(cache / f"{made[1]}.safetensors")]


def test_what_the_hub_lacks_is_named(made: tuple[Path, str], cache: Path) -> None:
    with a_hub({"w.safetensors": made[0].read_bytes()}) as (url, _):
        assert fetched_from(
            url,
            f"hf://owner/other@{COMMIT}/w.safetensors",
            f"hf://owner/lines@{COMMIT[::-1]}/w.safetensors",
            f"hf://owner/lines@{COMMIT}/v.safetensors",
        ) == [
            "the model hub has no repository owner/other, or it is private",
            f"the model hub has no revision {COMMIT[::-1]}",
            "the model hub has no file v.safetensors",
        ]
    assert fetched_from(url, f"hf://owner/lines@{COMMIT}/w.safetensors", offline=True) == [
        "the model hub cannot be reached"
    ]
    assert left(cache) == []
