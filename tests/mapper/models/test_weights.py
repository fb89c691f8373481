"""The weights file: what is written is what is read, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn

from mapper.errors import ModelError
from mapper.models.fetch import header_of
from mapper.models.weights import fit, read_weights, token_ids, write_weights


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


TENSORS = {
    "half": torch.tensor([1.0, float("nan"), -0.0], dtype=torch.float16),
    "brain": torch.tensor([[3.14159, 1e-40], [float("inf"), 65504.0]], dtype=torch.bfloat16),
    "single": torch.tensor([[1e-45, 2.5]]).T,
    "count": torch.tensor(7),
    "places": torch.arange(6).reshape(2, 3),
}


def a_tokenizer() -> bytes:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "the": 1, "houses": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(2)
    return str(tokenizer.to_str()).encode()


def test_what_is_written_is_read_back_to_the_bit(tmp_path: Path) -> None:
    about = {"source": "someone/lines", "revision": None}
    sha256 = write_weights(tmp_path / "w.safetensors", model="lines", tensors=TENSORS, config={"width": 4}, about=about)
    read = read_weights(tmp_path / "w.safetensors", model="lines")
    assert {key: (value.dtype, tuple(value.shape), bits(value)) for key, value in read.tensors.items()} == {
        key: (value.dtype, tuple(value.shape), bits(value)) for key, value in TENSORS.items()
    }
    assert (read.config, read.about, read.tokenizer) == ({"width": 4}, about, None)
    assert read.sha256 == sha256 == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_weights(tmp_path / "a.safetensors", model="lines", tensors=TENSORS, tokenizer=a_tokenizer())
    again = write_weights(
        tmp_path / "b.safetensors", model="lines", tensors=dict(reversed(TENSORS.items())), tokenizer=a_tokenizer()
    )
    assert first == again


def test_tied_tensors_and_views_of_larger_ones_are_written_each_in_full(tmp_path: Path) -> None:
    table = torch.randn(8, 4)
    tensors = {"table": table, "tied": table, "rows": table[2:4], "across": table.T, "none": torch.zeros(0)}
    write_weights(tmp_path / "w.safetensors", model="lines", tensors=tensors)
    read = read_weights(tmp_path / "w.safetensors", model="lines").tensors
    assert all(torch.equal(read[key], tensor) for key, tensor in tensors.items())


def test_the_tokenizer_comes_back_without_padding_and_truncation(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors", model="lines", tensors=TENSORS, tokenizer=a_tokenizer())
    tokenizer = read_weights(tmp_path / "w.safetensors", model="lines").tokenizer
    assert tokenizer is not None
    assert token_ids(tokenizer, "the houses the houses", longest=3) == [1, 2, 1]


def test_the_header_tells_the_model_without_reading_a_tensor(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors", model="lines", tensors=TENSORS)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "w.safetensors").read_bytes()[:-1])
    assert (header_of(cut) or {})["model"] == "lines"


def test_a_full_disk_leaves_no_half_file_and_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"before")
    code = f"""
import resource, signal
from pathlib import Path
import torch
from mapper.errors import ModelError
from mapper.models.weights import write_weights
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_weights(Path({str(tmp_path / "w.safetensors")!r}), model="lines", tensors={{"a": torch.zeros(100_000)}})
except ModelError as error:
    print(error.what, "|", error.fix)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("the weights file cannot be written: ")
    assert "room" in done.stdout.partition("|")[2]
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    assert (tmp_path / "w.safetensors").read_bytes() == b"before"


def padded(header_bytes: int) -> bytes:
    """A safetensors file whose header has exactly so many bytes."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return header_bytes.to_bytes(8, "little") + header.ljust(header_bytes) + b"\0\0\0\0"


@pytest.mark.parametrize("header_bytes", [int.from_bytes(b"PK", "little"), int.from_bytes(b"\x80\x02", "little")])
def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path: Path, header_bytes: int) -> None:
    (tmp_path / "w.safetensors").write_bytes(padded(header_bytes))
    assert read_weights(tmp_path / "w.safetensors", model="lines").tensors["a"] == 0


@pytest.mark.parametrize("zipped", [True, False], ids=["zipped", "bare"])
def test_a_pickle_is_refused_with_the_command_that_makes_it_safe(tmp_path: Path, zipped: bool) -> None:
    torch.save(TENSORS, tmp_path / "w.safetensors", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="pickle, which could run code") as refused:
        read_weights(tmp_path / "w.safetensors", model="sam3")
    assert "resmap models convert sam3" in refused.value.fix


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "no safetensors file"),
        (b"<html>not found</html>", "no safetensors file"),
        ((2**62).to_bytes(8, "little") + b"{}", "no safetensors file"),
        (padded(200)[:-1], "no safetensors file"),
        (None, "cannot be read: No such file"),
    ],
    ids=["empty", "a web page", "a header without end", "cut short", "missing"],
)
def test_what_is_no_weights_file_gets_a_sentence(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=what) as refused:
        read_weights(path, model="lines")
    assert refused.value.where["weights"] == path
    assert refused.value.fix


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors", model="sam3", tensors=TENSORS)
    with pytest.raises(ModelError, match="weights of sam3, not of rsrefseg"):
        read_weights(tmp_path / "w.safetensors", model="rsrefseg")


@pytest.mark.parametrize(
    ("change", "place", "named"),
    [
        ({"bias": None}, "missing", "bias"),
        ({"scale": torch.zeros(2)}, "unknown", "scale"),
        ({"weight": torch.zeros(2, 5)}, "shapes", "weight (2, 5) for (2, 3)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, Tensor | None], place: str, named: str) -> None:
    net = nn.Linear(3, 2)
    changed = {**net.state_dict(), **change}
    with pytest.raises(ModelError, match="do not fit lines") as refused:
        fit(net, {key: value for key, value in changed.items() if value is not None}, model="lines")
    assert refused.value.where[place] == named
