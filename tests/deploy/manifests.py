"""Objects of Kubernetes as tests see them: from the recipes by ``kubectl``, and what is inside of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # its stubs are a package of their own
from kubernetes_validate.utils import schema_contents  # type: ignore[import-untyped]  # ships no types
from referencing import Registry, Resource

from tests.deploy.custom_resources import checked

Object: TypeAlias = dict[str, Any]

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "deploy" / "kuberay"
OLDEST, NEWEST = "1.29", "1.37"
"""Of Kubernetes, whose schemas the objects have to fit."""

ALERTS = ROOT / "cluster" / "deploy" / "grafana" / "alerts.yaml"


def kustomized(folder: str) -> list[Object]:
    """What ``kubectl apply -k`` would send from a folder of the recipes."""
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here")
    made = subprocess.run(
        ["kubectl", "kustomize", str(KUBERAY / folder)], capture_output=True, text=True, check=True, timeout=60
    )
    return objects_in(made.stdout)


def objects_in(text: str) -> list[Object]:
    """The objects of a stream of YAML documents."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def name_of(one: Object) -> str:
    """Kind and name, as ``kubectl`` writes them."""
    return f"{one['kind']}/{one['metadata']['name']}"


def only(objects: Sequence[Object], kind: str, name: str | None = None) -> Object:
    """The one object of a kind, or of that name."""
    (one,) = [one for one in objects if one["kind"] == kind and name in (None, one["metadata"]["name"])]
    return one


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod that would be made, and what it is."""

    where: str
    """The object it stands in, and where."""

    role: str
    """head, worker, submitter or dashboard."""

    labels: dict[str, str]
    """Its own, and those that KubeRay puts on it."""

    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Those that start it too."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


def ray_spec(one: Object) -> dict[str, Any] | None:
    """The Ray cluster of an object; None where it has none."""
    if one["kind"] == "RayCluster":
        return dict(one["spec"])
    if one["kind"] == "RayJob":
        return dict(one["spec"]["rayClusterSpec"])
    return None


def pods(objects: Sequence[Object]) -> Iterator[Pod]:
    """Every pod that these objects would bring."""
    for one in objects:
        ray = ray_spec(one)
        if ray is not None:
            for group in (ray["headGroupSpec"], *ray["workerGroupSpecs"]):
                role = "worker" if "groupName" in group else "head"
                theirs = {"ray.io/is-ray-node": "yes", "ray.io/node-type": role, **group.get("labels", {})}
                yield _pod(one, role, group["template"], group.get("groupName", "head"), **theirs)
        if one["kind"] == "RayJob":
            yield _pod(one, "submitter", one["spec"]["submitterPodTemplate"], "submitter")
        if one["kind"] == "Deployment":
            yield _pod(one, "dashboard", one["spec"]["template"], "pod")


def _pod(one: Object, role: str, template: Object, part: str, **labels: str) -> Pod:
    own = template.get("metadata", {}).get("labels", {})
    return Pod(where=f"{name_of(one)} {part}", role=role, labels={**own, **labels}, spec=template["spec"])


def check_schemas(objects: Sequence[Object]) -> None:
    """Every object fits what Kubernetes takes, or the operator whose kind it is: no unknown field, no wrong type.

    Raises:
        ValidationError: one does not.
    """
    for one in objects:
        if not checked(one):
            _check(json.dumps(one))
    for pod in pods(objects):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "labels": pod.labels}, "spec": pod.spec}
        _check(json.dumps(whole))


@cache
def _check(one: str) -> None:
    read = json.loads(one)
    for release in (OLDEST, NEWEST):
        _validator(read["kind"], read["apiVersion"], release).validate(read)


@cache
def _validator(kind: str, version: str, release: str) -> Draft202012Validator:
    """As ``kubernetes_validate.validate(strict=True)`` makes it, which reads all its schemas anew each time."""
    folder = f"kubernetes-json-schema/v{release}.0-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", version)
    schema = schema_contents(f"{folder}/{kind.lower()}-{group}.json", release)
    return Draft202012Validator(schema, registry=_definitions(folder, release))


@cache
def _definitions(folder: str, release: str) -> Registry[Any]:
    resource: Resource[Any] = Resource.from_contents(schema_contents(f"{folder}/_definitions.json", release))
    return resource @ Registry()


def commands(objects: Sequence[Object]) -> Iterator[tuple[str, list[str]]]:
    """Every command line of these objects, as words, with where it stands."""
    for one in objects:
        if one["kind"] == "RayJob":
            yield f"{name_of(one)} entrypoint", one["spec"]["entrypoint"].split()
    for pod in pods(objects):
        for container in pod.containers:
            where = f"{pod.where} {container['name']}"
            if "command" in container:
                yield where, [*container["command"], *container.get("args", ())]
            for hook in container.get("lifecycle", {}).values():
                yield f"{where} hook", hook["exec"]["command"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if "exec" in container.get(probe, {}):
                    yield f"{where} {probe}", container[probe]["exec"]["command"]


def quantity(text: str | int) -> float:
    """What a quantity of Kubernetes is, in bytes or cores."""
    found = re.fullmatch(r"([0-9.]+)(m|Ki|Mi|Gi|Ti|)", str(text))
    assert found is not None, text
    unit = {"": 1.0, "m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
    return float(found[1]) * unit[found[2]]
