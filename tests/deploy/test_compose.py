"""``cluster/deploy/compose`` and ``prometheus``: Compose takes the file, nothing is open, and its commands run here."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from compose_spec import PyCompose

from tests.jobs.postgres import postgres

DEPLOY = Path(__file__).parents[2] / "cluster" / "deploy"
FOLDER = DEPLOY / "compose"
OURS = ("tokens", "head", "worker", "serve")
SOON_S = 240.0
HEAD, WORKER = "127.9.0.1", "127.9.0.2"
"""Of this machine alone, as the whole of 127.0.0.0/8; Ray puts another in the place of 127.0.0.1."""

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is in Debian's package prometheus, which is not installed here"
)


class _Loader(yaml.SafeLoader):
    """Knows what Compose adds to YAML: ``!reset`` takes a setting of the file before away."""


_Loader.add_constructor("!reset", lambda loader, node: "reset")


def document(name: str = "compose.yaml", **variables: str) -> dict[str, Any]:
    """A file as Compose has it: anchors merged, variables filled in."""
    found = yaml.load((FOLDER / name).read_text(), _Loader)
    return dict(_filled(found, variables))


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(one, variables) for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, variables) for one in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1], found[2]), value)


def services() -> dict[str, dict[str, Any]]:
    return dict(document()["services"])


# The file ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cpu.yaml"])
def test_compose_takes_the_file(name: str) -> None:
    found = document(name)
    if name == "compose.cpu.yaml":
        assert found["services"]["worker"].pop("deploy") == "reset"
    PyCompose.from_yaml(yaml.safe_dump(found))


def test_a_setting_that_compose_does_not_know_is_noticed() -> None:
    found = document()
    found["services"]["head"]["restarts"] = "always"
    with pytest.raises(ValueError, match="restarts"):
        PyCompose.from_yaml(yaml.safe_dump(found))


def test_nothing_listens_beyond_this_machine() -> None:
    published = {name: service.get("ports", []) for name, service in services().items()}
    assert {name for name, ports in published.items() if ports} == {"head", "serve", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert "network_mode" not in services()["head"]


def test_everything_runs_without_rights_and_writes_into_volumes_alone() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service
        assert name in OURS or int(service["user"].split(":")[0]) > 0


def test_everything_comes_back_says_how_it_is_and_waits_for_what_it_needs() -> None:
    for name, service in services().items():
        assert service["restart"] == ("no" if name == "tokens" else "unless-stopped")
        assert name in OURS or service["healthcheck"]["test"][0] == "CMD"
        waited = service.get("depends_on", {})
        assert set(waited) <= set(services())
        assert name == "tokens" or waited
    assert "/healthz" in services()["serve"]["healthcheck"]["test"][-1]


def test_secrets_are_files_and_stand_in_no_environment() -> None:
    for name, service in services().items():
        for variable, value in service.get("environment", {}).items():
            secret = re.search(r"TOKEN|PASSWORD|PGPASS", variable) and variable != "RAY_AUTH_MODE"
            assert not secret or str(value).startswith("/tokens/"), (name, variable)
        mounted = [volume for volume in service["volumes"] if str(volume).startswith("tokens:")]
        assert mounted == [f"tokens:/tokens{'' if name == 'tokens' else ':ro'}"]
    assert "@postgres" in services()["head"]["environment"]["RESMAP_REGISTRY"].replace("resmap@", "@")


def test_the_gpus_are_the_workers_alone_and_without_gpus_there_is_one_in_name() -> None:
    reserving = [name for name, service in services().items() if "deploy" in service]
    assert reserving == ["worker"]
    (device,) = services()["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    without = document("compose.cpu.yaml")["services"]
    assert without["worker"]["deploy"] == "reset"
    more = set(without["worker"]["command"]) - set(services()["worker"]["command"])
    assert more == {"--num-gpus=1"}
    assert set(without) == set(OURS)


def test_images_are_named_by_exact_versions_and_may_be_named_by_digest() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    named = re.findall(r"image: \$\{([A-Z]+_IMAGE):-([^}]+)\}", text)
    assert len(named) == len(re.findall(r"image:", text)) == 4
    assert all(re.fullmatch(r"[a-z./]+:v?\d+\.\d+(\.\d+)?(-[a-z]+)?", image) for _, image in named)
    pinned = "postgres:17.6-bookworm@sha256:" + "0" * 64
    assert document(POSTGRES_IMAGE=pinned)["services"]["postgres"]["image"] == pinned


def test_every_file_that_is_mounted_is_there() -> None:
    mounted = {str(volume).split(":")[0] for service in services().values() for volume in service["volumes"]}
    files = {path for path in mounted if path.startswith(".")}
    assert len(files) == 5
    assert [path for path in files if not (FOLDER / path).exists()] == []
    assert mounted - files == set(document()["volumes"])
    for page in (FOLDER / "README.md", DEPLOY / "docker" / "README.md", DEPLOY / "README.md"):
        links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in link]
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_tokens_are_made_once_and_each_is_for_whoever_reads_it(tmp_path: Path) -> None:
    def made() -> dict[str, tuple[str, int]]:
        subprocess.run(["sh", FOLDER / "make-tokens.sh", tmp_path], check=True, timeout=60)
        return {path.name: (path.read_text(), stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()}

    first = made()
    assert made() == first
    assert {name: mode for name, (_, mode) in first.items()} == {
        "ray": 0o600, "resmap": 0o600, "pgpass": 0o600,
        "postgres": 0o640, "grafana": 0o640, "scrape-ray": 0o640, "scrape-resmap": 0o640,
    }  # fmt: skip
    tokens = {first[name][0] for name in ("ray", "resmap", "postgres", "grafana")}
    assert len(tokens) == 4
    assert all(re.fullmatch("[0-9a-f]{64}", token) for token in tokens)
    assert first["scrape-ray"][0] == first["ray"][0]
    assert first["pgpass"][0] == f"postgres:5432:*:resmap:{first['postgres'][0]}"


# Prometheus and Grafana ----------------------------------------------------------------------------------------------


def scraped() -> dict[str, dict[str, Any]]:
    jobs = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    return {job["job_name"]: job for job in jobs}


def test_prometheus_asks_by_the_names_ports_and_tokens_of_the_box() -> None:
    (resmap,) = scraped()["resmap"]["static_configs"][0]["targets"]
    serve = services()["serve"]["command"]
    assert resmap == f"serve:{next(word for word in serve if word.startswith('--port=')).removeprefix('--port=')}"
    assert f"--allowed-host={resmap.split(':')[0]}" in serve
    (ray,) = scraped()["ray"]["http_sd_configs"]
    assert ray["url"].startswith("http://head:8265/")
    asked = {job["authorization"]["credentials_file"] for job in (scraped()["resmap"], ray)}
    assert asked == {"/tokens/scrape-resmap", "/tokens/scrape-ray"}


@needs_promtool
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text((DEPLOY / "grafana" / "alerts.yaml").read_text())
    subprocess.run(["sh", FOLDER / "make-tokens.sh", tmp_path], check=True, timeout=60)
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text().replace("/tokens/", f"{tmp_path}/")
    (tmp_path / "prometheus.yml").write_text(text)
    checked = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    assert "rules found" in checked.stdout


def test_grafana_finds_prometheus_and_the_board_where_they_are_mounted() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["url"], source["type"], source["isDefault"]) == ("http://prometheus:9090", "prometheus", True)
    (provider,) = yaml.safe_load((folder / "dashboards" / "resmap.yaml").read_text())["providers"]
    (board,) = [volume for volume in services()["grafana"]["volumes"] if "dashboard.json" in volume]
    assert board.split(":")[1].startswith(provider["options"]["path"] + "/")
    assert "../grafana/provisioning:/etc/grafana/provisioning:ro" in services()["grafana"]["volumes"]


# Run here ------------------------------------------------------------------------------------------------------------


class Box:
    """The services as processes of this machine: on loopback addresses of their own, with free ports."""

    def __init__(self, folder: Path, registry: str) -> None:
        self.folder = folder
        self.tokens = folder / "tokens"
        self.tokens.mkdir()
        self.ports = {name: _free_port() for name in ("6379", "8265", "8765", "9090")}
        self._registry = registry
        self._begun: dict[str, subprocess.Popen[bytes]] = {}

    def token(self, name: str) -> str:
        return (self.tokens / name).read_text()

    def url(self, port: str, path: str = "") -> str:
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    def environment(self, service: str) -> dict[str, str]:
        """As Compose gives it, on top of what the image has; paths and names of hosts are this machine's."""
        given = {name: self._here(str(value)) for name, value in services()[service]["environment"].items()}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RESMAP_"))}
        ours = {
            "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "RESMAP_REGISTRY": self._registry,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }  # fmt: skip
        return kept | given | ours

    def begin(self, service: str, *more: str) -> None:
        """Start it, with words that hold on this machine alone."""
        command = [self._here(word) for word in services()[service]["command"]] + list(more)
        with (self.folder / f"{service}.log").open("wb") as log:
            self._begun[service] = subprocess.Popen(
                command, env=self.environment(service), cwd=self.folder, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def until(self, service: str, true: Callable[[], Any]) -> None:
        """Wait for it, as long as the service lives."""
        said = self.folder / f"{service}.log"
        until(true, lambda: said.read_text(errors="replace"), lives=lambda: self._begun[service].poll() is None)

    def is_well(self, service: str) -> bool:
        """What its own health check says."""
        command = self._here(services()[service]["healthcheck"]["test"][-1]).replace("$$", "$")
        return subprocess.run(["sh", "-c", command], check=False, capture_output=True, timeout=60).returncode == 0

    def close(self) -> None:
        """As ``docker compose down``: SIGTERM, then no mercy; each in a session of its own, which ends with it."""
        for process in reversed(self._begun.values()):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)

    def _here(self, word: str) -> str:
        for port, ours in self.ports.items():
            word = re.sub(rf"\b{port}\b", str(ours), word)
        word = word.replace("/tokens", str(self.tokens)).replace("/scratch", str(self.folder / "scratch"))
        word = word.replace(f"head:{self.ports['6379']}", f"{HEAD}:{self.ports['6379']}")
        word = re.sub(r"\b(head|serve):(?=\d)", "127.0.0.1:", word)
        return word.replace("0.0.0.0", "127.0.0.1") if word.startswith("--dashboard-host") else word


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def until(true: Callable[[], Any], told: Callable[[], str], *, lives: Callable[[], bool] = lambda: True) -> None:
    """Wait for something to be true.

    Raises:
        AssertionError: it is not in time, or never will be; with what was told then.
    """
    end = time.monotonic() + SOON_S
    while time.monotonic() < end and lives():
        with suppress(httpx.HTTPError, KeyError, IndexError):
            if true():
                return
        time.sleep(0.5)
    raise AssertionError(told()[-4000:])


@contextmanager
def box(folder: Path) -> Iterator[Box]:
    with postgres() as url:
        made = Box(folder, url.replace("postgresql://", "postgresql+psycopg://", 1))
        subprocess.run(["sh", FOLDER / "make-tokens.sh", made.tokens], check=True, timeout=60)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.fleet
@pytest.mark.timeout(900)
def test_the_commands_of_the_box_make_a_cluster_that_maps_a_job_and_shows_it(tmp_path: Path) -> None:
    from tests.stories.world import write_world

    short = Path("/tmp") / f"rme-{os.getpid()}"  # paths of Ray's sockets have 107 letters at most
    short.mkdir()
    try:
        with box(tmp_path) as made:
            # Beside the words of the file: addresses and folders, of which a container has its own.
            made.begin("head", f"--dashboard-port={made.ports['8265']}", f"--node-ip-address={HEAD}",
                       f"--temp-dir={short}", f"--dashboard-agent-listen-port={(agent := _free_port())}",
                       f"--ray-client-server-port={_free_port()}",
                       f"--metrics-export-port={_free_port()}")  # fmt: skip
            health = f"http://127.0.0.1:{agent}/api/local_raylet_healthz"  # what HEALTHCHECK of the image asks
            made.until("head", lambda: httpx.get(health).text == "success")
            assert httpx.get(made.url("8265", "/api/version")).status_code == 401
            made.begin("worker", f"--node-ip-address={WORKER}", "--num-gpus=1", "--num-cpus=2",
                       f"--dashboard-agent-listen-port={_free_port()}",
                       f"--metrics-export-port={_free_port()}")  # fmt: skip
            made.begin("serve")
            made.until("serve", lambda: made.is_well("serve"))
            assert httpx.get(made.url("8765", "/metrics")).status_code == 401

            (tmp_path / "world").mkdir()
            world = write_world(tmp_path / "world")
            job = tmp_path / "job.yaml"
            job.write_text(yaml.safe_dump(world.job(tmp_path / "map.zarr")))
            submitted = subprocess.run(
                ["resmap", "submit", str(job), "--address", made.url("8265"), "--same-files", "--wait"],
                env=made.environment("head"), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=400,
            )  # fmt: skip
            assert submitted.returncode == 0, submitted.stdout + submitted.stderr

            as_prometheus = {"Authorization": f"Bearer {made.token('scrape-resmap')}"}
            runs = httpx.get(made.url("8765", "/api/v1/runs"), headers=as_prometheus).json()
            assert [run["state"] for run in runs] == ["done"]  # the driver's registry is the one that is shown
            if shutil.which("prometheus") is not None:
                _scrape(made)
    finally:
        shutil.rmtree(short, ignore_errors=True)


def _scrape(made: Box) -> None:
    """Prometheus with the file of the recipe sees resmap, and every node that Ray tells of."""
    folder = made.folder / "prometheus"
    folder.mkdir()
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    (folder / "prometheus.yml").write_text(made._here(text).replace("15s", "2s"))
    (folder / "alerts.yaml").write_text((DEPLOY / "grafana" / "alerts.yaml").read_text())
    words = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{made.ports['9090']}"]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *words], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:

        def seen() -> bool:
            asked = httpx.get(made.url("9090", "/api/v1/query"), params={"query": "up == 1"}).json()
            jobs = [found["metric"]["job"] for found in asked["data"]["result"]]
            return jobs.count("resmap") == 1 and jobs.count("ray") >= 2

        until(seen, lambda: (folder / "log").read_text(errors="replace"))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
