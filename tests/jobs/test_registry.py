"""The index of runs: in a file of its owner's or in a PostgreSQL, whose schema grows with resmap."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from jobs import migrations
from jobs.executor import Executor
from jobs.ledger import RunFolder, run_names
from jobs.monitors.store import Monitors
from jobs.registry import LONGEST_NOTE, META, Registry, RunRow
from jobs.submissions import Queue
from jobs.turns import Turns
from mapper.errors import MapperError, MosaicError
from tests.jobs.postgres import postgres
from tests.jobs.test_executor import FAKE, job, until
from tests.stories.world import World, mapped

OLD = (
    "CREATE TABLE runs (run VARCHAR NOT NULL, mosaic VARCHAR NOT NULL, name VARCHAR NOT NULL, state VARCHAR NOT NULL, "
    "planned INTEGER NOT NULL, finished INTEGER NOT NULL, updated VARCHAR NOT NULL, PRIMARY KEY (run, mosaic))"
)
"""The registry as it was made before its schema had steps."""

ROW = RunRow(run="r-1", mosaic="/m.zarr", name="r", state="running", planned=9, finished=2)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a registry that nobody has opened yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deep/registry.db"
    address: str = request.getfixturevalue("server")
    name = f"t{uuid.uuid4().hex}"
    execute(address, f"CREATE DATABASE {name}")
    return address.removesuffix("postgres") + name


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.pool.NullPool)


def execute(url: str, *statements: str) -> list[Any]:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(exist_ok=True)
    with engine_of(url).connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        result = [connection.execute(sa.text(statement)) for statement in statements][-1]
        return list(result) if result.returns_rows else []


def test_a_new_registry_has_the_tables_that_the_code_says(url: str) -> None:
    Registry(url).close()
    with engine_of(url).connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), META)
    assert differences == []
    assert execute(url, "SELECT version_num FROM alembic_version") == [(migrations.STEPS[-1],)]


def test_the_steps_that_are_named_are_the_files_that_are_there() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    steps = ScriptDirectory.from_config(config).walk_revisions()
    assert tuple(step.revision for step in steps)[::-1] == migrations.STEPS


def test_a_registry_of_the_version_before_is_taken_over(url: str) -> None:
    execute(url, OLD, "INSERT INTO runs VALUES ('r-1', '/m.zarr', 'r', 'done', 9, 9, '2026-01-01T00:00:00+00:00')")
    registry = Registry(url)
    assert [(row.run, row.state, row.updated) for row in registry.runs()] == [
        ("r-1", "done", "2026-01-01T00:00:00+00:00")
    ]
    assert Queue(registry).all() == []
    assert Monitors(registry).all() == []
    registry.close()


def test_a_registry_that_a_newer_resmap_has_made_is_refused_and_left_alone(url: str) -> None:
    Registry(url).close()
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(MapperError, match="a newer resmap") as refused:
        Registry(url)
    assert "RESMAP_REGISTRY" in refused.value.fix
    assert execute(url, "SELECT version_num FROM alembic_version") == [("9999",)]


def test_a_step_that_fails_leaves_the_registry_as_it_was(url: str) -> None:
    execute(url, OLD, "CREATE TABLE audit (number INTEGER)")  # in the way of the second step
    with pytest.raises(MapperError, match="cannot be opened"):
        Registry(url)
    with engine_of(url).connect() as connection:
        assert set(sa.inspect(connection).get_table_names()) == {"runs", "audit"}


def test_processes_that_make_a_registry_at_once_make_one(url: str) -> None:
    code = (
        "import sys; from jobs.registry import Registry, RunRow\n"
        "Registry(sys.argv[1]).save(RunRow(run=sys.argv[2], mosaic='/m', name='', state='', planned=0, finished=0))"
    )
    made = [subprocess.Popen([sys.executable, "-c", code, url, str(n)]) for n in range(3)]
    assert [process.wait(60) for process in made] == [0, 0, 0]
    registry = Registry(url)
    assert {row.run for row in registry.runs()} == {"0", "1", "2"}
    registry.close()


def test_who_would_change_the_schema_of_a_postgresql_waits_for_whoever_does(server: str) -> None:
    execute(server, "CREATE DATABASE waited_for")
    url = server.removesuffix("postgres") + "waited_for"
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with engine_of(url).begin() as holder, ThreadPoolExecutor(1) as hands:
        holder.execute(sa.select(sa.func.pg_advisory_xact_lock(migrations.TURN)))
        made = hands.submit(Registry, url)
        until(lambda: execute(url, waiting), "nobody waits")
        assert not sa.inspect(holder).has_table("runs")
        holder.commit()
        made.result(60).close()


def test_threads_that_make_a_registry_at_once_make_one(url: str) -> None:
    with ThreadPoolExecutor(8) as hands:
        made = list(hands.map(lambda _: Registry(url), range(8)))
    assert made[0].runs() == []
    for registry in made:
        registry.close()


def test_a_registry_that_is_current_is_opened_without_alembic(url: str) -> None:
    Registry(url).close()
    code = (
        "import sys; from jobs.registry import Registry; Registry(sys.argv[1]).runs(); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_file_is_its_owners_alone_and_was_not_before(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "registry.db"
    Registry(f"sqlite:///{file}").save(ROW)
    assert oct(file.parent.stat().st_mode & 0o777) == "0o700"
    assert {oct(path.stat().st_mode & 0o777) for path in file.parent.iterdir()} == {"0o600"}
    file.chmod(0o644)
    Registry(f"sqlite:///{file}")
    assert oct(file.stat().st_mode & 0o777) == "0o600"


def test_many_write_one_file_at_once_and_nobody_is_turned_away(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    registries = [Registry(url) for _ in range(4)]

    def write(n: int) -> None:
        registries[n % 4].save(RunRow(run=str(n % 7), mosaic="/m", name="", state=str(n), planned=0, finished=0))
        registries[n % 4].note(act="submit", key="k", outcome=str(n))

    with ThreadPoolExecutor(8) as hands:
        list(hands.map(write, range(80)))
    assert len(registries[0].runs()) == 7
    assert sorted(int(entry.outcome) for entry in registries[0].audit("k")) == list(range(80))


def test_nothing_secret_is_kept(url: str) -> None:
    registry = Registry(url)
    signed = "https://key:secret@store.example/m.zarr?X-Amz-Signature=secret&sig=secret"
    registry.save(RunRow(run="r", mosaic=signed, name="r", state="done", planned=1, finished=1))
    registry.save(RunRow(run="r", mosaic=signed, name="r", state="running", planned=1, finished=1))
    assert [(row.mosaic, row.state) for row in registry.runs()] == [("https://store.example/m.zarr", "running")]
    registry.close()


def test_the_audit_has_lines_whatever_it_is_given(url: str) -> None:
    registry = Registry(url)
    for n in range(3):
        registry.note(act="cancel", key=f"k{n}", outcome="x" * 10_000, by="eve\nroot \x1b[2J", origin="10.0.0.1")
    (entry,) = registry.audit("k1")
    assert (entry.by, entry.origin, len(entry.outcome)) == ("eve�root �[2J", "10.0.0.1", LONGEST_NOTE)
    assert [entry.key for entry in registry.audit(last=2)] == ["k2", "k1"]
    registry.close()


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:", "mysql://root:secret@db/x", "oracle://x"])
def test_a_registry_is_a_file_or_a_postgresql(address: str) -> None:
    with pytest.raises(MapperError, match="the registry") as refused:
        Registry(address)
    assert "secret" not in str(refused.value)
    assert "RESMAP_REGISTRY" in refused.value.fix


def test_an_index_that_was_lost_is_made_anew_from_the_mosaics(world: World, tmp_path: Path) -> None:
    mosaic = str(tmp_path / "map.zarr")
    area = world.rectangle(200, 200, 300, 300)
    mapped(world.job(mosaic, area=area))
    mapped(world.job(mosaic, area=area, prompts=[{"name": "cold", "expression": "what is blue"}]))
    registry = Registry(f"sqlite:///{tmp_path}/registry.db")
    registry.save(RunRow(run="gone", mosaic=mosaic, name="gone", state="running", planned=1, finished=0))
    registry.save(RunRow(run="other", mosaic="/other.zarr", name="other", state="done", planned=1, finished=1))
    assert registry.rebuild([mosaic]) == 2
    rows = {row.run: row for row in registry.runs()}
    assert set(rows) == {*run_names(mosaic), "other"}
    for run in run_names(mosaic):
        facts = RunFolder(mosaic, run).facts()
        assert (rows[run].state, rows[run].planned, rows[run].updated) == ("done", facts["planned"], facts["ended"])
        assert rows[run].finished == rows[run].planned
    next(Path(mosaic).glob(".resmap/runs/*/run.json")).write_text("{")
    with pytest.raises(MosaicError):
        registry.rebuild([mosaic])
    assert len(registry.runs()) == 3


def test_two_servers_on_one_registry_never_claim_one_run_twice(url: str, tmp_path: Path) -> None:
    registries = [Registry(url), Registry(url)]
    servers = [Executor(registry, folder=tmp_path / "jobs", program=FAKE, host="here") for registry in registries]
    keys = [servers[0].submit(job(tmp_path / f"{n}.zarr")).key for n in range(12)]
    turns = [Turns(Queue(registry), host="here", children=5, program=FAKE) for registry in registries]
    with ThreadPoolExecutor(6) as hands:
        claimed = [one.key for one in hands.map(lambda n: turns[n % 2]._claim(), range(30)) if one is not None]
    assert len(claimed) == len(set(claimed)) == 5  # no more at once than the machine is to have
    assert claimed[0] in keys
    assert len(Queue(registries[1]).all(states=("queued",))) == 7
    for registry in registries:
        registry.close()


def test_one_job_submitted_at_two_servers_at_once_is_one_run(url: str, tmp_path: Path) -> None:
    registries = [Registry(url), Registry(url)]
    servers = [Executor(registry, folder=tmp_path / "jobs", program=FAKE) for registry in registries]
    with ThreadPoolExecutor(8) as hands:
        told = list(hands.map(lambda n: servers[n % 2].submit(job(tmp_path / "m.zarr")), range(16)))
    assert [one.created for one in told].count(True) == 1
    assert len({one.key for one in told}) == 1
    assert [row.turn for row in Queue(registries[0]).all()] == [1]
    for registry in registries:
        registry.close()


def test_a_registry_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/registry.db")
    execute(f"sqlite:///{tmp_path}/registry.db", "DROP TABLE runs")
    with pytest.raises(MapperError, match="cannot be written: OperationalError"):
        registry.save(ROW)
    with pytest.raises(MapperError, match="cannot be read: OperationalError"):
        registry.runs()
