"""What must be true of every pod that goes to a cluster, whichever recipe it comes from."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import yaml
from ray.autoscaler._private.kuberay import autoscaling_config
from typer.main import get_command

from jobs import cli
from tests.deploy.manifests import Object, Pod, commands, pods, quantity, ray_spec

MARGIN_S = 5
"""Between the end of a hook and the kill."""

STANDING_DNS = {"protocol": "UDP", "port": 53}


def nobody_is_root(objects: Sequence[Object]) -> None:
    """No pod runs as root, writes to its own root, or has a capability; what it may write to is a volume."""
    for pod in pods(objects):
        whole = pod.spec["securityContext"]
        assert whole["runAsNonRoot"] is True, pod.where
        assert whole["runAsUser"] > 0, pod.where
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}, pod.where
        for container in pod.containers:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, pod.where
            assert own["readOnlyRootFilesystem"] is True, pod.where
            assert own["capabilities"] == {"drop": ["ALL"]}, pod.where
            writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            homes = {entry["value"] for entry in container.get("env", ()) if entry["name"] == "HOME"}
            assert homes <= writable, pod.where
        assert not any(pod.spec.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC")), pod.where
        assert not any("hostPath" in volume for volume in pod.spec["volumes"]), pod.where
    for one in objects:
        options = (ray_spec(one) or {}).get("autoscalerOptions")
        if options is not None:  # a container that KubeRay adds: by itself it would be open
            assert options["securityContext"]["readOnlyRootFilesystem"] is True
            assert options["securityContext"]["allowPrivilegeEscalation"] is False
            assert {mount["mountPath"] for mount in options["volumeMounts"]} >= {"/tmp"}


def all_have_limits(objects: Sequence[Object]) -> None:
    """Every container says what it may take, and never more memory than it asked for; rooms on disk are bounded."""
    for pod in pods(objects):
        for container in pod.containers:
            limits, requests = container["resources"]["limits"], container["resources"]["requests"]
            assert {"cpu", "memory"} <= set(limits), pod.where
            assert quantity(requests["memory"]) <= quantity(limits["memory"]), pod.where
        volumes = [volume["emptyDir"] for volume in pod.spec["volumes"] if "emptyDir" in volume]
        assert all("sizeLimit" in volume for volume in volumes), pod.where
        shared = [quantity(volume["sizeLimit"]) for volume in volumes if volume.get("medium") == "Memory"]
        assert sum(shared) < quantity(pod.spec["containers"][0]["resources"]["limits"]["memory"]) / 2, pod.where


def images_are_pinned(objects: Sequence[Object]) -> None:
    """By a digest, or by a tag of this version; never latest."""
    for pod in pods(objects):
        for container in pod.containers:
            image = container["image"]
            digest = re.search(r"@sha256:[0-9a-f]{64}$", image)
            assert digest or image.rpartition(":")[2].startswith(version("resmap")), f"{pod.where}: {image}"


def no_secret_is_written_down(objects: Sequence[Object]) -> None:
    """Tokens and passwords come from Secrets, and those do not come with the recipes."""
    assert not [one for one in objects if one["kind"] == "Secret"]
    for pod in pods(objects):
        for container in pod.containers:
            for entry in container.get("env", ()):
                if re.search("TOKEN|SECRET|PASSWORD|KEY|REGISTRY", entry["name"]):
                    assert "value" not in entry, f"{pod.where}: {entry['name']}"
    assert not re.search(r"://[^/\s:]+:[^/\s@]+@", yaml.safe_dump_all(list(objects)))


def only_the_head_knows_kubernetes(objects: Sequence[Object]) -> None:
    """Only the autoscaler beside the head has the key to the Kubernetes API."""
    accounts = {one["metadata"]["name"]: one for one in objects if one["kind"] == "ServiceAccount"}
    for pod in pods(objects):
        if pod.role != "head":
            assert pod.spec["automountServiceAccountToken"] is False, pod.where
        if "serviceAccountName" in pod.spec:
            assert pod.spec["serviceAccountName"] in accounts, pod.where


def grace_outlasts_the_hook(objects: Sequence[Object]) -> None:
    """A worker that must go has the time that its preStop hook takes, and some more."""
    for pod in pods(objects):
        hooks = [container["lifecycle"]["preStop"] for container in pod.containers if "lifecycle" in container]
        if pod.role == "worker":
            (hook,) = hooks
            words = hook["exec"]["command"]
            assert [words[0], words[1], words[2], words[4]] == ["resmap", "drain", "--within", "--wait"], pod.where
            assert pod.spec["terminationGracePeriodSeconds"] >= int(words[3]) + MARGIN_S, pod.where
        else:
            assert not hooks, pod.where


def every_command_of_ours_parses(objects: Sequence[Object]) -> None:
    """Each command line of ``resmap`` is one, down to the value of its last option."""
    known = get_command(cli.app).commands  # type: ignore[attr-defined]
    found = 0
    for where, words in commands(objects):
        if words[0] == "resmap":
            there = [__file__ if word.startswith("/") else word for word in words[2:]]  # a file of the pod is not here
            with known[words[1]].make_context(words[1], there) as read:
                assert read.args == [], where
            found += 1
    assert found > 0


def ray_is_one_version_with_a_token(objects: Sequence[Object]) -> None:
    """The version of the constraint file, and nobody gets in without a token."""
    clusters = [spec for one in objects if (spec := ray_spec(one)) is not None]
    assert clusters
    for spec in clusters:
        assert spec["rayVersion"] == version("ray")
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def ray_knows_what_groups_bring(objects: Sequence[Object]) -> None:
    """Ray's own autoscaler reads the groups as a job file's ``compute`` asks for them, before any pod is there."""
    for one in objects:
        spec = ray_spec(one)
        if spec is None:
            continue
        for group in spec["workerGroupSpecs"]:
            kind = autoscaling_config._node_type_from_group_spec(group, is_head=False)
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert kind["resources"]["CPU"] == int(limits["cpu"])
            assert kind["resources"].get("GPU") == limits.get("nvidia.com/gpu")
            assert kind["labels"]["ray.io/market-type"] in ("spot", "on-demand")
            shm = next(one["emptyDir"] for one in group["template"]["spec"]["volumes"] if one["name"] == "shm")
            assert int(group["rayStartParams"]["object-store-memory"]) < quantity(shm["sizeLimit"])
            gpu_type = kind["labels"].get("ray.io/accelerator-type")
            assert (gpu_type is not None) == ("GPU" in kind["resources"])
            if gpu_type is not None:
                assert kind["resources"][f"accelerator_type:{gpu_type}"] == 1
            params = " ".join(f"--{key}={value}" for key, value in group["rayStartParams"].items())
            for word in shlex.split(params):  # as bash takes it apart, in the command that KubeRay makes
                if word.startswith("--resources="):
                    assert json.loads(word.removeprefix("--resources=")) == {f"accelerator_type:{gpu_type}": 1}


def all_is_denied_but_what_is_named(objects: Sequence[Object]) -> None:
    """Every pod is under a policy for what comes and one for what goes; none lets in from everywhere."""
    policies = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy"]
    for pod in pods(objects):
        mine = [policy for policy in policies if _means(policy["podSelector"], pod)]
        assert {way for policy in mine for way in policy["policyTypes"]} == {"Ingress", "Egress"}, pod.where
        out = [rule for policy in mine for rule in policy.get("egress", ())]
        assert any(STANDING_DNS in rule["ports"] for rule in out if "ports" in rule), pod.where
    for policy in policies:
        for rule in policy.get("ingress", ()):
            assert rule.get("from"), policy
            assert {} not in rule["from"], policy
            assert not any("ipBlock" in peer for peer in rule["from"]), policy
            assert not any(peer == {"namespaceSelector": {}} for peer in rule["from"]), policy


def only_those_may_reach_the_head(objects: Sequence[Object]) -> None:
    """Ray's ports: its own pods all of them, the operator and submitters the jobs', drivers 6379 and Ray Client."""
    head = next(pod for pod in pods(objects) if pod.role == "head")
    submitter = {"resmap.io/submits": "true"}
    operator = {"app.kubernetes.io/name": "kuberay-operator"}
    stranger = Pod(where="", role="", labels={"app": "stranger"}, spec={})

    def reaches(labels: dict[str, str], port: int, pod: Pod = head) -> bool:
        guest = Pod(where="", role="", labels=labels, spec={})
        return any(
            _means(peer.get("podSelector", {}), guest) and "podSelector" in peer
            for one in objects
            if one["kind"] == "NetworkPolicy" and _means(one["spec"]["podSelector"], pod)
            for rule in one["spec"].get("ingress", ())
            if "ports" not in rule or any(open_["port"] == port for open_ in rule["ports"])
            for peer in rule["from"]
        )

    for pod in pods(objects):
        if pod.role == "worker":
            assert all(reaches(pod.labels, port) for port in (6379, 8265, 10001, 23456)), pod.where
            assert reaches(head.labels, 23456, pod), pod.where
            assert not reaches(operator, 8265, pod), pod.where
        if pod.role == "submitter":
            assert reaches(pod.labels, 8265)
    assert reaches(submitter, 8265)
    assert reaches(operator, 8265)
    for labels in (submitter, operator, stranger.labels):
        assert not reaches(labels, 6379)
        assert not reaches(labels, 10001)
    assert not reaches(stranger.labels, 8265)
    assert reaches({"resmap.io/drives": "true"}, 10001)


def nobody_moves_the_head(objects: Sequence[Object]) -> None:
    """A budget keeps it where it is: in a plain number, which is all that is allowed for pods of an operator."""
    (budget,) = [one["spec"] for one in objects if one["kind"] == "PodDisruptionBudget"]
    heads = [pod for pod in pods(objects) if pod.role == "head"]
    assert all(_means(budget["selector"], pod) for pod in heads)
    assert not any(_means(budget["selector"], pod) for pod in pods(objects) if pod.role != "head")
    assert budget["minAvailable"] == 1
    assert "maxUnavailable" not in budget


def services_and_monitors_find_their_pods(objects: Sequence[Object]) -> None:
    """Whoever selects pods finds some, and the ports that it names."""
    for one in objects:
        if one["kind"] in ("Service", "PodMonitor"):
            selector = one["spec"]["selector"]
            mine = [pod for pod in pods(objects) if _means({"matchLabels": selector.get("matchLabels", selector)}, pod)]
            assert mine, one["metadata"]["name"]
            ports = one["spec"].get("ports") or one["spec"]["podMetricsEndpoints"]
            for pod in mine:
                named = {port["name"] for container in pod.containers for port in container.get("ports", ())}
                assert {port.get("targetPort", port.get("port")) for port in ports} <= named, pod.where


def _means(selector: dict[str, Any], pod: Pod) -> bool:
    return set(selector.get("matchLabels", {}).items()) <= set(pod.labels.items())


ALL = (
    nobody_is_root,
    all_have_limits,
    images_are_pinned,
    no_secret_is_written_down,
    only_the_head_knows_kubernetes,
    grace_outlasts_the_hook,
    every_command_of_ours_parses,
    ray_is_one_version_with_a_token,
    ray_knows_what_groups_bring,
    all_is_denied_but_what_is_named,
    only_those_may_reach_the_head,
    nobody_moves_the_head,
    services_and_monitors_find_their_pods,
)
