"""The shape of the code: who may import whom, what the map of it says, and what importing it costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "mapper": {"mapper"},
    "catalogs": {"catalogs", "mapper"},
    "cluster": {"cluster", "mapper"},
    "jobs": {"jobs", "catalogs", "cluster", "mapper"},
}
"""Our packages, and which of our packages each may import: down only."""

OURS = {*MAY_IMPORT, "tests", "benchmarks"}

STRANGERS = {
    "mapper": {"ray", "pystac", "pystac_client", "sqlalchemy", "stac_geoparquet"},
    "catalogs": {"ray", "torch", "zarr", "sqlalchemy"},
    "cluster": {"pystac", "pystac_client", "sqlalchemy", "stac_geoparquet"},
    "jobs": set[str](),
}
"""What each leaves to others: a notebook needs no Ray, a worker no catalog."""

KNOW_RAY = ("drain", "draining", "nodes", "ray_actors", "ray_cluster", "ray_pool", "readers")
"""Modules of ``cluster`` that import ray at all; whatever else it has is rules, and this package's own words."""

MODULES = sorted(path.relative_to(ROOT) for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, at its top, in a function, or for type checking only."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports by a relative name"
            yield node.module or ""


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_down_only(path: Path) -> None:
    tops = {name.partition(".")[0] for name in imported(path)}
    assert tops & OURS <= MAY_IMPORT[path.parts[0]]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_layer_leaves_to_others_what_is_theirs(path: Path) -> None:
    tops = {name.partition(".")[0] for name in imported(path)}
    assert not tops & STRANGERS[path.parts[0]]


def test_only_the_ray_pool_its_cluster_and_its_readers_know_ray_in_the_cluster() -> None:
    users = {str(path) for path in MODULES if path.parts[0] == "cluster" and "ray" in set(imported(path))}
    assert users == {f"cluster/{name}.py" for name in KNOW_RAY}


def described() -> set[str]:
    """The module files that ARCHITECTURE.md names: in full, or below their folder in a drawing of the tree."""
    found: set[str] = set()
    folders: list[tuple[int, str]] = []
    for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines():
        indent = len(line) - len(line.lstrip())
        folder = re.match(r"\s*([a-z_]+)/(?:\s|$)", line)
        if folder:
            folders = [*(outer for outer in folders if outer[0] < indent), (indent, folder[1])]
            line = line[folder.end() :]
        elif not line.strip() or line.startswith("```"):
            folders = []
        here = "/".join(name for depth, name in folders if depth < indent or folder)
        for name in re.findall(r"[\w/]+\.py\b", line):
            found.add(name if name.split("/")[0] in OURS or not here else f"{here}/{name}")
    return found


def test_architecture_md_names_every_module() -> None:
    modules = {str(path) for path in MODULES if path.name != "__init__.py"}
    assert modules - described() == set()


def test_architecture_md_names_no_module_that_is_not_there() -> None:
    assert {name for name in described() if not (ROOT / name).is_file()} == set()


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("package", ["mapper", "jobs", "catalogs"])
@pytest.mark.parametrize("heavy", ["torch", "ray"])
def test_importing_a_package_costs_no_framework(package: str, heavy: str) -> None:
    assert run_python(f"import {package}, sys; print({heavy!r} in sys.modules)") == "False"


def loaded(code: str, suspects: str) -> set[str]:
    """Of these packages, those that some code has loaded."""
    return set(run_python(f"{code}\nimport sys; print(*({set(suspects.split())!r} & sys.modules.keys()))").split())


def test_the_command_lines_help_costs_no_framework() -> None:
    assert loaded("import jobs.cli", "torch ray numpy pandas pyarrow requests sqlalchemy zarr") == set()


def test_who_asks_how_a_run_is_waits_for_nothing_that_maps(tmp_path: Path) -> None:
    code = f"""
import os, sys, jobs.cli
os.environ["RESMAP_REGISTRY"] = "sqlite:///{tmp_path}/registry.db"
sys.argv = ["resmap", "status"]
sys.stdout = open(os.devnull, "w")
try: jobs.cli.main()
except SystemExit: sys.stdout = sys.__stdout__
"""
    assert loaded(code, "torch ray pandas scipy rasterio") == set()


def test_everything_public_is_there() -> None:
    for package in ("mapper", "mapper.models", "catalogs", "cluster", "jobs"):
        run_python(f"from {package} import *")


def test_a_model_needs_torch_and_no_geography() -> None:
    code = """
import sys

class Absent:
    names = {"affine", "fsspec", "pyproj", "pystac", "rasterio", "ray", "rioxarray", "shapely", "xarray", "zarr"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import mapper.models
from mapper.models import pocket
print(pocket.WINDOW_PX == mapper.models.window_px("pocket"))
"""
    assert run_python(code) == "True"
