"""``cluster/deploy/monitor`` and ``docs/monitoring.md``: what they show is so, and what they say to type runs."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from jobs import cli
from jobs.dashboard.metric_families import FAMILIES
from jobs.job import Job
from jobs.job_file import document_in
from jobs.monitors.door import admitted
from jobs.monitors.schedule import Schedule
from jobs.monitors.sinks.webhook import Webhook
from jobs.monitors.store import Monitors
from jobs.registry import Registry
from jobs.spec import spec_from
from tests.jobs.monitors.receiver import an_alert, receiver
from tests.stories.command_line import Resmap
from tests.stories.world import World

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "cluster" / "deploy" / "monitor"
PAGE = (ROOT / "docs" / "monitoring.md").read_text()
README = (RECIPES / "README.md").read_text()


def cron_job() -> dict[str, Any]:
    """The pod and what is around it."""
    secret, found = yaml.safe_load_all((RECIPES / "cronjob.yaml").read_text())
    assert (secret["kind"], found["kind"]) == ("Secret", "CronJob")
    return dict(found["spec"], secret=secret)


def pod() -> dict[str, Any]:
    return dict(cron_job()["jobTemplate"]["spec"]["template"]["spec"])


def workflow() -> dict[str, Any]:
    return dict(yaml.safe_load((RECIPES / "github-actions.yml").read_text()))


def command_of_the_pod() -> list[str]:
    (container,) = pod()["containers"]
    return list(container["command"])


def command_of_the_workflow() -> list[str]:
    steps = workflow()["jobs"]["monitor"]["steps"]
    (command,) = [step["run"] for step in steps if "resmap" in step.get("run", "") and "pip" not in step["run"]]
    return shlex.split(command)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


# Recipes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [command_of_the_pod(), command_of_the_workflow()], ids=["kubernetes", "github"])
def test_the_very_command_of_a_recipe_runs_what_is_due_and_no_more(
    command: list[str], world: World, resmap: Resmap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESMAP_REGISTRY", f"sqlite:///{tmp_path}/registry.db")
    west = next(item for item in world.items if item["id"] == "west")
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [west]}))
    settings: dict[str, Any] = {
        "area": world.rectangle(150, 190, 200, 240), "imagery": {"catalog": "items.json", "time_step": "day"},
        "monitor": {"schedule": "every 1h", "late": "9999d"},
    }  # fmt: skip
    entry = admitted(Job.from_dict(world.job(tmp_path / "map.zarr", **settings), folder=tmp_path))
    store = Monitors(Registry())
    store.add(entry.name, job=entry.job, mosaic=entry.mosaic, now=datetime.now(UTC) - timedelta(hours=1))
    assert command[0] == "resmap"
    assert resmap(*command[1:]).status == 0
    (tick,) = store.history(entry.name)
    assert (tick.state, tick.tiles) == ("done", 1)
    assert "nothing is due" in resmap(*command[1:]).out


def test_the_pod_runs_alone_as_nobody_and_may_write_its_scratch_only() -> None:
    assert (cron_job()["concurrencyPolicy"], pod()["restartPolicy"]) == ("Forbid", "Never")
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["runAsUser"] > 0
    assert pod()["automountServiceAccountToken"] is False
    (container,) = pod()["containers"]
    own = container["securityContext"]
    assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
    assert own["capabilities"] == {"drop": ["ALL"]}
    (scratch,) = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert {entry["value"].partition(scratch)[1] for entry in container["env"]} == {scratch}


def test_the_registry_and_the_sinks_secret_come_from_a_secret_and_stand_in_no_command() -> None:
    kept = cron_job()["secret"]
    (container,) = pod()["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": kept["metadata"]["name"]}}]
    assert {"RESMAP_REGISTRY", "ALERTS_SECRET"} <= set(kept["stringData"])
    (given,) = [step["env"] for step in workflow()["jobs"]["monitor"]["steps"] if "env" in step]
    assert {"RESMAP_REGISTRY", "ALERTS_SECRET"} <= set(given)
    assert all(re.fullmatch(r"\$\{\{ secrets\.\w+ \}\}", value) for value in given.values())


def test_both_are_called_by_a_schedule_that_is_one_and_the_workflow_may_change_nothing() -> None:
    text = (RECIPES / "github-actions.yml").read_text()
    on = yaml.load(text, Loader=yaml.BaseLoader)["on"]  # others take the word for a truth
    for text in (cron_job()["schedule"], on["schedule"][0]["cron"]):
        first = Schedule.parse(text).after(datetime(2026, 1, 1, tzinfo=UTC))
        assert Schedule.parse(text).after(first) - first <= timedelta(hours=1)
    assert workflow()["permissions"] == {"contents": "read"}
    assert workflow()["concurrency"]["cancel-in-progress"] is False


# The page ------------------------------------------------------------------------------------------------------------


def test_the_job_of_the_page_is_one_and_may_be_a_monitor_but_for_the_file_it_names() -> None:
    (text,) = blocks("yaml")
    spec = spec_from(document_in(text))
    assert spec.monitor is not None
    assert Schedule.parse(spec.monitor.schedule, spec.monitor.timezone).says == "every day at 06:00, America/Chicago"
    assert [sink.secret for sink in spec.monitor.sinks] == ["ALERTS_SECRET", None]


@pytest.mark.parametrize("text", [PAGE, README, (ROOT / "README.md").read_text()], ids=["page", "recipes", "readme"])
def test_every_command_is_one_and_has_the_options_it_is_shown_with(text: str) -> None:
    known = get_command(cli.app).commands["monitor"].commands  # type: ignore[attr-defined]
    shown = re.findall(r"\bresmap monitor ([a-z]+)((?: [^\n`#]+)?)", text)
    assert {"add", "run", "serve"} <= {name for name, _ in shown}
    for name, rest in shown:
        options = {option for parameter in known[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, name


def test_every_link_leads_somewhere_and_every_metric_is_told() -> None:
    for text, folder in ((PAGE, ROOT / "docs"), (README, RECIPES)):
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        assert [link for link in links if not (folder / link).exists()] == []
        assert set(re.findall(r"`(resmap_[a-z_]+)`", text)) <= set(FAMILIES)


def test_the_receiver_of_the_page_knows_our_alerts_from_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(block for block in blocks("python") if "def is_ours" in block)
    page: dict[str, Any] = {}
    exec(code, page)  # what the page says to write
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    monkeypatch.setenv("ALERTS_SECRET", secret)
    with receiver() as heard:
        Webhook(heard.url, secret="ALERTS_SECRET").send(an_alert())
    (posted,) = heard.posted
    assert page["is_ours"](posted.headers, posted.body, secret)
    assert not page["is_ours"](posted.headers, posted.body + b" ", secret)
    assert not page["is_ours"](posted.headers, posted.body, "whsec_AAAA")


def test_what_the_page_asks_of_changes_is_there() -> None:
    import mapper.changes

    code = next(block for block in blocks("python") if "mapper.changes" in block)
    compile(code, "docs/monitoring.md", "exec")
    assert all(hasattr(mapper.changes, name) for name in re.findall(r"mapper\.changes\.(\w+)\(", code))
