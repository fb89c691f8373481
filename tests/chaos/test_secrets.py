"""What opens a store or a catalog is in nothing that a run leaves or says: it is looked for in every file and line."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from starlette.testclient import TestClient

from jobs.dashboard.app import app
from jobs.dashboard.keys import Access
from jobs.dashboard.queries import Queries
from jobs.executor import Executor
from jobs.registry import Registry
from jobs.status import run_status
from tests.chaos.drivers import Ended, drive
from tests.servers import files_over_http
from tests.stories.world import World

AREA = World.rectangle(130, 20, 290, 240)
"""Of which the missing file shows a part."""

CANARIES: Mapping[str, str] = {
    name: f"canary{number}{'e9b1f7' * 3}"
    for number, name in enumerate(
        ("key id", "secret key", "session token", "signature", "sas", "token", "password", "bearer", "api key")
    )
}
"""What it is → a word that stands nowhere else."""

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": CANARIES["key id"],
    "AWS_SECRET_ACCESS_KEY": CANARIES["secret key"],
    "AWS_SESSION_TOKEN": CANARIES["session token"],
    "AWS_REGION": "us-east-1",
    "AZURE_STORAGE_SAS_TOKEN": f"sig={CANARIES['sas']}",
    "GDAL_HTTP_HEADERS": f"Authorization: Bearer {CANARIES['bearer']}",
}
SIGNED = (
    f"X-Amz-Signature={CANARIES['signature']}&X-Amz-Security-Token={CANARIES['session token']}"
    f"&sig={CANARIES['sas']}&token={CANARIES['token']}"
)
ENTRANCE = f"token={CANARIES['token']}&api_key={CANARIES['api key']}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """All that commands over one job have said and left."""

    folder: Path
    said: Mapping[str, Ended]
    """Command → how it ended."""

    pages: Mapping[str, bytes]
    """Address of the dashboard → what it answers."""


@pytest.fixture(scope="module")
def left(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    """A run over a signed catalog, one of whose files is missing; its exports; and runs that fail."""
    folder = tmp_path_factory.mktemp("secrets")
    ground = tmp_path_factory.mktemp("ground")  # not looked through: the catalog itself holds what signs it
    shutil.copytree(world.folder, ground, dirs_exist_ok=True)
    with files_over_http(ground) as served:
        _sign(ground, served.url)
        (ground / "north.tif").unlink()
        env = ENVIRONMENT | {
            "RESMAP_REGISTRY": f"sqlite:///{folder}/registry.sqlite",
            "AWS_ENDPOINT_URL": f"{served.url}/no-such-store",
        }
        port = served.url.rpartition(":")[2]
        catalogs = {
            "job": f"{served.url}/catalog.json?{ENTRANCE}",
            "entered": f"http://user:{CANARIES['password']}@127.0.0.1:{port}/catalog.json",
            "absent": f"{served.url}/none.json?{ENTRANCE}",
            "nobody": f"http://user:{CANARIES['password']}@127.0.0.1:9/catalog.json?{ENTRANCE}",
        }
        for name, catalog in catalogs.items():
            settings = world.job(folder / f"{name}.zarr", imagery={"catalog": catalog}, area=AREA)
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        bucket = world.job("s3://canary-bucket/map.zarr", imagery={"catalog": str(world.catalog)}, area=AREA)
        (folder / "bucket.yaml").write_text(yaml.safe_dump(bucket))
        job, mosaic, out = str(folder / "job.yaml"), str(folder / "job.zarr"), folder / "out"
        commands: dict[str, tuple[str, ...]] = {
            "plan": ("plan", job, "--json"),
            "run": ("run", job, "--local", "--json"),
            "run again": ("run", job, "--local", "--retry"),
            "status": ("status", mosaic, "--json"),
            "all runs": ("status",),
            "verify": ("verify", mosaic, "--full", "--json"),
            "stac": ("export", "stac", mosaic, "--out", str(out / "stac"), "--with", "cog,png,vectors"),
            "vectors": ("export", "vectors", mosaic, "--out", str(out / "objects.parquet")),
            "doctor": ("doctor", "--json"),
            "report": ("report", mosaic, "--out", str(out / "report.html")),
        }
        failing = ("entered", "absent", "nobody", "bucket")
        commands |= {name: ("run", str(folder / f"{name}.yaml"), "--local") for name in failing}
        said = {name: drive(folder, *words, env=env) for name, words in commands.items()}
        for name in catalogs:  # the user's own file, which says what the user wrote there
            (folder / f"{name}.yaml").unlink()
        yield Left(folder=folder, said=said, pages=_pages(env["RESMAP_REGISTRY"], mosaic))


def _pages(registry: str, mosaic: str) -> dict[str, bytes]:
    """All that the dashboard says of the first run, to people and to programs."""
    queries = Queries(Registry(registry), mosaics=[mosaic])
    pages = app(queries, Executor(Registry(registry)), access=Access(readonly=True, hosts=("testserver",)))
    (run,) = (line for line in queries.runs() if line.mosaic == mosaic)
    lost = run_status(mosaic)[0].counts["quarantined"]
    assert lost, "no tile was given up"
    tile = queries.failures(run.id)[0].first_tile
    of_run = ("", "/map", "/failures", "/log", "/report.html", f"/tiles/{tile}")
    told = ("", "/failures", f"/tiles/{tile}", "/map", "/history", "/log")
    addresses = ["/", "/metrics", "/compare", "/monitors", "/api/v1/runs", "/api/v1/openapi.json"]
    addresses += [f"/runs/{run.id}{part}" for part in of_run] + [f"/api/v1/runs/{run.id}{part}" for part in told]
    with TestClient(pages) as browser:
        return {address: browser.get(address).content for address in addresses}


def _sign(ground: Path, url: str) -> None:
    """Have every item of a catalog name its files by signed addresses."""
    for path in ground.glob("*.json"):
        document: dict[str, Any] = json.loads(path.read_text())
        for asset in document.get("assets", {}).values():
            asset["href"] = f"{url}/{asset['href']}?{SIGNED}"
        path.write_text(json.dumps(document))


def readable(path: Path) -> bytes:
    """All that a file says, what is compressed in it too."""
    content = path.read_bytes()
    if content[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(content))
        return content + repr((table.schema.metadata, table.to_pylist())).encode()
    if content[:2] == b"\x1f\x8b":
        return content + gzip.decompress(content)
    if content[:4] == b"\x89PNG":
        return content + b"".join(_inflated(content))
    return content


def _inflated(content: bytes) -> Iterator[bytes]:
    for found in re.finditer(rb"(zTXt|iTXt|eXIf)", content):
        try:
            yield zlib.decompressobj().decompress(content[found.end() :].partition(b"\0\0")[2])
        except zlib.error:
            continue


def test_the_run_met_what_it_was_to_meet(left: Left) -> None:
    run = json.loads(left.said["run"].out)
    assert left.said["run"].status == 4, left.said["run"].err
    assert run["tiles"]["done"] > 0
    assert len(run["problems"]) > 0
    for name in ("plan", "status", "all runs", "stac", "vectors", "report"):
        assert left.said[name].status == 0, (name, left.said[name].err)
    for name in ("absent", "nobody", "bucket"):
        assert left.said[name].status != 0, name
    assert (left.folder / "out" / "objects.parquet").exists()
    assert list(left.folder.glob("job.zarr/.resmap/runs/*/ledger/*.parquet"))


@pytest.mark.parametrize("name", CANARIES)
def test_no_file_that_a_run_leaves_has_a_secret(left: Left, name: str) -> None:
    files = [path for path in left.folder.rglob("*") if path.is_file() and not path.name.startswith("said-")]
    assert len(files) > 50
    assert [str(path.relative_to(left.folder)) for path in files if CANARIES[name].encode() in readable(path)] == []


@pytest.mark.parametrize("name", CANARIES)
def test_no_command_says_a_secret(left: Left, name: str) -> None:
    word = CANARIES[name]
    assert [command for command, over in left.said.items() if word in over.out or word in over.err] == []


@pytest.mark.parametrize("name", CANARIES)
def test_no_page_of_the_dashboard_says_a_secret(left: Left, name: str) -> None:
    assert len(b"".join(left.pages.values())) > 20_000
    assert [address for address, said in left.pages.items() if CANARIES[name].encode() in said] == []


def test_a_secret_in_any_of_those_files_would_be_found(tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"said": ["a canary"]}), tmp_path / "part.parquet", compression="zstd")
    (tmp_path / "part.gz").write_bytes(gzip.compress(b"a canary"))
    (tmp_path / "part.json").write_text("a canary")
    assert all(b"a canary" in readable(path) for path in tmp_path.iterdir())
