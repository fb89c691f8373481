"""``cluster/deploy/ray-launcher``: Ray takes the files, the clouds take what Ray makes of them."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray

FOLDER = Path(__file__).parents[2] / "cluster" / "deploy" / "ray-launcher"
CLOUDS = ("aws", "gcp")


def cluster(cloud: str, **words: str) -> dict[str, Any]:
    """As Ray has it once its own defaults are filled in; ``words`` stand where a reader puts theirs."""
    text = (FOLDER / f"{cloud}.yaml").read_text()
    for word, put in words.items():
        text = text.replace(word.replace("_", "-"), put)
    return dict(prepare_config(yaml.safe_load(text)))


def workers(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: kind for name, kind in found["available_node_types"].items() if name != found["head_node_type"]}


# Ray -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_takes_the_file(cloud: str) -> None:
    validate_config(cluster(cloud))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_refuses_a_word_it_does_not_know(cloud: str) -> None:
    broken = cluster(cloud) | {"idle_timeout": 3}
    with pytest.raises(Exception, match="'idle_timeout' was unexpected"):
        validate_config(broken)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_option_of_the_start_commands_is_one_of_rays(cloud: str) -> None:
    found = cluster(cloud)
    for command in (*found["head_start_ray_commands"], *found["worker_start_ray_commands"]):
        words = command.rpartition(";")[2].replace("$RAY_HEAD_IP", "10.0.0.1").split()
        assert words[0] == "ray"
        known = ray.commands[words[1]]
        known.make_context(words[1], words[2:])  # raises for an option that is none
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in found["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in found["head_start_ray_commands"][-1]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nothing_is_installed_in_a_container_that_has_no_pip(cloud: str) -> None:
    found = cluster(cloud)
    said = [*found["head_setup_commands"], *found["worker_setup_commands"], *found["setup_commands"]]
    assert [command for command in said if "pip" in command] == []


@pytest.mark.parametrize("cloud", CLOUDS)
def test_workers_are_of_the_spot_market_of_several_kinds_and_cost_nothing_while_nobody_asks(cloud: str) -> None:
    found = cluster(cloud)
    assert len(workers(found)) >= 3
    for kind in workers(found).values():
        assert kind["min_workers"] == 0 < kind["max_workers"] <= found["max_workers"]
        assert kind["labels"]["ray.io/market-type"] == "spot"
        gpu = kind["labels"]["ray.io/accelerator-type"]
        assert kind["resources"][f"accelerator_type:{gpu}"] == 1
    assert found["available_node_types"]["head"]["max_workers"] == 0
    assert found["idle_timeout_minutes"] <= 5


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_node_is_told_to_ask_for_a_token_and_to_watch_the_cloud_it_is_in(cloud: str) -> None:
    options = cluster(cloud)["docker"]["run_options"]
    assert {"-e RAY_AUTH_MODE=token", f"-e RESMAP_SPOT={cloud}", "--cap-drop ALL"} <= set(options)
    (token,) = [option for option in options if "RAY_AUTH_TOKEN_PATH" in option]
    (mounted,) = cluster(cloud)["file_mounts"]
    assert token.partition("=")[2] == f"{mounted}/auth_token"


@pytest.mark.parametrize(("token", "mode", "starts"), [("t0ken", 0o644, True), ("", 0o600, False), (None, 0, False)])
def test_a_node_goes_on_only_with_a_token_which_is_then_for_its_owner_alone(
    token: str | None, mode: int, starts: bool, tmp_path: Path
) -> None:
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    if token is not None:
        file.write_text(token)
        file.chmod(mode)
    for cloud in CLOUDS:
        (command,) = cluster(cloud)["setup_commands"]
        done = subprocess.run(
            ["bash", "-c", command], env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, capture_output=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert (done.returncode == 0) is starts
        if starts:
            assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_the_commands_of_the_readme_are_rays_and_the_files_it_names_are_there() -> None:
    readme = (FOLDER / "README.md").read_text()
    for word in set(re.findall(r"^ray (\w+) \w+\.yaml", readme, re.MULTILINE)):
        assert CliRunner().invoke(ray, [word, "--help"]).exit_code == 0, word
    links = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in link]
    assert [link for link in links if not (FOLDER / link).exists()] == []


# AWS -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An AWS of this process: every call is checked by its own client, and none leaves."""
    from moto import mock_aws

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-west-2",
        "HOME": str(tmp_path),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with mock_aws():
        yield import_module("boto3")


@pytest.mark.fleet
def test_ray_starts_on_aws_what_the_file_says(aws: Any) -> None:
    bootstrap_aws: Any = import_module("ray.autoscaler._private.aws.config").bootstrap_aws
    provider_of: Any = import_module("ray.autoscaler._private.aws.node_provider").AWSNodeProvider
    ec2, iam = aws.client("ec2"), aws.client("iam")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    network = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="fleet", Description="of a test", VpcId=network)["GroupId"]
    account = aws.client("sts").get_caller_identity()["Account"]
    for name in ("resmap-head", "resmap-worker"):
        iam.create_instance_profile(InstanceProfileName=name)
    found = bootstrap_aws(cluster("aws", ami_REPLACE=image, sg_REPLACE=group, ACCOUNT=account))
    assert iam.list_roles()["Roles"] == []  # Ray makes none that may do anything
    provider = provider_of(found["provider"], found["cluster_name"])
    for name, kind in found["available_node_types"].items():
        tags = {"ray-node-type": "worker", "ray-launch-config": "of a test", "ray-user-node-type": name}
        provider.create_node(copy.deepcopy(kind["node_config"]), tags, 1)
    started = {
        next(tag["Value"] for tag in machine["Tags"] if tag["Key"] == "ray-user-node-type"): machine
        for reservation in ec2.describe_instances()["Reservations"]
        for machine in reservation["Instances"]
    }
    assert set(started) == set(found["available_node_types"])
    for name, machine in started.items():
        spot = name != "head"
        assert machine.get("InstanceLifecycle") == ("spot" if spot else None)
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert [kept["GroupId"] for kept in machine["SecurityGroups"]] == [group]
        role = "resmap-worker" if spot else "resmap-head"
        assert machine["IamInstanceProfile"]["Arn"].endswith(f"/{role}")
        (size,) = ec2.describe_instance_types(InstanceTypes=[machine["InstanceType"]])["InstanceTypes"]
        says = found["available_node_types"][name]["resources"]
        gpus = size.get("GpuInfo", {}).get("Gpus", [])
        assert (size["VCpuInfo"]["DefaultVCpus"], sum(gpu["Count"] for gpu in gpus)) == (says["CPU"], says["GPU"])
        assert all(f"accelerator_type:{gpu['Name']}" in says for gpu in gpus)


def test_the_heads_role_may_start_nodes_and_end_those_of_its_cluster_alone() -> None:
    policy = json.loads((FOLDER / "aws-head-policy.json").read_text())
    by_name = {rule["Sid"]: rule for rule in policy["Statement"]}
    assert all(rule["Effect"] == "Allow" for rule in policy["Statement"])
    acts = {act: rule for rule in policy["Statement"] for act in rule["Action"]}
    ends = acts["ec2:TerminateInstances"]["Condition"]["StringEquals"]
    assert ends == {"aws:ResourceTag/ray-cluster-name": cluster("aws")["cluster_name"]}
    assert acts["iam:PassRole"]["Resource"].endswith("role/resmap-worker")
    assert {act for act in acts if act.endswith("*")} == {"ec2:Describe*"}
    assert by_name["NameThemAtTheirStart"]["Condition"] == {"StringEquals": {"ec2:CreateAction": "RunInstances"}}


# Google Cloud --------------------------------------------------------------------------------------------------------


def compute() -> Mapping[str, Any]:
    """What Google says that its Compute API takes, as its own client ships it."""
    document = files("googleapiclient") / "discovery_cache" / "documents" / "compute.v1.json"
    return dict(json.loads(document.read_text())["schemas"])


def unknown(value: Any, schema: Mapping[str, Any], schemas: Mapping[str, Any], where: str) -> list[str]:
    """What of a value the API does not know, or takes another kind of."""
    if "$ref" in schema:
        return unknown(value, schemas[schema["$ref"]], schemas, where)
    kind = schema["type"]
    if kind == "array":
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [
            fault for n, one in enumerate(value) for fault in unknown(one, schema["items"], schemas, f"{where}[{n}]")
        ]
    if kind == "object":
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        fields = schema.get("properties", {})
        return [f"{where}.{name} is unknown" for name in value if name not in fields] + [
            fault
            for name, one in value.items()
            if name in fields
            for fault in unknown(one, fields[name], schemas, f"{where}.{name}")
        ]
    python = {"string": str, "boolean": bool, "integer": int, "number": float}[kind]
    if not isinstance(value, python):
        return [f"{where} is no {kind}"]
    return [] if value in schema.get("enum", [value]) else [f"{where} is none of {schema['enum']}"]


def test_googles_api_takes_every_node_of_the_file() -> None:
    schemas = compute()
    for name, kind in cluster("gcp")["available_node_types"].items():
        assert unknown(kind["node_config"], schemas["Instance"], schemas, name) == []


def test_a_word_that_googles_api_does_not_know_is_noticed() -> None:
    schemas = compute()
    asked = {"machineType": "g2", "scheduling": {"provisioningModel": "CHEAP", "spot": True}, "disks": {}}
    faults = unknown(asked, schemas["Instance"], schemas, "node")
    assert sorted(fault.split(" ")[0] for fault in faults) == [
        "node.disks", "node.scheduling.provisioningModel", "node.scheduling.spot",
    ]  # fmt: skip


def test_googles_workers_are_deleted_when_they_are_taken_away_and_have_an_account_of_their_own() -> None:
    for kind in workers(cluster("gcp")).values():
        node = kind["node_config"]
        assert node["scheduling"]["provisioningModel"] == "SPOT"
        assert node["scheduling"]["instanceTerminationAction"] == "DELETE"
        assert [account["email"].partition("@")[0] for account in node["serviceAccounts"]] == ["resmap-worker"]
