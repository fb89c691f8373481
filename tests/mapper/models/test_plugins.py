"""Models that other packages bring, and what a model may lean on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mapper import models
from mapper.errors import ModelError
from tests.mapper.models.plugged import plug_in
from tests.mapper.models.reference import REFERENCE

ROOT = Path(__file__).parents[3]


def python(*words: str, path: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with one more folder on its path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), os.environ["PYTHONPATH"]])}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of ``docs/plugin``, installed by pip into a folder of its own."""
    work = tmp_path_factory.mktemp("plugin")
    shutil.copytree(ROOT / "docs" / "plugin", work / "source")  # pip builds where the source lies
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(work / "site"), str(work / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return work / "site"


def test_the_example_is_listed_once_pip_has_installed_it(installed: Path) -> None:
    done = python("-m", "jobs.cli", "models", "list", "--json", path=installed)
    (row,) = [row for row in json.loads(done.stdout) if row["name"] == "greenness"]
    assert (row["window_px"], row["package"], row["problem"]) == (512, "resmap-greenness 1.0", "")


def test_the_example_finds_a_meadow_beside_a_roof(installed: Path, tmp_path: Path) -> None:
    picture = np.full((600, 700, 3), (150, 140, 130), np.uint8)
    picture[:, 350:] = (70, 110, 50)
    Image.fromarray(picture).save(tmp_path / "meadow.png")
    words = ["-m", "jobs.cli", "try", str(tmp_path / "meadow.png"), "the grass", "--model", "greenness", "--json"]
    done = python(*words, path=installed)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["share"] == pytest.approx(0.5, abs=0.001)


def test_the_example_refuses_a_sentence_it_cannot_answer(installed: Path) -> None:
    code = """
import mapper, numpy
from mapper.errors import ModelError
try:
    mapper.segment(numpy.zeros((9, 9, 3), numpy.uint8), ["the ships"], model="greenness")
except ModelError as error:
    print(error.what)
"""
    assert python("-c", code, path=installed).stdout.strip() == "greenness cannot find “the ships”"


BROKEN = "import a_package_that_nobody_has\n"


def test_a_package_that_cannot_be_imported_is_named_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(plug_in(tmp_path, "broken", BROKEN, version="0.3"))
    assert "broken" in models.names()
    with pytest.raises(ModelError, match=r"broken of resmap-broken 0\.3 cannot be loaded: ModuleNotFound") as refused:
        models.load("broken")
    assert "a_package_that_nobody_has" in refused.value.what
    assert refused.value.fix == "install resmap-broken 0.3 again, or uninstall it"


def test_a_broken_package_does_not_hide_the_others(tmp_path: Path) -> None:
    plug_in(tmp_path, "broken", BROKEN)
    done = python("-m", "jobs.cli", "models", "list", path=tmp_path)
    assert done.returncode == 0
    assert "resmap-broken 1.0" in " ".join(done.stdout.split())
    assert "pocket" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_module_that_is_no_model_is_told_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(plug_in(tmp_path, "halfmade", "WINDOW_PX = 64\n"))
    with pytest.raises(ModelError, match=r"halfmade of resmap-halfmade 1\.0 has no load;") as refused:
        models.window_px("halfmade")
    assert "load(weights, device=, precision=)" in refused.value.fix


def test_two_packages_with_one_name_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("one-twin", "other-twin"):
        folder = plug_in(tmp_path / package, "twins", "WINDOW_PX = 64\n", package=package)
        monkeypatch.syspath_prepend(folder)
    assert models.names().count("twins") == 1
    with pytest.raises(ModelError, match=r"one-twin 1\.0 and other-twin 1\.0 both bring a model named twins"):
        models.load("twins")


def test_a_folder_that_is_twice_on_the_path_brings_its_model_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = plug_in(tmp_path, "again", "WINDOW_PX = 64\nload = None\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(f"{folder}/.")
    assert models.window_px("again") == 64


def test_a_package_cannot_put_itself_in_the_place_of_a_model_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(plug_in(tmp_path, "pocket", "WINDOW_PX = 64\n", package="evil"))
    assert models.brought_by("pocket") == "resmap"
    assert models.window_px("pocket") == 640


def test_a_misspelt_name_is_answered_with_the_near_one() -> None:
    with pytest.raises(ModelError, match="no model named 'remotsam'") as refused:
        models.load("remotsam")
    assert refused.value.fix == "did you mean remotesam?"


def test_our_own_models_tell_their_window_and_card_without_an_import(tmp_path: Path) -> None:
    code = """
import sys
from importlib import import_module
from mapper import models
told = {name: (models.window_px(name), models.card(name)) for name in models.names()[:5]}
print("torch" in sys.modules, "transformers" in sys.modules)
for name, (window_px, card) in told.items():
    module = import_module(f"mapper.models.{name}")
    assert (module.WINDOW_PX, module.CARD) == (window_px, card), name
"""
    done = python("-c", code, path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "False"]


ALONE = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    # What an installation finds that lacks these packages.
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent} else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
import importlib
import mapper.models
from mapper.models import convert, fetch, mlm, weights
from tests.mapper.models.reference import small

for name in mapper.models.names()[:5]:
    importlib.import_module(f"mapper.models.{{name}}")
    found = small(name)
    if found is not None:
        print(name, mapper.models.from_upstream(name, *found).training)
"""

ABSENT = """
affine cql2 cv2 dask odc pandas peft pyarrow pydantic pyproj pystac pystac_client rasterio ray rich rioxarray s3fs scipy
shapely sqlalchemy stac_geoparquet timm torchvision typer xarray zarr
"""


def test_every_model_needs_torch_numpy_and_transformers_alone(tmp_path: Path) -> None:
    code = ALONE.format(absent=set(ABSENT.split()))
    done = python("-c", code, path=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    if REFERENCE.is_dir():  # else the models were imported, and no network made
        assert done.stdout.split() == ["remotesam", "False", "rsrefseg", "False", "rsrefseg2", "False"]
