"""The weights file: safetensors that carry their configuration and their tokenizer.

One file is one model, ready to load: the tensors under their published names, the tokenizer's ``tokenizer.json`` as a
tensor of bytes, and in the header a JSON text that says which model it is, its configuration and where it came from.
So one sha256 vouches for all of it, and nothing is looked for elsewhere when a worker starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from mapper.errors import ModelError
from mapper.models.fetch import HEADER_KEY, is_pickle, refused_pickle, sha256_of

TOKENIZER_KEY = "tokenizer.json"
"""The tensor, uint8 ``(byte,)``, that holds the tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What a weights file holds."""

    tensors: Mapping[str, Tensor]
    """Under the names of the published checkpoint."""

    config: Mapping[str, Any] | None
    """Sizes of the network; None is the published size."""

    tokenizer: Tokenizer | None
    """From text to token ids; None where the file has none."""

    about: Mapping[str, Any]
    """Where it came from: ``source``, ``revision``, ``licence``, as far as known."""

    sha256: str
    """Of the whole file, hex."""


def read_weights(path: Path, *, model: str) -> Weights:
    """The content of a weights file; nothing in it is executed.

    Raises:
        ModelError: the file is missing, is no safetensors file, or holds another model.
    """
    try:
        if is_pickle(path):
            raise refused_pickle(path, model=model)
        digest = sha256_of(path)
        with safe_open(path, framework="pt") as stored:
            header = json.loads((stored.metadata() or {}).get(HEADER_KEY, "{}"))
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  # not a mapping
    except OSError as error:
        raise ModelError(
            f"the weights cannot be read: {error.strerror or error}", fix="check model.weights", weights=path
        ) from error
    except (SafetensorError, ValueError) as error:
        raise ModelError(
            "the weights are no safetensors file, or are damaged",
            fix=f"convert or fetch them again: resmap models show {model}",
            weights=path,
            reason=str(error)[:200],
        ) from error
    if not isinstance(header, dict) or header.get("model", model) != model:
        other = header.get("model") if isinstance(header, dict) else "nothing known"
        raise ModelError(f"these are weights of {other}, not of {model}", fix="correct model.name", weights=path)
    words = tensors.pop(TOKENIZER_KEY, None)
    return Weights(
        tensors=tensors,
        config=header.get("config"),
        tokenizer=None if words is None else _tokenizer(words, path),
        about=header.get("about", {}),
        sha256=digest,
    )


def write_weights(
    path: Path,
    *,
    model: str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    tokenizer: bytes | None = None,
    about: Mapping[str, Any] | None = None,
) -> str:
    """Write a weights file, whole or not at all; its sha256 comes back.

    The same content gives the same bytes, and so the same digest, wherever and whenever it is written.

    Raises:
        ModelError: it cannot be written; nothing is left behind, and what was there before stays.
    """
    words = {} if tokenizer is None else {TOKENIZER_KEY: torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)}
    header = {"model": model, "config": config, "about": dict(about or {})}
    half = path.with_name(f".{path.name}.{os.getpid()}.half")
    try:
        save_file(
            {**_apart(tensors), **words},
            half,
            metadata={HEADER_KEY: json.dumps(header, sort_keys=True)},
        )
        digest = sha256_of(half)
        half.chmod(0o644)
        half.replace(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the weights file cannot be written: {error}",
            fix="choose a folder with room that can be written",
            file=path,
        ) from error
    finally:
        half.unlink(missing_ok=True)
    return digest


def fit(net: nn.Module, tensors: Mapping[str, Tensor], *, model: str) -> None:
    """Load tensors into a network: every key used, every parameter given, every shape right.

    Raises:
        ModelError: naming the first few keys that are missing, unknown or of another shape.
    """
    check_shapes({key: tensor.shape for key, tensor in net.state_dict().items()}, tensors, model=model)
    net.load_state_dict(dict(tensors), strict=True)


def check_shapes(wanted: Mapping[str, Sequence[int]], tensors: Mapping[str, Tensor], *, model: str) -> None:
    """Nothing, where the tensors are the wanted ones: these keys, no others, of these shapes.

    Raises:
        ModelError: naming the first few keys that are missing, unknown or of another shape.
    """
    missing = [key for key in wanted if key not in tensors]
    unknown = [key for key in tensors if key not in wanted]
    wrong = [
        f"{key} {tuple(tensors[key].shape)} for {tuple(shape)}"
        for key, shape in wanted.items()
        if key in tensors and tuple(tensors[key].shape) != tuple(shape)
    ]
    if missing or unknown or wrong:
        raise ModelError(
            f"these weights do not fit {model}: {len(missing)} keys are missing, {len(unknown)} unknown, "
            f"{len(wrong)} of another shape",
            fix="check that checkpoint, model and configuration belong together",
            missing=_some(missing),
            unknown=_some(unknown),
            shapes=_some(wrong),
        )


def token_ids(tokenizer: Tokenizer, expression: str, *, longest: int) -> list[int]:
    """A sentence as token ids, with the special tokens of its tokenizer, unpadded; at most ``longest`` of them."""
    return list(tokenizer.encode(expression).ids[:longest])


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each in memory of its own: published ones may be tied, or views of larger ones."""
    seen: set[int] = set()
    apart = {}
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage()
        whole = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        apart[key] = tensor if whole else tensor.clone(memory_format=torch.contiguous_format)
    return apart


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _tokenizer(words: Tensor, path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_buffer(words.numpy().tobytes())
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(
            "the tokenizer in the weights file cannot be read", fix="convert the model again", weights=path
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
