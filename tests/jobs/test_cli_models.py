"""``resmap models``: what it says, and how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.spec import spec_from
from mapper.errors import SpecError
from mapper.models.weights import read_weights
from tests.mapper.models.plugged import lines
from tests.servers import files_over_http
from tests.stories.command_line import Resmap, command_line
from tests.stories.world import write_world

NET = {"first.weight": (4, 3), "first.bias": (4,), "second.weight": (1, 4), "second.bias": (1,)}


@pytest.fixture
def resmap(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Resmap:
    monkeypatch.setenv("COLUMNS", "200")
    return command_line(monkeypatch, capsys)


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A published checkpoint of ``lines``, a model of a package, and an empty cache."""
    monkeypatch.syspath_prepend(lines(tmp_path / "site"))
    monkeypatch.setenv("RESMAP_CACHE", str(tmp_path / "cache"))
    torch.save({"model": {key: torch.ones(shape) for key, shape in NET.items()}}, tmp_path / "lines.pth")
    yield tmp_path / "lines.pth"
    sys.modules.pop("resmap_lines", None)


def test_list_shows_every_model_with_its_weights_and_licence(resmap: Resmap, checkpoint: Path) -> None:
    said = resmap("models", "list")
    assert said.status == 0
    rows = {line.split()[0]: line for line in said.out.splitlines() if line.strip()}
    assert "ships" in rows["pocket"]
    assert "Apache-2.0" in rows["pocket"]
    assert "to get" in rows["lines"]
    assert "32 px" in rows["lines"]
    assert {"remotesam", "rsrefseg", "rsrefseg2", "sam3"} <= rows.keys()


def test_list_as_json_has_a_row_a_model(resmap: Resmap, checkpoint: Path) -> None:
    rows = {row["name"]: row for row in resmap("models", "list", "--json").document}
    assert rows["lines"] == {
        "name": "lines", "title": "Lines: a test", "licence": "MIT", "window_px": 32, "ships": False,
        "weights": "to get", "cached": [], "package": "resmap-lines 1.0", "problem": "",
    }  # fmt: skip
    assert rows["pocket"]["ships"]


def test_show_tells_where_weights_are_published_and_the_command_that_makes_them_safe(
    resmap: Resmap, checkpoint: Path
) -> None:
    said = resmap("models", "show", "lines")
    assert "https://huggingface.co/someone/lines" in said.out
    assert "resmap models convert lines hf://someone/lines@main/lines.pth --out lines.safetensors" in said.out
    document = resmap("models", "show", "lines", "--json").document
    assert (document["licence"], document["package"], document["cached"]) == ("MIT", "resmap-lines 1.0", [])


def test_show_says_that_remotesam_has_no_stated_licence(resmap: Resmap) -> None:
    said = resmap("models", "show", "remotesam")
    assert "not stated" in said.out
    assert "licence" in " ".join(said.out.split("terms")[1].split())


def test_convert_ends_with_the_line_for_the_job_file(resmap: Resmap, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "lines.safetensors"
    said = resmap("models", "convert", "lines", checkpoint, "--out", out, "--revision", "r1")
    assert said.status == 0
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert said.out.splitlines()[-1] == f"model: {{name: lines, weights: {out}, sha256: {digest}}}"
    assert read_weights(out, model="lines").about["revision"] == "r1"


def test_convert_as_json_is_one_document(resmap: Resmap, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "lines.safetensors"
    document = resmap(
        "models", "convert", "lines", checkpoint, "--out", out, "--config", '{"width": 4}', "--json"
    ).document
    assert document["weights"] == str(out)
    assert document["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert (document["tensors"], document["parameters"]) == (4, 21)
    assert json.loads(Path(document["item"]).read_text())["id"] == f"lines-{document['sha256'][:12]}"


def test_weights_in_the_cache_are_shown_with_their_line_for_the_job_file(
    resmap: Resmap, checkpoint: Path, tmp_path: Path
) -> None:
    document = resmap("models", "convert", "lines", checkpoint, "--out", tmp_path / "x.safetensors", "--json").document
    kept = tmp_path / "cache" / "weights" / f"{document['sha256']}.safetensors"
    kept.parent.mkdir(parents=True)
    os.link(document["weights"], kept)
    rows = {row["name"]: row for row in resmap("models", "list", "--json").document}
    assert (rows["lines"]["weights"], rows["lines"]["cached"]) == ("cached", [str(kept)])
    assert (
        f"model: {{name: lines, weights: {kept}, sha256: {document['sha256']}}}"
        in resmap("models", "show", "lines").out
    )


@pytest.mark.parametrize(
    ("words", "complaint", "remedy"),
    [
        (["show", "remotsam"], "there is no model named 'remotsam'", "did you mean remotesam?"),
        (["convert", "lines", "gone.pth", "--out", "x.safetensors"], "there is no such checkpoint", "check the path"),
        (["convert", "lines", "lines.pth", "--out", "x.pth"], "a weights file ends in .safetensors", "rename --out"),
        (["convert", "pocket", "lines.pth", "--out", "x.safetensors"], "pocket has no published", "load it"),
    ],
)  # fmt: skip
def test_wrong_words_end_with_3_and_a_remedy(
    words: list[str], complaint: str, remedy: str, resmap: Resmap, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    said = resmap("models", *words)
    assert (said.status, said.out) == (3, "")
    assert complaint in said.complaint
    assert remedy in said.remedy


# ── the job file ────────────────────────────────────────────────────────────────────────────────────────────


def job(**model: object) -> dict[str, object]:
    return {
        "name": "a", "area": {"bbox": [0, 0, 1, 1]}, "imagery": {"catalog": "c.json"},
        "prompts": [{"name": "p", "expression": "the houses"}], "output": {"mosaic": "m.zarr"}, "model": model,
    }  # fmt: skip


def test_a_job_may_fetch_its_weights_and_have_them_compiled() -> None:
    model = spec_from(job(name="remotesam", weights="s3://b/w.safetensors", sha256="0" * 64, compiled=True)).model
    assert (model.weights, model.sha256, model.compiled) == ("s3://b/w.safetensors", "0" * 64, True)


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ({"weights": "https://e.com/w.safetensors"}, "weights from elsewhere must be vouched for; give its sha256"),
        ({"weights": "hf://owner/name@main/w"}, "a commit of 40 hex digits"),
        ({"weights": "ftp://e.com/w"}, "weights cannot be fetched from ftp://"),
        ({"sha256": "0" * 64}, "sha256 is of weights, and none are given"),
    ],
)
def test_weights_that_nothing_vouches_for_are_refused_with_the_job(model: dict[str, object], fault: str) -> None:
    with pytest.raises(SpecError, match="model: ") as refused:
        spec_from(job(**model))
    assert fault in refused.value.what


def test_a_run_fetches_its_weights_once_and_records_their_digest(
    resmap: Resmap, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "served").mkdir()
    words = ["models", "convert", "lines", checkpoint, "--out", tmp_path / "served" / "w.safetensors", "--json"]
    digest = resmap(*words).document["sha256"]
    (tmp_path / "world").mkdir()
    world = write_world(tmp_path / "world")
    with files_over_http(tmp_path / "served") as server:
        model = {"name": "lines", "weights": f"{server.url}/w.safetensors", "sha256": digest}
        document = world.job(tmp_path / "map.zarr", model=model, windows={"overlap_px": 8}, compute={"gpus": 1})
        (tmp_path / "job.yaml").write_text(json.dumps(document))
        planned = resmap("plan", tmp_path / "job.yaml")
        assert f"fetched first from {server.url}/w.safetensors" in planned.err
        said = resmap("run", "--local", "--json", tmp_path / "job.yaml")
    assert said.status == 0, said.err
    assert sum(request.method == "GET" for request in server.requests) == 1
    (facts,) = (tmp_path / "map.zarr" / ".resmap" / "runs").glob("*/run.json")
    assert digest in json.loads(facts.read_text())["fingerprint"]


def test_a_picture_is_tried_with_weights_of_ones_own(resmap: Resmap, checkpoint: Path, tmp_path: Path) -> None:
    made = resmap("models", "convert", "lines", checkpoint, "--out", tmp_path / "w.safetensors", "--json").document
    digest = made["sha256"]
    Image.fromarray(np.full((40, 50, 3), 200, np.uint8)).save(tmp_path / "white.png")
    words = ["what is bright", "--model", "lines", "--weights", tmp_path / "w.safetensors", "--sha256"]
    assert resmap("try", tmp_path / "white.png", *words, digest, "--json").document["share"] == 1
    refused = resmap("try", tmp_path / "white.png", *words, "0" * 64)
    assert refused.status == 3
    assert "the job asks for 000000000000" in refused.complaint
