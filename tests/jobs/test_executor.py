"""Jobs submitted, run, cancelled and taken again: each in a process of its own, and each once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from jobs.executor import Executor
from jobs.keeper import ENDED
from jobs.processes import Process, here, resmap_of_mine
from jobs.registry import Registry, RunRow
from jobs.submissions import Queue, Submission
from jobs.turns import KEEPER
from mapper.errors import QuestionError, SpecError
from tests.stories.world import World

FAKE = (sys.executable, str(Path(__file__).parent / "fake_resmap.py"))
SOON_S = 60.0


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(f"sqlite:///{tmp_path}/registry.db")


@pytest.fixture
def server(registry: Registry, tmp_path: Path) -> Iterator[Callable[..., Executor]]:
    """Makes servers that share a registry; what they have begun is ended afterwards, by its number."""
    made: list[Executor] = []

    def make(**options: object) -> Executor:
        given = {"folder": tmp_path / "jobs", "program": FAKE} | options
        made.append(Executor(registry, **given))  # type: ignore[arg-type]  # options of its own
        return made[-1]

    yield make
    for executor in made:
        executor.close()
    for row in Queue(registry).all(states=("running",)):
        if row.process is not None and row.process.lives(*KEEPER):
            keeper = psutil.Process(row.process.pid)
            for process in (*keeper.children(), keeper):
                process.kill()


def job(mosaic: Path, name: str = "ends 0", **more: Any) -> str:
    return yaml.safe_dump(
        {
            "name": name,
            "area": {"bbox": [12.0, 55.0, 12.1, 55.1]},
            "imagery": {"catalog": "/nowhere/catalog.json"},
            "prompts": [{"name": "a", "expression": "the buildings"}],
            "output": {"mosaic": str(mosaic)},
        }
        | more,
        sort_keys=False,
    )


def until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def state(executor: Executor, key: str) -> str:
    known = executor.submission(key)
    assert known is not None
    return known.run_state


def ended(executor: Executor, key: str) -> Submission:
    until(lambda: state(executor, key) not in ("queued", "running"), "it has not ended")
    known = executor.submission(key)
    assert known is not None
    return known


def begun(mosaic: Path) -> list[str]:
    """What the processes were started with that took this job on."""
    path = Path(f"{mosaic}.begun")
    return path.read_text().splitlines() if path.exists() else []


def test_a_submitted_job_is_mapped_by_a_process_of_its_own(world: World, registry: Registry, tmp_path: Path) -> None:
    mosaic = tmp_path / "map.zarr"
    text = yaml.safe_dump(world.job(mosaic, area=world.rectangle(200, 200, 300, 300)))
    with Executor(registry, folder=tmp_path / "jobs") as executor:
        submitted = executor.submit(text, local=True, by="somebody")
        assert (submitted.created, submitted.state) == (True, "queued")
        known = ended(executor, submitted.key)
        assert (known.run_state, known.exit_status) == ("done", 0), executor.log(submitted.key)
        assert f"Run {submitted.run} is done" in executor.log(submitted.key)[0]
        again = executor.submit(text, local=True)
        assert (again.key, again.created, again.state) == (submitted.key, False, "done")
        assert executor.retry(submitted.key).state == "done"  # nothing was given up: nothing begins
        assert [row.state for row in registry.find(submitted.run)] == ["done"]
        stranger = Executor(Registry(f"sqlite:///{tmp_path}/other.db"), folder=tmp_path / "others")
        told = stranger.submit(text)
        assert (told.created, told.state) == (False, "done")  # its files say so, whoever mapped it


def test_a_job_is_one_run_however_many_submit_it_at_once(server: Callable[..., Executor], tmp_path: Path) -> None:
    mosaic = tmp_path / "map.zarr"
    servers = [server().start(), server().start()]
    with ThreadPoolExecutor(8) as hands:
        told = list(hands.map(lambda n: servers[n % 2].submit(job(mosaic, "waits")), range(16)))
    assert len({one.key for one in told}) == 1
    assert sum(one.created for one in told) == 1
    until(lambda: begun(mosaic), "it has not begun")
    servers[0].cancel(told[0].key)
    ended(servers[1], told[0].key)
    assert len(begun(mosaic)) == 1


def test_a_cancel_is_heard_that_comes_before_the_run_can_hear(server: Callable[..., Executor], tmp_path: Path) -> None:
    mosaic = tmp_path / "map.zarr"
    executor = server().start()
    key = executor.submit(job(mosaic, "starts")).key
    until(lambda: begun(mosaic), "it has not begun")
    executor.cancel(key)
    assert ended(executor, key).exit_status == 130
    assert "interrupted" in executor.log(key)[0]  # it said so itself: the signal did not end it


def test_as_many_run_at_once_as_the_machine_is_to_have(server: Callable[..., Executor], tmp_path: Path) -> None:
    first, second = server().start(), server().start()
    keys = [first.submit(job(tmp_path / f"{n}.zarr", "waits")).key for n in range(3)]
    until(lambda: state(first, keys[0]) == "running", "the first has not begun")
    for n, key in enumerate(keys):
        until(Path(tmp_path / f"{n}.zarr.begun").exists, "it has not begun")
        assert [state(second, other) for other in keys].count("running") == 1
        first.cancel(key)
        assert ended(first, key).run_state == "cancelled"


@pytest.mark.parametrize(("status", "said"), [(4, "quarantined"), (1, "stopped")])
def test_a_run_that_failed_begins_again_when_it_is_submitted_again(
    server: Callable[..., Executor], registry: Registry, tmp_path: Path, status: int, said: str
) -> None:
    executor, mosaic = server().start(), tmp_path / "map.zarr"
    key = executor.submit(job(mosaic, f"ends {status}")).key
    known = ended(executor, key)
    assert (known.run_state, known.exit_status) == (said, status)
    assert [row.state for row in registry.runs()] == [said]
    again = executor.submit(job(mosaic, f"ends {status}"), gpus=2)
    assert (again.key, again.created, again.state) == (key, False, "queued")
    until(lambda: len(begun(mosaic)) == 2, "it was not begun again")
    assert begun(mosaic)[1].endswith("--gpus 2")


def test_a_run_is_interrupted_once_and_ends_as_cancelled(server: Callable[..., Executor], tmp_path: Path) -> None:
    executor, mosaic = server().start(), tmp_path / "map.zarr"
    key = executor.submit(job(mosaic, "waits")).key
    until(lambda: begun(mosaic), "it has not begun")
    until(lambda: "begun" in executor.log(key)[0], "it has said nothing")
    assert [executor.cancel(key) for _ in range(3)] == ["running"] * 3
    known = ended(executor, key)
    assert (known.state, known.exit_status) == ("cancelled", 130)  # 99: it was told twice, and left at once
    assert executor.cancel(key) == "cancelled"
    executor.submit(job(mosaic, "waits"))
    until(lambda: len(begun(mosaic)) == 2, "it was not begun again")


def test_what_is_cancelled_in_the_queue_never_begins(
    server: Callable[..., Executor], registry: Registry, tmp_path: Path
) -> None:
    waiting, mosaic = server(), tmp_path / "map.zarr"  # it takes nothing from the queue
    key = waiting.submit(job(mosaic)).key
    assert waiting.cancel(key) == "cancelled"
    executor = server().start()
    other = executor.submit(job(tmp_path / "other.zarr")).key
    ended(executor, other)
    assert begun(mosaic) == []
    assert [row.state for row in registry.runs() if row.mosaic == str(mosaic)] == ["cancelled"]


def test_a_server_that_comes_back_finds_what_it_has_begun(server: Callable[..., Executor], tmp_path: Path) -> None:
    mosaic = tmp_path / "map.zarr"
    first = server().start()
    key = first.submit(job(mosaic, "waits")).key
    until(lambda: begun(mosaic), "it has not begun")
    first.close()
    before = first.submission(key)
    second = server().start()
    assert before is not None
    assert before.process is not None
    assert before.process.lives(*KEEPER)
    assert state(second, key) == "running"
    second.cancel(key)
    assert ended(second, key).exit_status == 130
    assert len(begun(mosaic)) == 1


def test_a_run_survives_its_server_and_how_it_ended_is_known(registry: Registry, tmp_path: Path) -> None:
    mosaic = tmp_path / "map.zarr"
    serve = (
        "import sys, time; from pathlib import Path; from jobs.executor import Executor; from jobs.registry import "
        "Registry\nx = Executor(Registry(sys.argv[1]), folder=Path(sys.argv[2]), program=sys.argv[4:]).start()\n"
        "print(x.submit(Path(sys.argv[3]).read_text()).key, flush=True); time.sleep(600)"
    )
    (tmp_path / "job.yaml").write_text(job(mosaic, "waits"))
    url, words = f"sqlite:///{tmp_path}/registry.db", [str(tmp_path / "jobs"), str(tmp_path / "job.yaml"), *FAKE]
    with subprocess.Popen([sys.executable, "-c", serve, url, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        key = process.stdout.readline().strip()
        until(lambda: begun(mosaic), "it has not begun")
        process.kill()
    found = Executor(registry, folder=tmp_path / "jobs", program=FAKE)
    until(lambda: state(found, key) == "running", "it is not known")
    found.cancel(key)
    until((tmp_path / "jobs" / key / ENDED).exists, "it has not ended")
    with found:
        assert ended(found, key).run_state == "cancelled"
    assert len(begun(mosaic)) == 1


def test_what_a_dead_server_had_claimed_and_not_begun_goes_back_to_the_queue(
    server: Callable[..., Executor], registry: Registry, tmp_path: Path
) -> None:
    executor, mosaic = server(), tmp_path / "map.zarr"
    key = executor.submit(job(mosaic)).key
    gone = replace(here(), pid=2**22 - 7)
    with Queue(registry).deciding() as decision:
        decision.change(key, state="starting", pid=gone.pid, started=gone.began)
    executor.start()
    assert ended(executor, key).run_state == "done"
    assert len(begun(mosaic)) == 1


def test_what_a_living_server_has_claimed_is_left_to_it(
    server: Callable[..., Executor], registry: Registry, tmp_path: Path
) -> None:
    executor, mosaic = server(children=2), tmp_path / "map.zarr"
    key = executor.submit(job(mosaic)).key
    me = here()
    with Queue(registry).deciding() as decision:
        decision.change(key, state="starting", pid=me.pid, started=me.began)
    executor.start()
    ended(executor, executor.submit(job(tmp_path / "other.zarr")).key)
    assert state(executor, key) == "running"
    assert begun(mosaic) == []


def test_a_run_whose_process_was_killed_counts_as_interrupted(server: Callable[..., Executor], tmp_path: Path) -> None:
    executor, mosaic = server().start(), tmp_path / "map.zarr"
    key = executor.submit(job(mosaic, "waits")).key
    until(lambda: begun(mosaic), "it has not begun")
    known = executor.submission(key)
    assert known is not None
    assert known.pid is not None
    keeper = psutil.Process(known.pid)
    children = keeper.children()
    keeper.kill()
    for child in children:
        child.kill()
    assert (ended(executor, key).run_state, ended(executor, key).exit_status) == ("interrupted", None)


def test_a_submission_of_another_machine_is_shown_and_not_touched(
    server: Callable[..., Executor], tmp_path: Path
) -> None:
    there, here_ = server(host="elsewhere"), server(host="here").start()
    key = there.submit(job(tmp_path / "map.zarr")).key
    ended(here_, here_.submit(job(tmp_path / "other.zarr")).key)
    assert state(here_, key) == "queued"
    for ask in (here_.cancel, here_.retry, here_.log):
        with pytest.raises(QuestionError, match="belongs to elsewhere"):
            ask(key)
    assert here_.submit(job(tmp_path / "map.zarr")).state == "queued"
    assert begun(tmp_path / "map.zarr") == []


def test_a_retry_takes_the_same_job_and_the_tiles_that_were_given_up(
    server: Callable[..., Executor], tmp_path: Path
) -> None:
    executor, mosaic = server().start(), tmp_path / "map.zarr"
    key = executor.submit(job(mosaic, "ends 4"), local=True).key
    ended(executor, key)
    told = executor.retry(key, by="somebody")
    assert (told.key, told.created, told.state) == (key, False, "queued")
    until(lambda: len(begun(mosaic)) == 2, "it was not begun again")
    assert begun(mosaic)[1].endswith("--local --retry")


def test_a_run_under_way_cannot_be_retried_and_a_retry_is_one_however_often_it_is_asked(
    server: Callable[..., Executor], tmp_path: Path
) -> None:
    executor = server()
    key = executor.submit(job(tmp_path / "map.zarr", "ends 4")).key
    with pytest.raises(QuestionError, match="under way"):
        executor.retry(key)
    executor.start()
    ended(executor, key)
    executor.close()
    assert {executor.retry(key).state for _ in range(3)} == {"queued"}
    known = executor.submission(key)
    assert known is not None
    assert known.turn == 2


def test_every_change_is_in_the_audit_with_who_asked(
    server: Callable[..., Executor], registry: Registry, tmp_path: Path
) -> None:
    executor = server()
    key = executor.submit(job(tmp_path / "map.zarr"), by="ann at 10.0.0.7\x1b[2J").key
    executor.cancel(key, by="bob")
    executor.retry(key, by="eve")
    assert [(entry.act, entry.by, entry.outcome) for entry in reversed(registry.audit(key))] == [
        ("submit", "ann at 10.0.0.7�[2J", "queued"), ("cancel", "bob", "cancelled"), ("retry", "eve", "queued"),
    ]  # fmt: skip


def test_a_job_and_its_log_are_for_their_owner_alone(server: Callable[..., Executor], tmp_path: Path) -> None:
    executor = server().start()
    signed = job(tmp_path / "map.zarr", imagery={"catalog": "https://u:pw@stac.example/?token=x&sig=secret"})
    known = ended(executor, executor.submit(signed).key)
    folder = Path(known.log)
    assert (folder / "job.yaml").read_text() == signed  # the run needs what signs its addresses
    modes = {path.name: path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir()) if path.name != "lock"}
    assert set(modes.values()) == {0}, modes
    assert "pw" not in known.job
    assert "secret" not in known.job


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output": {"mosaic": "map.zarr"}}, "begins nowhere"),
        ({"output": {"mosaic": "~/map.zarr"}}, "begins nowhere"),
        ({"output": {"mosaic": "file://map.zarr"}}, "begins nowhere"),
        ({"output": {"mosaic": "simplecache::s3://b/m"}}, "begins nowhere"),
        ({"output": {"mosaic": "s3://key:secret@bucket/m.zarr"}}, "holds a secret"),
        ({"area": {"geojson": "area.json"}}, "area.geojson is a path"),
        ({"imagery": {"catalog": "./catalog.json"}}, "imagery.catalog is a path"),
        ({"model": {"name": "pocket", "weights": "w.safetensors"}}, "model.weights is a path"),
        ({"nonsense": 1}, "nonsense is not a key"),
        ({"name": "a\x1b[1m"}, "cannot be printed"),
    ],
)  # fmt: skip
def test_a_job_that_is_not_valid_leaves_nothing(
    server: Callable[..., Executor], registry: Registry, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    executor = server()
    with pytest.raises(SpecError, match=said) as refused:
        executor.submit(job(tmp_path / "map.zarr", **change))
    assert refused.value.fix
    assert "secret" not in str(refused.value).replace("holds a secret", "")
    assert Queue(registry).all() == []
    assert registry.audit() == []
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(
    "text", ["", "- 1", "a: [", "a: &a [*a]", "x" * (4 * 2**20 + 1), "!!python/object:os.system x"]
)
def test_text_that_is_no_job_is_refused_with_a_sentence(server: Callable[..., Executor], text: str) -> None:
    with pytest.raises(SpecError) as refused:
        server().submit(text)
    assert refused.value.fix


def test_what_is_not_there_is_a_sentence(server: Callable[..., Executor], registry: Registry) -> None:
    executor = server()
    for ask in (executor.cancel, executor.retry, executor.log, executor.key_of):
        with pytest.raises(QuestionError, match="no run is called 'r-1'"):
            ask("r-1")
    registry.save(RunRow(run="r", mosaic="/m.zarr", name="r", state="done", planned=1, finished=1))
    assert executor.cancel(executor.key_of("r")) == "done"
    with pytest.raises(QuestionError, match="not submitted"):
        executor.log(executor.key_of("r"))
    registry.save(RunRow(run="r", mosaic="/n.zarr", name="r", state="done", planned=1, finished=1))
    with pytest.raises(QuestionError, match="2 runs"):
        executor.key_of("r")


def lease(mosaic: Path, **holder: object) -> None:
    folder = mosaic / ".resmap"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lease.json").write_text(json.dumps({"run": "r", "id": "one", "at": time.time(), **holder}))


def test_a_run_of_a_terminal_is_interrupted_once_where_its_process_is_surely_the_right_one(
    registry: Registry, server: Callable[..., Executor], tmp_path: Path
) -> None:
    executor, mosaic = server(host="here"), tmp_path / "map.zarr"
    registry.save(RunRow(run="r", mosaic=str(mosaic), name="r", state="running", planned=9, finished=1))
    key = executor.key_of("r")
    (tmp_path / "resmap").write_text(Path(FAKE[1]).read_text())
    (tmp_path / "job.yaml").write_text(job(mosaic, "waits"))
    words = [sys.executable, str(tmp_path / "resmap"), "run", str(tmp_path / "job.yaml")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        until(lambda: begun(mosaic), "it has not begun")
        lease(mosaic, host="there", pid=process.pid)
        with pytest.raises(QuestionError, match="begun on there"):
            executor.cancel(key)
        lease(mosaic, host="here", pid=os.getpid())
        with pytest.raises(QuestionError, match="no `resmap run`"):
            executor.cancel(key)
        lease(mosaic, host="here", pid=process.pid, at=time.time() - 3600)
        assert executor.cancel(key) == "running"  # nobody has had it for an hour: there is nobody to tell
        assert process.poll() is None
        lease(mosaic, host="here", pid=process.pid)
        assert [executor.cancel(key), executor.cancel(key)] == ["running", "running"]
        assert process.wait(SOON_S) == 130
    assert executor.cancel(key) == "running"  # as the index has it: whoever had the run is gone


def test_a_number_that_was_given_again_is_another_process() -> None:
    me = here()
    assert me.lives()
    assert not Process(pid=me.pid, began=me.began - 60).lives()
    assert not me.lives("-m", "no such word")
    assert resmap_of_mine(me.pid, by=time.time()) is None  # we are no resmap
    assert Process.of(2**22 - 7) is None


def test_a_corpse_does_not_live() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    known = Process.of(child.pid)
    assert known is not None
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not known.lives()
    child.wait()


def test_a_server_whose_registry_is_away_says_so_and_goes_on_when_it_is_back(
    registry: Registry, server: Callable[..., Executor], tmp_path: Path
) -> None:
    executor = server()
    key = executor.submit(job(tmp_path / "map.zarr")).key
    (tmp_path / "registry.db").rename(tmp_path / "away.db")
    executor.start()
    until(lambda: executor.away, "it does not say so")
    (tmp_path / "registry.db").unlink()
    (tmp_path / "away.db").rename(tmp_path / "registry.db")
    assert ended(executor, key).run_state == "done"
    until(lambda: not executor.away, "it still says so")


def test_a_keeper_that_is_not_told_to_begin_does_nothing(tmp_path: Path) -> None:
    words = [sys.executable, *KEEPER, str(tmp_path), "--", *FAKE, "run", str(tmp_path / "job.yaml")]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=SOON_S)
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_a_keeper_passes_an_interrupt_on_however_early_it_comes(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(job(tmp_path / "map.zarr", "waits"))
    words = [sys.executable, *KEEPER, str(tmp_path), "--", *FAKE, "run", str(tmp_path / "job.yaml")]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as keeper:
        assert keeper.stdin is not None
        until(lambda: signal.SIGTERM in _caught(keeper.pid), "it does not listen")  # Python itself hears SIGINT
        keeper.send_signal(signal.SIGINT)
        keeper.stdin.write(b"go\n")
        keeper.stdin.close()
        assert keeper.wait(SOON_S) == 130
    assert begun(tmp_path / "map.zarr") == []


def _caught(pid: int) -> set[signal.Signals]:
    """Signals that a process has a handler for."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    mask = int(line.split()[1], 16)
    return {number for number in (signal.SIGINT, signal.SIGTERM) if mask >> (number - 1) & 1}


def test_threads_that_close_an_executor_do_not_wait_for_its_runs(
    server: Callable[..., Executor], tmp_path: Path
) -> None:
    executor = server().start()
    executor.submit(job(tmp_path / "map.zarr", "waits"))
    until(lambda: begun(tmp_path / "map.zarr"), "it has not begun")
    closing = threading.Thread(target=executor.close)
    closing.start()
    closing.join(SOON_S)
    assert not closing.is_alive()
