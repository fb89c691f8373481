"""``cluster/deploy/helm/resmap``: its values are checked, each does something, and it makes what the recipes say.

The chart is rendered where there is helm, or a Go compiler (the extra ``deploy``); its values are checked everywhere.
"""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import yaml

from jobs.job_file import document_in
from jobs.spec import spec_from
from tests.deploy import charts, rules
from tests.deploy.charts import CHART, RefusedError, Values, check_values, defaults, rendered, schema, texts
from tests.deploy.manifests import ALERTS, KUBERAY, Object, check_schemas, kustomized, name_of, objects_in, only, pods

README = (CHART / "README.md").read_text()
JOB = (KUBERAY / "job" / "job.yaml").read_text()
OF_HELM = ("app.kubernetes.io/managed-by", "helm.sh/chart", "app.kubernetes.io/part-of")

A_JOB: Values = {"cluster": {"enabled": False}, "job": {"enabled": True, "file": JOB}}
GROUP: Values = {"name": "a100", "gpuType": "A100", "gpus": 1, "min": 1, "max": 3, "cpu": 11, "memory": "80Gi"}
CASES: dict[str, Values] = {
    "defaults": {},
    "job": A_JOB,
    "all": {
        **A_JOB,
        "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
        "image": {"digest": f"sha256:{'a' * 64}"},
        "gpuImage": {"digest": f"sha256:{'b' * 64}"},
        "imagePullSecrets": ["registry"],
        "secrets": ["store-keys"],
        "env": {"AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL": "https://minio.example:9000"},
        "accounts": {"annotations": {"azure.workload.identity/client-id": "0"},
                     "podLabels": {"azure.workload.identity/use": "true"}},
        "network": {"ports": [9000]},
    },
    "gke": {"cloud": "gke", "gpuGroups": [{**GROUP, "spot": True, "labels": {"disk": "nvme"}}, {**GROUP, "name": "b"}]},
    "aks": {"cloud": "aks", "gpuGroups": [{**GROUP, "spot": True}], "readers": {"spot": True}},
    "anywhere": {"cloud": "none", "gpuGroups": [{**GROUP, "nodeSelector": {"gpu": "a100"}}]},
    "queued": {**A_JOB, "autoscaling": {"enabled": False}, "kueue": {"queue": "team"}},
    "queued and elastic": {"kueue": {"queue": "team", "elastic": True}},
    "GPUs alone": {"readers": {"enabled": False}, "head": {"tolerations": [{"key": "head", "operator": "Exists"}]}},
}  # fmt: skip


@cache
def made() -> Mapping[str, list[Object]]:
    """What the chart makes of each case."""
    return dict(zip(CASES, rendered(*CASES.values()), strict=True))


# Values --------------------------------------------------------------------------------------------------------------


def properties(of: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every value that can be set, with its place: ``gpuGroups[].spot``."""
    for name, value in of.get("properties", {}).items():
        yield f"{path}{name}", value
        yield from properties(value, f"{path}{name}.")
        yield from properties(value.get("items", {}), f"{path}{name}[].")


def test_the_charts_own_values_are_allowed_and_every_value_says_what_it_is() -> None:
    check_values(defaults())
    told = dict(properties(schema()))
    assert len(told) > 60
    assert [path for path, value in told.items() if not value.get("description", "").endswith(".")] == []
    assert [path for path, value in told.items() if not {"type", "enum"} & set(value)] == []


def test_what_is_misspelt_dangerous_or_impossible_is_refused() -> None:
    wrong: list[Values] = [
        {"gpuGroup": []},
        {"image": {"tag": "latest"}},
        {"gpuImage": {"digest": "sha256:abc"}},
        {"cloud": "mars"},
        {"head": {"memory": "plenty"}},
        {"gpuGroups": [{**GROUP, "gpus": 0}]},
        {"gpuGroups": [{**GROUP, "maximum": 3}]},
        {"gpuGroups": [{**GROUP, "name": "A_100"}]},
        {"env": {"RAY_AUTH_TOKEN": "0123456789"}},
        {"env": {"AWS_SECRET_ACCESS_KEY": "0123456789"}},
        {"network": {"ports": [0]}},
    ]
    for values in wrong:
        with pytest.raises(RefusedError):
            check_values(charts.with_defaults(values))


def test_every_value_is_in_the_table_of_the_readme_with_its_default_and_no_other() -> None:
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.*?) \| ", README, re.MULTILINE))
    told = [path for path, value in properties(schema()) if "properties" not in value]
    assert list(rows) == told
    for path, shown in rows.items():
        assert shown == default_of(path), path
    for path, value in properties(schema()):
        if "properties" not in value:
            assert f"| {value['description']} |" in README, path


def default_of(path: str) -> str:
    """A default as the table shows it."""
    value: Any = defaults()
    for part in path.split("."):
        if part.endswith("[]"):
            return ""
        value = value.get(part, None) if isinstance(value, dict) else None
    if value in (None, "", [], {}):
        return ""
    return "two groups" if path == "gpuGroups" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_templates_ask_for_values_that_there_are() -> None:
    told = {path.replace("[]", "") for path, _ in properties(schema())}
    for path in (CHART / "templates").iterdir():
        asked = set(re.findall(r"\.Values\.([A-Za-z.]+)", path.read_text()))
        assert asked - told == set(), path.name


def test_the_alerts_in_the_chart_are_those_of_the_folder_beside_it() -> None:
    assert (CHART / "files" / "alerts.yaml").resolve() == ALERTS


def test_the_chart_is_of_the_version_of_the_program() -> None:
    from importlib.metadata import version

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert str(chart["appVersion"]) == version("resmap")
    assert defaults()["rayVersion"] == version("ray")


# Rendered ------------------------------------------------------------------------------------------------------------


def test_with_no_value_set_it_makes_the_objects_of_the_recipe() -> None:
    plain = {name_of(one): stripped(one) for one in kustomized("cluster") if one["kind"] != "Namespace"}
    assert {name_of(one): stripped(one) for one in made()["defaults"]} == plain


def test_with_a_job_it_makes_the_rayjob_of_the_recipe() -> None:
    for kind in ("RayJob", "ConfigMap"):
        assert stripped(only(made()["job"], kind)) == stripped(only(kustomized("job"), kind))


def stripped(one: Object) -> Object:
    """An object without what helm says of itself, and without what is empty."""
    bare = copy.deepcopy(one)
    meta = bare["metadata"]
    meta.pop("namespace", None)
    meta["labels"] = {key: value for key, value in meta.get("labels", {}).items() if key not in OF_HELM}
    bare["metadata"] = {key: value for key, value in meta.items() if value}
    for key, value in bare.get("data", {}).items():
        bare["data"][key] = value.strip()
    return bare


@pytest.mark.parametrize("case", CASES)
def test_whatever_is_set_objects_fit_their_schemas_and_keep_the_rules(case: str) -> None:
    objects = made()[case]
    check_schemas(objects)
    for rule in rules.ALL:
        rule(objects)


def test_every_object_says_that_helm_made_it() -> None:
    for one in made()["all"]:
        assert one["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm", name_of(one)


def test_two_releases_in_one_namespace_do_not_meet() -> None:
    (one,) = rendered(CASES["all"], release={**charts.RELEASE, "Name": "east"})
    (other,) = rendered(CASES["all"], release={**charts.RELEASE, "Name": "west"})
    assert {name_of(each) for each in one} & {name_of(each) for each in other} == set()
    for policy in (each for each in one if each["kind"] == "NetworkPolicy" and each["spec"]["podSelector"]):
        means = policy["spec"]["podSelector"]["matchLabels"]
        if "resmap.io/submits" not in means:  # who submits may to all of them
            assert [pod.where for pod in pods(other) if means.items() <= pod.labels.items()] == []


def test_the_job_file_arrives_as_it_was() -> None:
    assert spec_from(document_in(only(made()["job"], "ConfigMap")["data"]["job.yaml"])) == spec_from(document_in(JOB))


def test_a_job_that_is_not_there_a_machine_of_another_cloud_and_growth_in_a_queue_are_refused() -> None:
    with pytest.raises(RefusedError, match="--set-file"):
        rendered({"job": {"enabled": True}})
    with pytest.raises(RefusedError, match=r"g6\.2xlarge is none of gke"):
        rendered({"cloud": "gke"})
    with pytest.raises(RefusedError, match=r"autoscaling\.enabled=false"):
        rendered({"kueue": {"queue": "team"}})


def test_the_time_to_hand_over_is_what_the_cloud_leaves() -> None:
    def drains(case: str) -> dict[str, int]:
        groups = only(made()[case], "RayCluster")["spec"]["workerGroupSpecs"]
        hooks = {group["groupName"]: group["template"]["spec"]["containers"][0]["lifecycle"] for group in groups}
        return {name: int(hook["preStop"]["exec"]["command"][3]) for name, hook in hooks.items()}

    assert drains("defaults") == {"gpu": 110, "gpu-spot": 110, "readers": 110}
    assert drains("gke") == {"a100": 10, "b": 110, "readers": 110}
    assert drains("aks") == {"a100": 20, "readers": 20}


def test_spot_and_gpu_are_said_in_the_words_of_each_cloud() -> None:
    def place(case: str) -> tuple[Any, Any]:
        spec = only(made()[case], "RayCluster")["spec"]["workerGroupSpecs"][0]["template"]["spec"]
        return spec.get("nodeSelector"), {one["key"] for one in spec["tolerations"]}

    gpu = "nvidia.com/gpu"
    gke = {"cloud.google.com/gke-spot": "true", "cloud.google.com/gke-accelerator": "nvidia-tesla-a100"}
    assert place("gke") == (gke, {gpu, "cloud.google.com/gke-spot"})
    aks = "kubernetes.azure.com/scalesetpriority"
    assert place("aks") == ({aks: "spot"}, {gpu, aks})
    assert place("anywhere") == ({"gpu": "a100"}, {gpu})


def test_the_notes_show_commands_that_are_ones() -> None:
    (notes,) = [files["templates/NOTES.txt"] for files in texts({}) if "templates/NOTES.txt" in files] or [""]
    if not notes:
        pytest.skip("helm template shows no notes")
    assert "resmap submit job.yaml --address http://127.0.0.1:8265" in notes
    for secret in set(re.findall(r"get secret (\S+)", notes)):
        assert (
            secret == only(made()["defaults"], "RayCluster")["metadata"]["name"]
        )  # KubeRay names it after the cluster
    services = {one["metadata"]["name"] for one in made()["defaults"] if one["kind"] == "Service"}
    assert set(re.findall(r"svc/(\S+)", notes)) == services | {"resmap-head-svc"}
    script = "\n".join(line for line in notes.splitlines() if line.startswith("  ") and "://127.0.0.1:8765" not in line)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=10)


CHANGES: dict[str, tuple[Values, Any]] = {
    "image.repository": ({}, "other.example.com/resmap"),
    "image.tag": ({}, "0.1.0-cpu-2"),
    "image.digest": ({}, f"sha256:{'a' * 64}"),
    "gpuImage.tag": ({}, "0.1.0-cuda-2"),
    "gpuImage.digest": ({}, f"sha256:{'b' * 64}"),
    "imagePullSecrets": ({}, ["mine"]),
    "rayVersion": ({}, "2.61.0"),
    "cloud": ({"gpuGroups": [{**GROUP, "spot": True}]}, "aks"),
    "cluster.enabled": ({}, False),
    "job.enabled": ({"job": {"file": JOB}}, True),
    "job.file": (A_JOB, JOB.replace("runways", "ponds")),
    "job.retries": (A_JOB, 7),
    "job.keepSeconds": (A_JOB, 0),
    "autoscaling.enabled": ({}, False),
    "autoscaling.idleSeconds": ({}, 1000000),
    "head.cpu": ({}, 2),
    "head.memory": ({}, "12Gi"),
    "head.nodeSelector": ({}, {"pool": "head"}),
    "head.tolerations": ({}, [{"key": "head", "operator": "Exists"}]),
    "gpuGroups": ({}, [GROUP]),
    "gpuGroups[].name": ({}, "other"),
    "gpuGroups[].gpuType": ({}, "H100"),
    "gpuGroups[].gpus": ({}, 8),
    "gpuGroups[].machine": ({}, "p5.48xlarge"),
    "gpuGroups[].spot": ({}, True),
    "gpuGroups[].min": ({}, 2),
    "gpuGroups[].max": ({}, 5),
    "gpuGroups[].cpu": ({}, 3),
    "gpuGroups[].memory": ({}, "90Gi"),
    "gpuGroups[].drainSeconds": ({}, 60),
    "gpuGroups[].nodeSelector": ({}, {"pool": "gpu"}),
    "gpuGroups[].tolerations": ({}, [{"key": "mine", "operator": "Exists"}]),
    "gpuGroups[].labels": ({}, {"disk": "nvme"}),
    "readers.enabled": ({}, False),
    "readers.spot": ({}, True),
    "readers.machine": ({}, "c7i.4xlarge"),
    "readers.min": ({}, 1),
    "readers.max": ({}, 9),
    "readers.cpu": ({}, 16),
    "readers.memory": ({}, "32Gi"),
    "readers.drainSeconds": ({}, 60),
    "readers.nodeSelector": ({}, {"pool": "cpu"}),
    "readers.tolerations": ({}, [{"key": "mine", "operator": "Exists"}]),
    "readers.labels": ({}, {"network": "fast"}),
    "space.scratch": ({}, "100Gi"),
    "space.tmp": ({}, "30Gi"),
    "space.shm": ({}, "6Gi"),
    "env": ({}, {"AWS_REGION": "eu-central-1"}),
    "secrets": ({}, ["keys"]),
    "accounts.annotations": ({}, {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/resmap"}),
    "accounts.podLabels": ({}, {"azure.workload.identity/use": "true"}),
    "registrySecret": ({}, "other"),
    "dashboard.enabled": ({}, False),
    "dashboard.tokenSecret": ({}, "other"),
    "dashboard.hosts": ({}, ["maps.example.com"]),
    "dashboard.mosaics": ({}, ["s3://bucket/map.zarr"]),
    "network.enabled": ({}, False),
    "network.denyNamespace": ({}, False),
    "network.monitoringNamespace": ({}, "observability"),
    "network.ports": ({}, [9000]),
    "disruption.enabled": ({}, False),
    "kueue.queue": ({"autoscaling": {"enabled": False}}, "team"),
    "kueue.elastic": ({"kueue": {"queue": "team"}, "autoscaling": {"enabled": False}}, True),
    "monitoring.enabled": ({}, True),
    "monitoring.labels": ({"monitoring": {"enabled": True}}, {"release": "prometheus"}),
}


def test_every_value_does_something() -> None:
    told = [path for path, value in properties(schema()) if "properties" not in value]
    assert set(CHANGES) == set(told)
    before = texts(*(_based(path, given) for path, (given, _) in CHANGES.items()))
    after = texts(*(_changed(path, *change) for path, change in CHANGES.items()))
    assert [path for path, one, other in zip(CHANGES, before, after, strict=True) if one == other] == []
    for one, other in zip(before, after, strict=True):
        for name in other:
            if name.endswith(".yaml") and one.get(name) != other[name]:
                check_schemas(objects_in(other[name]))


def _based(path: str, given: Values) -> Values:
    return {**given, "gpuGroups": [GROUP]} if path.startswith("gpuGroups[]") else given


def _changed(path: str, given: Values, value: Any) -> Values:
    changed = copy.deepcopy(_based(path, given))
    *parts, last = path.split(".")
    at = changed
    for part in parts:
        at = at["gpuGroups"][0] if part == "gpuGroups[]" else at.setdefault(part, {})
    at[last] = value
    return changed
