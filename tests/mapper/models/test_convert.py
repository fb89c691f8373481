"""A published checkpoint becomes a weights file: to the bit, or with a sentence and nothing written."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import torch
from pystac.extensions.mlm import MLMExtension, TaskType
from safetensors.torch import save_file
from torch import Tensor
from transformers import Sam3Model

from mapper import models
from mapper.errors import ModelError
from mapper.models.convert import Converted, convert, read_config
from mapper.models.weights import read_weights
from tests.mapper.models.hub import COMMIT, a_hub
from tests.mapper.models.plugged import lines
from tests.mapper.models.reference import small
from tests.mapper.models.test_sam3 import sizes, words
from tests.mapper.models.test_weights import a_tokenizer, bits


def published(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of a checkpoint of ``lines``."""
    torch.manual_seed(3)
    tensors = {"first.weight": torch.randn(4, 3), "first.bias": torch.randn(4)}
    tensors |= {"second.weight": torch.randn(1, 4), "second.bias": torch.randn(1)}
    return {key: tensor.to(dtype) for key, tensor in tensors.items()}


def converted(source: Path, out: Path, **options: Any) -> Converted:
    return convert("lines", source, out, **options)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# ── what is accepted ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "layout",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors, "meta": {"epoch": 3}},
        lambda tensors: {"model": tensors, "optimizer": {"state": {0: torch.zeros(9)}}, "epoch": 3},
        lambda tensors: {"module": tensors, "ds_version": "0.17"},
        lambda tensors: {f"module.{key}": tensor for key, tensor in tensors.items()},
    ],
    ids=["bare", "state_dict", "model", "module", "a prefix"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zipped", "of before 2020"])
def test_every_layout_that_training_tools_write_gives_the_same_tensors(
    layout: Any, zipped: bool, tmp_path: Path, lines_model: str
) -> None:
    torch.save(layout(published()), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    done = converted(tmp_path / "x.pth", tmp_path / "x.safetensors")
    read = read_weights(done.weights, model="lines").tensors
    assert {key: bits(tensor) for key, tensor in read.items()} == {
        key: bits(tensor) for key, tensor in published().items()
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_not_a_bit_is_changed(dtype: torch.dtype, kind: str, tmp_path: Path, lines_model: str) -> None:
    tensors = published(dtype)
    tensors["first.bias"][0] = float("nan")
    source = tmp_path / f"x.{kind}"
    torch.save(tensors, source) if kind == "pth" else save_file(tensors, source)
    read = read_weights(converted(source, tmp_path / "y.safetensors").weights, model="lines").tensors
    assert {key: (t.dtype, bits(t)) for key, t in read.items()} == {key: (dtype, bits(t)) for key, t in tensors.items()}


def test_what_was_converted_is_loaded_by_name_and_digest(tmp_path: Path, lines_model: str) -> None:
    torch.save(published(), tmp_path / "x.pth")
    done = converted(tmp_path / "x.pth", tmp_path / "x.safetensors")
    net = models.load("lines", weights=str(done.weights), sha256=done.sha256)
    assert done.sha256 in net.fingerprint
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), np.uint8)
    own = models.from_upstream("lines", published())
    expected = own.second(own.first(torch.tensor(pixels).float().movedim(1, -1)))[..., 0]  # type: ignore[operator]
    np.testing.assert_array_equal(net.logits(pixels, net.encode_text(["lines"]))[:, 0], expected.detach().numpy())


def test_one_checkpoint_gives_one_digest_wherever_it_is_converted(tmp_path: Path, lines_model: str) -> None:
    torch.save(published(), tmp_path / "x.pth")
    first = converted(tmp_path / "x.pth", tmp_path / "a.safetensors", revision="r1")
    again = converted(tmp_path / "x.pth", tmp_path / "b" / "b.safetensors", revision="r1")
    assert first.sha256 == again.sha256


def test_the_file_tells_where_it_came_from(tmp_path: Path, lines_model: str) -> None:
    torch.save(published(), tmp_path / "x.pth")
    done = converted(tmp_path / "x.pth", tmp_path / "x.safetensors", revision="0123abc")
    digest = hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()
    assert read_weights(done.weights, model="lines").about == {
        "source": "someone/lines",
        "revision": "0123abc",
        "licence": "MIT",
        "sha256": {"x.pth": digest},
        "tokenizer": None,
    }


def test_a_folder_gets_a_file_named_for_model_and_source(tmp_path: Path, lines_model: str) -> None:
    torch.save(published(), tmp_path / "RRSIS_d.pth")
    torch.save(published(), tmp_path / "LinesV1.pth")
    assert converted(tmp_path / "RRSIS_d.pth", tmp_path / "out").weights.name == "lines-rrsis-d.safetensors"
    assert converted(tmp_path / "LinesV1.pth", tmp_path / "out").weights.name == "linesv1.safetensors"


def test_a_checkpoint_of_the_hub_is_converted_by_its_address_and_its_commit_is_recorded(tmp_path: Path) -> None:
    lines(tmp_path / "site")
    torch.save({"model": published()}, tmp_path / "lines.pth")
    files = {"lines.pth": (tmp_path / "lines.pth").read_bytes(), "tokenizer.json": a_tokenizer()}
    out = tmp_path / "lines.safetensors"
    words = ["-m", "jobs.cli", "models", "convert", "lines", "hf://owner/lines@main/lines.pth", "--out", str(out)]
    with a_hub(files) as (url, _):
        paths = os.pathsep.join([str(tmp_path / "site"), os.environ["PYTHONPATH"]])
        hub = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": paths}
        command = [sys.executable, *words, "--tokenizer", "owner/lines"]
        done = subprocess.run(command, env={**os.environ, **hub}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = read_weights(out, model="lines")
    assert read.about["revision"] == COMMIT
    assert read.about["tokenizer"].startswith("owner/lines, sha256 ")
    assert read.tokenizer is not None


# ── folders ─────────────────────────────────────────────────────────────────────────────────────────────────


def sharded(folder: Path, names: Mapping[str, str]) -> Path:
    """A folder of the hub with these shards: key → file."""
    folder.mkdir()
    for file in set(names.values()):
        if Path(file).name == file:
            save_file({key: published()[key] for key, where in names.items() if where == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def test_shards_are_put_together(tmp_path: Path, lines_model: str) -> None:
    names = {key: f"model-{n % 2}.safetensors" for n, key in enumerate(published())}
    done = converted(sharded(tmp_path / "hub", names), tmp_path / "x.safetensors")
    assert (done.tensors, sorted(done.source_sha256)) == (4, ["model-0.safetensors", "model-1.safetensors"])


@pytest.mark.parametrize("shard", ["../secret.safetensors", "gone.safetensors", "/etc/passwd"])
def test_an_index_names_nothing_outside_its_folder(shard: str, tmp_path: Path, lines_model: str) -> None:
    save_file(published(), tmp_path / "secret.safetensors")
    names = dict.fromkeys(published(), shard)
    folder = sharded(tmp_path / "hub", {**names, "first.bias": "model.safetensors"})
    (folder / "gone.safetensors").unlink(missing_ok=True)
    with pytest.raises(ModelError, match="a shard that is not beside it"):
        converted(folder, tmp_path / "x.safetensors")


def test_a_folders_configuration_and_tokenizer_go_into_the_file(tmp_path: Path, lines_model: str) -> None:
    (tmp_path / "hub").mkdir()
    wide = {"first.weight": torch.randn(7, 3), "first.bias": torch.randn(7)}
    wide |= {"second.weight": torch.randn(1, 7), "second.bias": torch.randn(1)}
    save_file(wide, tmp_path / "hub" / "model.safetensors")
    (tmp_path / "hub" / "config.json").write_text('{"width": 7}')
    (tmp_path / "hub" / "tokenizer.json").write_bytes(a_tokenizer())
    read = read_weights(converted(tmp_path / "hub", tmp_path / "x.safetensors").weights, model="lines")
    assert read.config == {"width": 7}
    assert read.tokenizer is not None
    assert read.tokenizer.encode("the houses").ids == [1, 2]


def test_a_folder_with_several_checkpoints_asks_which(tmp_path: Path, lines_model: str) -> None:
    (tmp_path / "hub").mkdir()
    for name in ("rrsisd.pth", "risbench.pth"):
        torch.save(published(), tmp_path / "hub" / name)
    with pytest.raises(ModelError, match=r"several checkpoints: risbench\.pth, rrsisd\.pth"):
        converted(tmp_path / "hub", tmp_path / "x.safetensors")


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────


class Gadget:
    """Runs a command when it is unpickled by a reader that trusts it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("model", ["lines", "remotesam"])
@pytest.mark.parametrize("kind", ["zipped", "of before 2020", "a bare pickle"])
def test_a_checkpoint_that_would_run_code_is_refused_and_nothing_runs(
    kind: str, model: str, tmp_path: Path, lines_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what some tools tell people to set
    source, marker = tmp_path / "x.pth", tmp_path / "it-ran"
    document = {"model": published(), "args": Gadget(marker)}
    if kind == "a bare pickle":
        source.write_bytes(pickle.dumps({"args": Gadget(marker)}, protocol=2))
    else:
        torch.save(document, source, _use_new_zipfile_serialization=kind == "zipped")
    with pytest.raises(ModelError, match=r"is refused: it would use (posix|os)\.system") as refused:
        convert(model, source, tmp_path / "out" / "x.safetensors", tokenizer=_tokenizer_file(tmp_path))
    assert not marker.exists()
    assert left(tmp_path / "out") == []
    assert refused.value.where == {"file": source}
    os.system(f"touch {marker}")  # the gadget would have worked
    assert marker.exists()


def _tokenizer_file(folder: Path) -> str:
    (folder / "tokenizer.json").write_bytes(a_tokenizer())
    return str(folder / "tokenizer.json")


def test_classes_are_allowed_by_model(tmp_path: Path, lines_model: str) -> None:
    torch.save({"model": published(), "args": argparse.Namespace(lr=1e-4)}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"would use argparse\.Namespace"):
        converted(tmp_path / "x.pth", tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="do not fit remotesam"):  # read, and found to be another model's
        convert("remotesam", tmp_path / "x.pth", tmp_path / "x.safetensors", tokenizer=_tokenizer_file(tmp_path))


def test_what_another_library_allowed_is_not_allowed_here(tmp_path: Path, lines_model: str) -> None:
    torch.save({"model": published(), "day": datetime.timedelta(1)}, tmp_path / "x.pth")
    with torch.serialization.safe_globals([datetime.timedelta]):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(ModelError, match=r"would use datetime\.timedelta"):
            converted(tmp_path / "x.pth", tmp_path / "x.safetensors")
        assert set(torch.serialization.get_safe_globals()) == before


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (lambda path: torch.save(published(), path) or _cut(path), "the checkpoint is damaged"),  # type: ignore[func-returns-value]
        (lambda path: path.write_bytes(b"<html>log in</html>"), "no checkpoint of torch and no safetensors file"),
        (lambda path: path.write_bytes(b""), "no checkpoint of torch and no safetensors file"),
        (lambda path: path.write_bytes(b"\x80\x02garbage"), "the checkpoint is damaged"),
        (lambda path: torch.save([1, 2], path), "holds a list, not a mapping"),
        (lambda path: torch.save({"epoch": 3, "lr": 0.1}, path), "holds epoch, lr"),
        (lambda path: torch.save({"state_dict": {}}, path), "holds no tensors"),
        (lambda path: torch.save({"model": {**published(), "step": 3}}, path), "holds step"),
        (lambda path: None, "there is no such checkpoint"),
    ],
    ids=["cut short", "a web page", "empty", "garbage", "a list", "no tensors", "nothing", "a number", "missing"],
)
def test_what_is_no_checkpoint_gets_a_sentence_and_nothing_is_written(
    content: Any, what: str, tmp_path: Path, lines_model: str
) -> None:
    content(tmp_path / "x.pth")
    with pytest.raises(ModelError, match=what) as refused:
        converted(tmp_path / "x.pth", tmp_path / "out" / "x.safetensors")
    assert refused.value.fix
    assert "weights_only=False" not in str(refused.value)
    assert left(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"first.bias": None}, "missing first.bias"),
        ({"head.weight": torch.zeros(2)}, "unknown head.weight"),
        ({"second.weight": torch.zeros(1, 5)}, "shapes second.weight (1, 5) for (1, 4)"),
    ],
)
def test_tensors_of_another_model_are_named_and_nothing_is_written(
    change: dict[str, Tensor | None], named: str, tmp_path: Path, lines_model: str
) -> None:
    tensors = {key: tensor for key, tensor in {**published(), **change}.items() if tensor is not None}
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="do not fit lines") as refused:
        converted(tmp_path / "x.pth", tmp_path / "out" / "x.safetensors")
    assert named in str(refused.value)
    assert left(tmp_path / "out") == []


def test_what_is_there_is_not_written_over_unasked(tmp_path: Path, lines_model: str) -> None:
    torch.save(published(), tmp_path / "x.pth")
    converted(tmp_path / "x.pth", tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"mine")
    with pytest.raises(ModelError, match="there is a file already") as refused:
        converted(tmp_path / "x.pth", tmp_path / "x.safetensors")
    assert "--force" in refused.value.fix
    assert (tmp_path / "x.safetensors").read_bytes() == b"mine"
    done = converted(tmp_path / "x.pth", tmp_path / "x.safetensors", force=True)
    assert hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest() == done.sha256


def test_a_model_without_a_published_form_has_nothing_to_convert(tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "x.pth")
    with pytest.raises(ModelError, match="pocket has no published checkpoints"):
        convert("pocket", tmp_path / "x.pth", tmp_path / "x.safetensors")


@pytest.mark.parametrize("text", ["[1]", "{", "gone.json"])
def test_a_configuration_is_a_json_object(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[1]").write_text("[1]")
    with pytest.raises(ModelError, match="the configuration"):
        read_config(text)


def test_a_model_that_reads_text_is_not_converted_without_its_tokenizer(tmp_path: Path, lines_with_words: str) -> None:
    torch.save(published(), tmp_path / "x.pth")
    with pytest.raises(ModelError, match="lines needs its tokenizer") as refused:
        converted(tmp_path / "x.pth", tmp_path / "x.safetensors")
    assert "--tokenizer someone/words" in refused.value.fix
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match="the tokenizer cannot be read"):
        converted(tmp_path / "x.pth", tmp_path / "x.safetensors", tokenizer=str(tmp_path / "words"))
    (tmp_path / "words" / "tokenizer.json").write_bytes(a_tokenizer())
    done = converted(tmp_path / "x.pth", tmp_path / "x.safetensors", tokenizer=str(tmp_path / "words"))
    assert read_weights(done.weights, model="lines").tokenizer is not None


# ── the STAC item ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def item(tmp_path: Path, lines_model: str) -> tuple[dict[str, Any], Converted]:
    torch.save(published(), tmp_path / "x.pth")
    done = converted(tmp_path / "x.pth", tmp_path / "x.safetensors")
    return json.loads(done.item.read_text()), done


def test_the_item_lies_beside_the_weights_and_names_them_by_size_and_digest(
    item: tuple[dict[str, Any], Converted],
) -> None:
    document, done = item
    assert done.item == done.weights.with_suffix(".json")
    asset = document["assets"]["weights"]
    assert (done.item.parent / asset["href"]).samefile(done.weights)
    assert asset["file:size"] == done.weights.stat().st_size
    assert asset["file:checksum"] == "1220" + hashlib.sha256(done.weights.read_bytes()).hexdigest()
    assert asset["roles"] == ["mlm:model", "mlm:weights"]
    assert asset["mlm:artifact_type"]


def test_the_item_has_what_the_extension_requires(item: tuple[dict[str, Any], Converted]) -> None:
    document, done = item
    assert any("/mlm/v1.5" in extension for extension in document["stac_extensions"])
    properties = document["properties"]
    assert properties["mlm:name"] == "lines"
    assert properties["mlm:architecture"]
    assert properties["mlm:tasks"] == ["semantic-segmentation"]
    assert properties["mlm:total_parameters"] == done.parameters == 21
    assert properties["mlm:memory_size"] == 84
    assert [band["name"] for band in document["assets"]["weights"]["bands"]] == ["red", "green", "blue"]
    pixels, sentences = properties["mlm:input"]
    assert (pixels["bands"], pixels["input"]["shape"]) == (["red", "green", "blue"], [-1, 3, 32, 32])
    assert (sentences["bands"], sentences["input"]["dim_order"]) == ([], ["prompt"])
    (logits,) = properties["mlm:output"]
    assert logits["result"] == {
        "shape": [-1, -1, 32, 32], "dim_order": ["batch", "prompt", "height", "width"], "data_type": "float32"
    }  # fmt: skip
    assert properties["license"] == "MIT"
    assert properties["resmap:source"]["sha256"] == dict(done.source_sha256)


def test_pystac_reads_the_item(item: tuple[dict[str, Any], Converted]) -> None:
    read = pystac.Item.from_dict(item[0])
    assert read.id.startswith("lines-")
    assert read.bbox == [-180, -90, 180, 90]
    assert {link.rel: link.href for link in read.links if link.rel == "about"} == {
        "about": "https://huggingface.co/someone/lines"
    }
    model = MLMExtension.ext(read)
    assert (model.mlm_name, model.tasks) == ("lines", [TaskType.SEMANTIC_SEGMENTATION])
    assert [entry.input.data_type for entry in model.input] == ["uint8", "other"]
    assert [entry.result.dim_order for entry in model.output] == [["batch", "prompt", "height", "width"]]


# ── the models themselves, small ────────────────────────────────────────────────────────────────────────────


def as_published(model: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint of this model as its publisher lays it out."""
    if model == "remotesam":
        return {"model": tensors, "optimizer": {}, "epoch": 39, "args": argparse.Namespace(lr=3e-5), "lr_scheduler": {}}
    if model == "rsrefseg":
        return {"module": {f"module.{key}": tensor for key, tensor in tensors.items()}}
    return {"state_dict": tensors}


@pytest.mark.parametrize("model", ["remotesam", "rsrefseg", "rsrefseg2"])
def test_a_published_checkpoint_is_converted_loaded_and_answers(model: str, tmp_path: Path) -> None:
    found = small(model)
    if found is None:
        pytest.skip(f"the reference of {model} lies beside the repository, in ../shared, and is not here")
    tensors, config = found
    torch.save(as_published(model, tensors), tmp_path / "published.pth")
    done = convert(
        model, tmp_path / "published.pth", tmp_path, tokenizer=_tokenizer_file(tmp_path), config=config, revision="r1"
    )
    assert done.weights.name == f"{model}-published.safetensors"
    net = models.load(model, weights=str(done.weights), sha256=done.sha256, device="cpu")
    assert done.sha256 in net.fingerprint
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, net.window_px, net.window_px), np.uint8)
    logits = net.logits(pixels, net.encode_text(["the houses"]))
    assert logits.shape == (1, 1, net.window_px, net.window_px)
    assert logits.std() > 0


def test_a_snapshot_of_the_hub_is_converted_with_its_shards_configuration_and_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "sam3-snapshot"
    folder.mkdir()
    torch.manual_seed(3)
    tensors = {f"detector_model.{key}": tensor for key, tensor in Sam3Model(sizes()).state_dict().items()}
    tensors["tracker_neck.fpn_layers.0.proj1.bias"] = torch.zeros(3)
    names = {key: f"model-{number % 2}.safetensors" for number, key in enumerate(tensors)}
    for file in set(names.values()):
        shard = {key: tensor.contiguous() for key, tensor in tensors.items() if names[key] == file}
        save_file(shard, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / "config.json").write_text(json.dumps({"detector_config": sizes().to_dict()}))
    (folder / "tokenizer.json").write_text(words().backend_tokenizer.to_str())
    done = convert("sam3", folder, tmp_path)
    assert done.weights.name == "sam3.safetensors"
    assert done.tensors == len(tensors)
    net = models.load("sam3", weights=str(done.weights), sha256=done.sha256, device="cpu")
    pixels = np.zeros((1, 3, net.window_px, net.window_px), np.uint8)
    assert net.logits(pixels, net.encode_text(["a house"])).shape == (1, 1, net.window_px, net.window_px)
