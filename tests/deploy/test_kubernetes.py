"""``cluster/deploy/kuberay``: Kubernetes and the operators take its objects, and they keep what is promised."""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import yaml

from jobs.job import Job
from jobs.token_file import kept_token
from tests.deploy import rules
from tests.deploy.custom_resources import checked
from tests.deploy.manifests import (
    ALERTS,
    KUBERAY,
    ROOT,
    Object,
    check_schemas,
    kustomized,
    objects_in,
    only,
    pods,
    quantity,
)

README = (KUBERAY / "README.md").read_text()
FOLDERS = ("cluster", "job", "queued")

recipe = cache(kustomized)


@pytest.mark.parametrize("folder", [*FOLDERS, "monitoring"])
def test_every_object_fits_the_schema_of_its_kind(folder: str) -> None:
    check_schemas(recipe(folder))


@pytest.mark.parametrize("rule", rules.ALL, ids=lambda rule: str(rule.__name__))
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_recipe_keeps_the_rule(folder: str, rule: Callable[[Sequence[Object]], None]) -> None:
    rule(recipe(folder))


def test_a_field_that_no_operator_knows_is_noticed() -> None:
    cluster = only(objects_in((KUBERAY / "cluster" / "raycluster.yaml").read_text()), "RayCluster")
    assert checked(cluster)
    cluster["spec"]["headGroupSpec"]["terminationGracePeriodSeconds"] = 120  # it belongs into the pod
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        checked(cluster)


def test_a_job_has_the_cluster_that_stays_as_its_own_and_no_other() -> None:
    standing, job = only(recipe("cluster"), "RayCluster"), recipe("job")
    assert only(job, "RayJob")["spec"]["rayClusterSpec"] == standing["spec"]
    assert "RayCluster" not in {one["kind"] for one in job}


def test_a_job_is_taken_up_again_on_a_new_cluster_and_leaves_none_behind() -> None:
    spec = only(recipe("job"), "RayJob")["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True


def test_the_job_file_is_one_and_lies_where_the_entrypoint_looks_for_it() -> None:
    assert Job.from_file(KUBERAY / "job" / "job.yaml").spec.output.mosaic.startswith("s3://")
    given = only(recipe("job"), "ConfigMap")
    assert given["data"] == {"job.yaml": (KUBERAY / "job" / "job.yaml").read_text()}
    (head,) = [pod for pod in pods(recipe("job")) if pod.role == "head"]
    (volume,) = [volume for volume in head.spec["volumes"] if "configMap" in volume]
    assert volume["configMap"]["name"] == given["metadata"]["name"]
    (mount,) = [one for one in head.spec["containers"][0]["volumeMounts"] if one["name"] == volume["name"]]
    words = only(recipe("job"), "RayJob")["spec"]["entrypoint"].split()
    assert words[2] == f"{mount['mountPath']}/job.yaml"


def test_a_queued_job_does_not_grow_and_fits_into_its_queue() -> None:
    objects = recipe("queued")
    job, queue = only(objects, "RayJob"), only(objects, "LocalQueue")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"]
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    quotas = only(objects, "ClusterQueue", queue["spec"]["clusterQueue"])["spec"]["resourceGroups"][0]["flavors"]
    places = {one["metadata"]["name"]: one["spec"]["nodeLabels"] for one in objects if one["kind"] == "ResourceFlavor"}
    assert {quota["name"] for quota in quotas} == set(places)
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert 0 < group["replicas"] <= group["maxReplicas"]
        chosen = group["template"]["spec"].get("nodeSelector", {})
        (flavor, *_) = [name for name, labels in places.items() if labels.items() <= chosen.items() or not chosen]
        (most,) = [quota["resources"] for quota in quotas if quota["name"] == flavor]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for resource in most:
            asked = quantity(limits.get(resource["name"], 0)) * group["replicas"]
            assert asked <= quantity(resource["nominalQuota"]), (group["groupName"], resource["name"])


def test_images_are_named_in_one_place() -> None:
    told = yaml.safe_load((KUBERAY / "images" / "kustomization.yaml").read_text())["images"]
    named = {image["name"] for image in told}
    text = "".join(path.read_text() for path in KUBERAY.rglob("*.yaml") if path.parent.name != "images")
    assert set(re.findall(r"^ +(?:- )?image: (\S+)$", text, re.MULTILINE)) == named
    assert {image["newName"] for image in told} == {"registry.example.com/resmap"}


def test_the_dashboards_own_copy_of_the_token_is_one_that_the_server_takes(tmp_path: Path) -> None:
    (dashboard,) = [pod for pod in pods(recipe("cluster")) if pod.role == "dashboard"]
    (start,) = dashboard.spec["initContainers"]
    for place in ("secret", "own"):
        (tmp_path / place).mkdir()
    (tmp_path / "secret" / "token").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "secret" / "token").chmod(0o440)  # as a Secret's file is, whose group may read it
    words = [re.sub("^/(secret|own)/", f"{tmp_path}/\\1/", word) for word in start["command"]]
    for _ in range(2):  # a pod whose first container starts anew runs it again
        subprocess.run(words, check=True, timeout=10)
    assert stat.S_IMODE((tmp_path / "own" / "token").stat().st_mode) == 0o400
    assert kept_token(tmp_path / "own" / "token").startswith("0123")


def test_prometheus_knows_the_dashboard_by_the_name_that_the_alerts_ask_for() -> None:
    monitor = only(recipe("monitoring"), "PodMonitor", "resmap-dashboard")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    asked = set(re.findall(r'up\{job="(\w+)"\}', ALERTS.read_text()))
    assert {rule["replacement"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "job"} == asked
    rules.services_and_monitors_find_their_pods([*recipe("cluster"), *recipe("monitoring")])


def test_the_line_of_the_readme_makes_the_alerts_an_object_of_the_operator() -> None:
    (line,) = re.findall(r"^\((cat \S+; sed .*)\) \| kubectl apply -f -$", README, re.MULTILINE)
    made = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    (rule,) = objects_in(made.stdout)
    assert checked(rule)
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())


def test_the_readme_names_every_file_and_links_lead_somewhere() -> None:
    files = {str(path.relative_to(KUBERAY)) for path in KUBERAY.rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert {name for name in files if f"]({name})" not in README} == set()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert [link for link in links if not (KUBERAY / link).exists()] == []


def test_every_folder_that_the_readme_applies_is_one_that_can_be() -> None:
    applied = set(re.findall(r"kubectl apply -k (\S+)", README))
    assert applied == {f"cluster/deploy/kuberay/{folder}" for folder in (*FOLDERS, "monitoring")}
    assert "Namespace" in {one["kind"] for one in recipe("cluster")}


def test_a_command_that_is_none_is_noticed() -> None:
    job = only(recipe("job"), "RayJob")
    for wrong in ("resmap run /job/job.yaml --adress auto", "resmap run", "resmap run /job/job.yaml --gpus many"):
        with pytest.raises(Exception, match=r"(?i)no such option|missing parameter|a valid integer"):
            rules.every_command_of_ours_parses([{**job, "spec": {**job["spec"], "entrypoint": wrong}}])
