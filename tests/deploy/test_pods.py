"""What the pods of ``cluster/deploy/kuberay`` are told to do, done here: probes, the hook, the job's entrypoint."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.verify import verify
from tests.deploy.confined import STORE, Confined, image_env, ray_start
from tests.deploy.manifests import kustomized, only, pods
from tests.fleet.hosts import DEVICE, Host, host, switch, why_not
from tests.fleet.links import Link, address
from tests.stories.world import World, write_world

pytestmark = pytest.mark.fleet

UP_S = 300.0
RUN_S = 300.0


@dataclass(slots=True, kw_only=True)
class Running:
    """The pods of a job's cluster: a head and a worker on demand."""

    job: dict[str, Any]
    head: Confined
    worker: Confined
    env: dict[str, str]
    mosaic: Path
    started: dict[str, subprocess.Popen[Any]]
    logs: Path

    def probe(self, pod: Confined, kind: str) -> str:
        """What kubelet hears from a probe of a pod, from the outside and without a token: the status of the answer."""
        asked = pod.container[kind]["httpGet"]
        url = f"http://{pod.host.address}:{asked['port']}{asked['path']}"
        limit = str(pod.container[kind]["timeoutSeconds"])
        other = self.worker if pod is self.head else self.head
        _, said = other.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", limit, url, env=self.env)
        return said

    def serves(self, name: str) -> bool:
        """Whether a pod is ready and what was started in it still runs."""
        return self.probe(getattr(self, name), "readinessProbe") == "200" and self.started[name].poll() is None

    def log(self, name: str) -> str:
        """The end of what a pod's Ray said."""
        return (self.logs / f"{name}.log").read_text()[-3000:]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if why := why_not():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("pods")
    folder.chmod(0o755)
    objects = kustomized("job")
    job = only(objects, "RayJob")
    head, worker = (next(pod for pod in pods(objects) if pod.role == role) for role in ("head", "worker"))
    group = next(group for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"] if group["groupName"] == "gpu")
    store, config = folder / "store", folder / "config"
    config.mkdir()
    _fill(store, config)
    token = secrets.token_hex(32)
    env = {**image_env(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token,
           "RESMAP_REGISTRY": f"sqlite:///{STORE}/registry.sqlite"}  # fmt: skip
    made: list[Host] = []
    started: dict[str, subprocess.Popen[Any]] = {}
    with switch(folder / "switch") as middle:
        try:
            for name, number in (("head", 3), ("worker", 11)):
                made.append(host(name, folder / name, address=address(number)))
                Link(made[-1], middle)
                made[-1].run("ip", "route", "add", "8.8.8.8", "dev", DEVICE)  # the address that leads there is Ray's
            to = f"{made[0].address}:6379"
            up = Running(
                job=job,
                head=Confined(head, made[0], store=store, config=config),
                worker=Confined(worker, made[1], store=store, config=config),
                env={**env, "RAY_ADDRESS": to},
                mosaic=store / "map.zarr",
                started=started,
                logs=folder,
            )
            spec = job["spec"]["rayClusterSpec"]["headGroupSpec"]
            first = {"head": ray_start(spec["rayStartParams"], _limits(head.spec), {}, "--head")}
            _ready(up, first)
            line = ray_start(group["rayStartParams"], _limits(worker.spec), group["labels"], f"--address={to}")
            _ready(up, {**first, "worker": line})
            yield up
        finally:
            for one in made:
                one.kill()
            for process in started.values():
                process.wait(UP_S)


def _limits(spec: dict[str, Any]) -> dict[str, Any]:
    return dict(spec["containers"][0]["resources"]["limits"])


def _fill(store: Path, config: Path) -> None:
    """Imagery and a job for it, where all pods see them and may write."""
    (store / "world").mkdir(parents=True)
    world = write_world(store / "world")
    job = world.job(f"{STORE}/map.zarr", area=World.rectangle(100, 100, 300, 300))
    job["imagery"]["catalog"] = f"{STORE}/world/{world.catalog.relative_to(store / 'world')}"
    job["compute"] = {"gpus": {"min": 1, "max": 8}, "gpu_type": "L4", "labels": {"ray.io/market-type": "on-demand"}}
    (config / "job.yaml").write_text(yaml.safe_dump(job))
    for path in (store, *store.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


def _ready(up: Running, commands: Mapping[str, Sequence[str]]) -> None:
    """Start the containers of Ray, and wait until they are ready.

    One that ends is started again, as kubelet does: on a machine with much to do Ray gives up on itself.
    """
    deadline = time.monotonic() + UP_S
    waiting = dict(commands)
    while waiting:
        for name, words in commands.items():
            if name not in up.started or up.started[name].poll() is not None:
                with (up.logs / f"{name}.log").open("a") as log:
                    up.started[name] = getattr(up, name).begin(*words, env=up.env, stdout=log, stderr=log)
        waiting = {name: words for name, words in commands.items() if not up.serves(name)}
        assert time.monotonic() < deadline, "\n".join(up.log(name) for name in commands)
        time.sleep(0.5)


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[Confined]:
    """The pod of the dashboard, its token laid by the container that starts it; it serves."""
    if why := why_not():
        pytest.skip(why)
    (pod,) = [pod for pod in pods(kustomized("cluster")) if pod.role == "dashboard"]
    store, secret = tmp_path / "store", tmp_path / "secret"
    store.mkdir(mode=0o777)
    store.chmod(0o777)
    secret.mkdir()
    (secret / "token").write_text(f"{'0123456789abcdef' * 4}\n")
    (secret / "token").chmod(0o440)
    os.chown(secret / "token", 0, pod.spec["securityContext"]["fsGroup"])  # as kubelet does with a Secret
    with switch(tmp_path / "switch") as middle:
        serves: subprocess.Popen[Any] | None = None
        on = host("dashboard", tmp_path / "host", address=address(4))
        try:
            Link(on, middle)
            up = Confined(pod, on, store=store, config=secret)
            env = {**image_env(), "RESMAP_REGISTRY": f"sqlite:///{STORE}/registry.sqlite"}
            (first,) = pod.spec["initContainers"]
            assert up.run(*first["command"], env=env) == (0, "")
            with (tmp_path / "log").open("w") as log:
                serves = up.begin(*up.container["command"], env=env, stdout=log, stderr=log)
            deadline = time.monotonic() + UP_S
            while _status(up, "/metrics") == "000":
                assert serves.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.5)
            yield up
        finally:
            on.kill()
            if serves is not None:
                serves.wait(UP_S)


def _status(pod: Confined, path: str, *more: str) -> str:
    (port,) = [port["containerPort"] for port in pod.container["ports"]]
    url = f"http://{pod.host.address}:{port}{path}"
    return pod.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *more, url, env=image_env())[1]


def test_the_dashboard_answers_probes_and_whoever_has_the_token_by_address_and_by_name(dashboard: Confined) -> None:
    bearer = ("-H", f"Authorization: Bearer {'0123456789abcdef' * 4}")
    assert "tcpSocket" in dashboard.container["livenessProbe"]  # as no page answers without the token
    assert _status(dashboard, "/metrics") == "401"
    assert _status(dashboard, "/metrics", *bearer) == "200"  # as Prometheus asks
    assert _status(dashboard, "/api/v1/runs", *bearer, "-H", "Host: resmap-dashboard.resmap.svc:8765") == "200"
    assert _status(dashboard, "/api/v1/runs", *bearer, "-H", "Host: elsewhere.example.com") == "400"
    assert _status(dashboard, "/api/v1/runs", *bearer, "-X", "POST") != "200"


def test_a_container_can_write_to_its_volumes_and_nowhere_else(running: Running) -> None:
    for pod in (running.head, running.worker):
        writable = [mount["mountPath"] for mount in pod.container["volumeMounts"] if not mount.get("readOnly")]
        for place in writable:
            assert pod.run("touch", f"{place}/here", env=running.env)[0] == 0, place
        for place in ("/", "/opt", "/var/log", "/home"):
            assert "Read-only file system" in pod.run("touch", f"{place}/here", env=running.env)[1], place
        said = pod.run("cat", "/proc/self/status", env=running.env)[1]
        assert {line.split()[1] for line in said.splitlines() if line.startswith("Cap")} == {"0" * 16}
        assert "NoNewPrivs:\t1" in said


def test_probes_are_answered_without_a_token_and_all_else_is_not(running: Running) -> None:
    for pod in (running.head, running.worker):
        assert running.probe(pod, "livenessProbe") == "200"
    url = f"http://{running.head.host.address}:8265/api/jobs/"
    _, said = running.worker.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url, env=running.env)
    assert said == "401"
    _, metrics = running.head.run("curl", "-s", f"http://{running.worker.host.address}:8080/metrics", env=running.env)
    assert "ray_" in metrics


def test_the_entrypoint_of_the_job_maps_on_the_worker_that_it_asks_for(running: Running) -> None:
    words = running.job["spec"]["entrypoint"].split()
    status, said = running.head.run(*words, env=running.env, timeout_s=RUN_S)
    assert status == 0, said[-3000:]
    report = verify(str(running.mosaic), full=True)
    assert report.checked > 0
    assert not report.bad


def test_the_hook_of_a_worker_tells_ray_that_its_node_goes(running: Running) -> None:
    words = running.worker.container["lifecycle"]["preStop"]["exec"]["command"]
    status, said = running.worker.run(*words, env=running.env, timeout_s=int(words[3]))
    assert status == 0, said
    assert "drains, and goes within 110 s" in said  # no run is under way: nothing to wait for
    assert running.probe(running.head, "livenessProbe") == "200"
