"""Jobs sent to a Ray head: which run they are, what of them travels, who is attached, and how they end.

Those of the default suite talk to a stand-in for the head, which keeps jobs as Ray's REST API does; real heads and real
runs are the business of those marked chaos.
"""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.ray_jobs import RayHead, RayJob
from jobs import ray_driver, ray_follow, ray_submit
from jobs.ray_submit import Manner
from jobs.submitted import asked_by
from mapper.errors import QuestionError, ResourceError, SpecError
from tests.cluster.ray_head import Head, ray_head
from tests.stories.command_line import Resmap, command_line
from tests.stories.world import World, write_world

RESMAP_TOKEN = "the token of a resmap server 0123456789"
RAY_TOKEN = "the token of a Ray head 0123456789"
SOON_S = 240.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def resmap(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Resmap:
    return command_line(monkeypatch, capsys)


@dataclass(slots=True)
class StandIn:
    """What a head keeps."""

    address: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    packages: dict[str, bytes] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    """The tokens that it was shown."""

    lock: threading.Lock = field(default_factory=threading.Lock)

    def end(self, submission: str, status: str, *, code: int | None = None, log: str = "", **more: Any) -> None:
        self.jobs[submission] |= {"status": status, "driver_exit_code": code} | more
        self.logs[submission] = log

    def package(self, submission: str) -> dict[str, bytes]:
        """The files that travelled with a job."""
        uri = self.jobs[submission]["runtime_env"]["working_dir"].removeprefix("gcs://")
        with zipfile.ZipFile(io.BytesIO(self.packages[uri])) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("RAY_AUTH_TOKEN", RAY_TOKEN)
    monkeypatch.setenv("RESMAP_TOKEN", RESMAP_TOKEN)
    kept = StandIn()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/":
                self.say(200, "<title>Ray Dashboard</title>")
            elif self.known():
                self.take()

        def do_POST(self) -> None:
            if self.known():
                self.take()

        def do_PUT(self) -> None:
            self.do_POST()

        def known(self) -> bool:
            kept.shown.append(self.headers.get("Authorization", ""))
            if kept.shown[-1] == f"Bearer {RAY_TOKEN}":
                return True
            self.say(401, "Unauthorized: Missing authentication token")
            return False

        def take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = self.path.strip("/").split("/")
            if parts[-1] == "version":
                self.say(200, {"ray_version": "2.60.0", "session_name": "session_of_the_tests"})
            elif parts[1] == "packages":
                if self.command == "PUT":
                    kept.packages[parts[-1]] = body
                self.say(200 if parts[-1] in kept.packages else 404, "")
            elif self.command == "POST" and parts[-1] == "jobs":
                self.begin(json.loads(body))
            elif parts[-1] == "jobs":
                self.say(200, list(kept.jobs.values()))
            elif parts[2] not in kept.jobs:
                self.say(404, f"Job {parts[2]} does not exist")
            elif parts[-1] == "stop":
                kept.jobs[parts[2]]["status"] = "STOPPED"
                self.say(200, {"stopped": True})
            else:
                self.say(200, {"logs": kept.logs.get(parts[2], "")} if parts[-1] == "logs" else kept.jobs[parts[2]])

        def begin(self, asked: dict[str, Any]) -> None:
            with kept.lock:
                if asked["submission_id"] in kept.jobs:
                    self.say(400, "Traceback\nValueError: already exists")
                    return
                kept.jobs[asked["submission_id"]] = asked | {"status": "PENDING", "start_time": 1000 + len(kept.jobs)}
            self.say(200, {"submission_id": asked["submission_id"]})

        def say(self, status: int, answer: object) -> None:
            text = answer if isinstance(answer, str) else json.dumps(answer)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        kept.address = f"http://127.0.0.1:{server.server_port}"
        yield kept
        server.shutdown()
        thread.join()


def job_file(world: World, folder: Path, **changes: Any) -> Path:
    path = folder / f"job-{len(list(folder.glob('job-*')))}.yaml"
    path.write_text(yaml.safe_dump(world.job(folder / "map.zarr", **changes)))
    return path


def test_a_run_on_ray_has_the_name_it_has_anywhere_and_only_its_file_travels(
    world: World, head: StandIn, resmap: Resmap, tmp_path: Path
) -> None:
    said = resmap("submit", job_file(world, tmp_path), "--address", head.address, "--same-files", "--gpus", 2, "--json")
    assert said.status == 0
    files = head.package(said.document["key"])
    run = asked_by(files["job.yaml"].decode()).run
    assert said.document["key"] == f"resmap-{run}"
    assert set(files) == {"job.yaml", "asked.json", "resmap_driver.py"}
    words = json.loads(files["asked.json"])["words"]
    assert words == ["run", "job.yaml", "--address", "auto", "--gpus", "2", "--json"]
    job = head.jobs[f"resmap-{run}"]
    assert job["entrypoint"] == "python resmap_driver.py"
    assert job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "1800"}
    assert "entrypoint_num_gpus" not in job
    assert "entrypoint_num_cpus" not in job  # with neither, Ray puts the driver on the head


def test_neither_token_is_shown_to_the_other_kind_of_server(
    world: World, head: StandIn, resmap: Resmap, tmp_path: Path
) -> None:
    resmap("submit", job_file(world, tmp_path), "--address", head.address, "--same-files")
    assert set(head.shown) == {"", f"Bearer {RAY_TOKEN}"}
    token = tmp_path / "token"
    token.write_text(RESMAP_TOKEN)
    said = resmap("status", "--address", head.address, "--token-file", token)
    assert said.status == 2
    assert "--token-file is for a resmap server" in said.complaint
    assert set(head.shown) == {"", f"Bearer {RAY_TOKEN}"}


def test_sent_by_many_at_once_it_is_one_job_and_sent_again_it_is_attached_to(
    world: World, head: StandIn, tmp_path: Path
) -> None:
    job = job_file(world, tmp_path)

    def send(_: int) -> bool:
        with RayHead(head.address) as mine:
            return ray_submit.submit(mine, job, Manner(same_files=True)).attached

    with ThreadPoolExecutor(8) as threads:
        attached = list(threads.map(send, range(8)))
    assert sorted(attached) == [False] + [True] * 7
    assert len(head.jobs) == 1


def test_a_run_that_is_over_is_taken_up_under_the_next_name(world: World, head: StandIn, tmp_path: Path) -> None:
    job, manner = job_file(world, tmp_path), Manner(same_files=True)
    with RayHead(head.address) as mine:
        first = ray_submit.submit(mine, job, manner).submitted
        for turn, status in enumerate(("FAILED", "STOPPED", "SUCCEEDED"), start=2):
            head.end(next(reversed(head.jobs)), status)
            again = ray_submit.submit(mine, job, manner)
            assert again.submitted.key == f"{first.key}-{turn}"
            assert (again.attached, again.submitted.created, again.submitted.run) == (False, False, first.run)
        (there,) = ray_submit.runs(mine)
        assert (there.run, there.turn, there.state) == (first.run, 4, "queued")
        assert ray_submit.find(mine, first.run).key == f"{first.key}-4"
        assert ray_submit.submission_of(mine, first.key) == first.key  # an earlier one, by its own name


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        ("PENDING", None, "queued"), ("RUNNING", None, "running"), ("SUCCEEDED", 0, "done"),
        ("FAILED", 4, "quarantined"), ("FAILED", 6, "out-of-budget"), ("FAILED", 143, "interrupted"),
        ("FAILED", 1, "stopped"), ("FAILED", None, "stopped"), ("STOPPED", None, "cancelled"),
    ],
)  # fmt: skip
def test_the_state_of_a_job_in_the_words_of_runs(status: Any, code: int | None, state: str) -> None:
    assert ray_submit._state(RayJob(submission="resmap-a-0123456789", status=status, exit_status=code)) == state


def test_status_cancel_and_retry_are_asked_of_the_head(
    world: World, head: StandIn, resmap: Resmap, tmp_path: Path
) -> None:
    there = ("--address", head.address)
    assert "no runs there yet" in resmap("status", *there).out
    sent = resmap("submit", job_file(world, tmp_path), *there, "--same-files", "--json").document
    assert resmap("submit", job_file(world, tmp_path), *there, "--same-files").out.endswith(f"{tmp_path}/map.zarr\n")
    assert resmap("status", *there, "--json").document[0]["state"] == "queued"
    assert "is under way" in resmap("retry", sent["run"], *there).complaint
    assert resmap("cancel", sent["run"], *there, "--json").document == {"key": sent["key"], "state": "running"}
    assert resmap("cancel", sent["run"], *there, "--json").document["state"] == "cancelled"  # not told twice
    again = resmap("retry", sent["run"], *there, "--json").document
    assert again["key"] == f"{sent['key']}-2"
    words = json.loads(head.package(again["key"])["asked.json"])["words"]
    assert words == ["retry", sent["mosaic"], "--run", sent["run"], "--address", "auto", "--json"]
    head.logs[again["key"]] = f"searching\x1b[2J\n{ray_driver.MARK}{{}}\n2/33 tiles\n"
    assert resmap("logs", sent["run"], *there).out == "searching�[2J\n2/33 tiles\n"
    assert "2/33 tiles" in resmap("status", sent["run"], *there).out
    unknown = resmap("status", "no-such-run", *there)
    assert unknown.status == 2
    assert "no run there is called 'no-such-run'" in unknown.complaint


def test_what_the_cluster_cannot_see_and_what_is_secret_is_refused(
    world: World, head: StandIn, resmap: Resmap, tmp_path: Path
) -> None:
    job = job_file(world, tmp_path)
    said = resmap("run", job, "--address", head.address)  # a tunnel's end is no sign that files are shared
    assert said.status == 3
    assert "is a file of this machine" in said.complaint
    assert "--same-files" in said.remedy
    signed = job_file(world, tmp_path, imagery={"catalog": "https://host/stac?sig=abc&se=2030"})
    said = resmap("submit", signed, "--address", head.address, "--same-files")
    assert said.status == 3
    assert "imagery.catalog holds a secret" in said.complaint
    env = tmp_path / "env.yaml"
    env.write_text("env_vars: {HF_TOKEN: x}")
    said = resmap("submit", job, "--address", head.address, "--same-files", "--runtime-env", env)
    assert said.status == 3
    assert "looks like a secret: HF_TOKEN" in said.complaint
    env.write_text("- no mapping")
    assert resmap("submit", job, "--address", head.address, "--same-files", "--runtime-env", env).status == 3
    assert not head.jobs


def test_an_image_and_a_runtime_environment_are_passed_on(world: World, head: StandIn, tmp_path: Path) -> None:
    env = tmp_path / "env.yaml"
    env.write_text("env_vars: {GDAL_CACHEMAX: 512}\nconfig: {setup_timeout_seconds: 900}")
    manner = Manner(same_files=True, image="registry.example/resmap:0.1", runtime_env=env, driver_labels=("pool=cpu",))
    job = job_file(world, tmp_path)
    with RayHead(head.address) as mine:
        key = ray_submit.submit(mine, job, manner).submitted.key
    kept = head.jobs[key]
    assert kept["entrypoint_label_selector"] == {"pool": "cpu"}
    assert 0 < kept["entrypoint_num_cpus"] < 1
    sent = kept["runtime_env"]
    assert (sent["image_uri"], sent["env_vars"]["GDAL_CACHEMAX"]) == ("registry.example/resmap:0.1", "512")
    assert sent["config"]["setup_timeout_seconds"] == 900
    assert "working_dir" not in sent  # Ray gives a container none
    begin = kept["entrypoint"].replace("python ", f"{sys.executable} -I -S ", 1)  # where there is no resmap
    done = subprocess.run(
        begin, shell=True, env={**os.environ, **sent["env_vars"]}, capture_output=True, text=True, timeout=SOON_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == ray_driver.CANNOT, done.stderr  # it has unpacked itself
    assert "has no resmap" in done.stdout


def test_an_image_takes_no_more_than_fits_and_labels_are_looked_at(world: World, head: StandIn, tmp_path: Path) -> None:
    job, env = job_file(world, tmp_path), tmp_path / "env.yaml"
    env.write_text("pip: [shapely]")
    with RayHead(head.address) as mine:
        with pytest.raises(SpecError, match="--image and pip"):
            ray_submit.submit(mine, job, Manner(same_files=True, image="i", runtime_env=env))
        with pytest.raises(QuestionError, match="no label of a node"):
            ray_submit.submit(mine, job, Manner(same_files=True, driver_labels=("pool",)))


@pytest.mark.parametrize(
    ("code", "began", "more", "sentence"),
    [
        (78, {"resmap": None, "python": "3.11.1"}, {}, "the Python of the cluster has no resmap"),
        (78, {"resmap": "9.9"}, {}, r"the Python of the cluster has resmap 9\.9, and this is resmap"),
        (127, None, {}, "no `python` on the PATH"),
        (137, {}, {}, "ended with 137 and no last word"),
        (None, {}, {"error_type": "RUNTIME_ENV_SETUP_FAILURE", "message": "no podman"}, "made there: no podman"),
        (None, None, {"error_type": "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"}, "no node takes the run's driver"),
        (None, {}, {"error_type": "JOB_SUPERVISOR_ACTOR_DIED", "message": "node died"}, "driver is gone.*node died"),
    ],
)  # fmt: skip
def test_why_a_cluster_could_not_run_it_is_told_in_a_sentence(
    code: int | None, began: dict[str, Any] | None, more: dict[str, Any], sentence: str
) -> None:
    job = RayJob(
        submission="resmap-a-0123456789", status="FAILED", exit_status=code,
        error=more.get("error_type", ""), message=more.get("message", ""),
    )  # fmt: skip
    with pytest.raises(ResourceError, match=sentence) as caught:
        ray_follow._ended(job, began or {}, None, asked=False)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("status", "says", "asked", "ends"),
    [
        ("SUCCEEDED", 0, False, 0), ("FAILED", 4, False, 4), ("FAILED", 3, False, 3), ("FAILED", 143, False, 143),
        ("STOPPED", 143, True, 130), ("STOPPED", 143, False, 6), ("STOPPED", 0, True, 0), ("STOPPED", None, False, 6),
        ("STOPPED", None, True, 130),
    ],
)  # fmt: skip
def test_whoever_follows_ends_as_the_run_did(status: Any, says: int | None, asked: bool, ends: int) -> None:
    job = RayJob(submission="resmap-a-0123456789", status=status)
    ended = None if says is None else {"ended": says, "answer": {"run": "a"}}
    assert ray_follow._ended(job, {}, ended, asked=asked).exit_status == ends


def test_a_driver_without_our_resmap_says_so_and_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "resmap_driver.py").write_bytes(Path(ray_driver.__file__).read_bytes())
    (tmp_path / "asked.json").write_text(json.dumps({"resmap": "0.0.0", "words": ["run", "job.yaml"]}))
    done = subprocess.run(
        [sys.executable, tmp_path / "resmap_driver.py"], capture_output=True, text=True, timeout=SOON_S, check=False
    )
    assert done.returncode == ray_driver.CANNOT
    began, sentence = done.stdout.splitlines()
    assert set(json.loads(began.removeprefix(ray_driver.MARK))["begun"]) == {"resmap", "ray", "python"}
    assert "the job came from 0.0.0" in sentence


def test_a_resmap_server_is_no_cluster_to_run_on(resmap: Resmap, world: World, tmp_path: Path) -> None:
    from jobs.dashboard.app import app
    from jobs.dashboard.keys import Access
    from tests.jobs.dashboard.fakes import FakeControl, FakeQueries
    from tests.jobs.dashboard.running import running

    queries = FakeQueries()
    with running(app(queries, FakeControl(queries), access=Access(token=RESMAP_TOKEN, loopback=False))) as address:
        said = resmap("run", job_file(world, tmp_path), "--address", address)
        assert "this is a resmap server" in said.complaint
        said = resmap("submit", job_file(world, tmp_path), "--address", address, "--driver-label", "a=b")
        assert "are for a Ray cluster" in said.complaint
    said = resmap("run", job_file(world, tmp_path), "--image", "i")
    assert said.status == 2


@pytest.fixture(scope="module")
def ray() -> Iterator[Head]:
    with ray_head(gpus=1) as started:
        yield started


def until_it_maps(process: subprocess.Popen[str]) -> str:
    """What it said till the first tiles were done."""
    said = ""
    assert process.stderr is not None
    for line in process.stderr:
        said += line
        if re.match(r"[1-9]\d*/\d+ tiles", line):
            break
    return said


def resmap_there(ray: Head, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *map(str, words)],
        env=dict(ray.environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.chaos
def test_a_run_by_address_is_a_job_there_with_the_same_answer_and_the_same_end(
    world: World, ray: Head, tmp_path: Path
) -> None:
    job = job_file(world, tmp_path)
    words = ("run", job, "--address", ray.dashboard, "--same-files", "--json")
    two = [resmap_there(ray, *words) for _ in range(2)]  # the second attaches
    said = [one.communicate(timeout=SOON_S) for one in two]
    assert [one.returncode for one in two] == [0, 0], said
    answers = [json.loads(out) for out, _ in said]
    assert answers[0] == answers[1]
    assert answers[0]["state"] == "done"
    assert sum("following it" in err for _, err in said) == 1
    assert all("33 tiles" in err for _, err in said)
    third = resmap_there(ray, *words)
    out, err = third.communicate(timeout=SOON_S)
    assert (third.returncode, json.loads(out)["worked_tiles"]) == (0, 0)
    assert "is finished; nothing to do" in err


SLOW = {"grid": {"resolution_m": 0.1}}
"""Two thousand tiles: a minute or more."""


@pytest.mark.chaos
def test_ctrl_c_drains_the_run_there_and_the_next_takes_it_up(world: World, ray: Head, tmp_path: Path) -> None:
    job = job_file(world, tmp_path, **SLOW)
    words = ("run", job, "--address", ray.dashboard, "--same-files", "--json")
    first = resmap_there(ray, *words)
    said = until_it_maps(first)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=SOON_S)
    assert first.returncode == 130, said + err
    summary = json.loads(out)
    assert summary["state"] == "interrupted"
    assert 0 < summary["tiles"]["done"] < summary["tiles"]["planned"]
    sent = resmap_there(ray, "submit", job, "--address", ray.dashboard, "--same-files", "--json")
    submitted = json.loads(sent.communicate(timeout=SOON_S)[0])
    assert submitted["key"].endswith("-2")
    follower = resmap_there(ray, "logs", submitted["run"], "-f", "--address", ray.dashboard)
    assert follower.stdout is not None
    assert any("of them done before" in line for line in follower.stdout)
    cancelled = resmap_there(ray, "cancel", submitted["run"], "--address", ray.dashboard)
    cancelled.communicate(timeout=SOON_S)
    follower.communicate(timeout=SOON_S)
    status = resmap_there(ray, "status", submitted["run"], "--address", ray.dashboard, "--json")
    assert json.loads(status.communicate(timeout=SOON_S)[0])["state"] == "cancelled"


@pytest.mark.chaos
def test_a_driver_that_is_told_to_end_by_sigterm_saves_and_ends_with_143(
    world: World, ray: Head, tmp_path: Path
) -> None:
    driver = resmap_there(ray, "run", job_file(world, tmp_path, **SLOW), "--address", ray.gcs, "--json")
    said = until_it_maps(driver)
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=SOON_S)
    assert driver.returncode == 143, said + err
    assert "SIGTERM received" not in err  # Ray would write its stack, and abort in the midst of the draining
    assert json.loads(out)["state"] == "interrupted"
