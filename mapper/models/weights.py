"""The weights file: safetensors that carry their configuration and their tokenizer.

One file is one model, ready to load: the tensors under their published names, the tokenizer's ``tokenizer.json`` as a
tensor of bytes, and in the header a JSON text that says which model it is, its configuration and where it came from.
So one sha256 vouches for all of it, and nothing is looked for elsewhere when a worker starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from mapper.errors import ModelError

TOKENIZER_KEY = "tokenizer.json"
"""The tensor, uint8 ``(byte,)``, that holds the tokenizer."""

HEADER_KEY = "resmap"
"""The entry of the header that holds the JSON text."""


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
        with path.open("rb") as file:
            if file.read(2) in (b"PK", b"\x80\x02"):
                raise ModelError(
                    "these weights are a pickle, which could run code: it was not opened",
                    fix=f"make a safe file of it once: resmap models convert {model} {path} --out FILE",
                    weights=path,
                )
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
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
    if header.get("model", model) != model:
        raise ModelError(
            f"these are weights of {header['model']}, not of {model}", fix="correct model.name", weights=path
        )
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
    """Write a weights file, whole or not at all; its sha256 comes back."""
    words = {} if tokenizer is None else {TOKENIZER_KEY: torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)}
    header = {"model": model, "config": config, "about": dict(about or {})}
    half = path.with_name(f".{path.name}.half")
    save_file(
        {key: tensor.contiguous() for key, tensor in {**tensors, **words}.items()},
        half,
        metadata={HEADER_KEY: json.dumps(header, sort_keys=True)},
    )
    with half.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    half.chmod(0o644)
    half.rename(path)
    return digest


def fit(net: nn.Module, tensors: Mapping[str, Tensor], *, model: str) -> None:
    """Load tensors into a network: every key used, every parameter given, every shape right.

    Raises:
        ModelError: naming the first few keys that are missing, unknown or of another shape.
    """
    wanted = net.state_dict()
    missing = [key for key in wanted if key not in tensors]
    unknown = [key for key in tensors if key not in wanted]
    wrong = [
        f"{key} {tuple(tensors[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted
        if key in tensors and tensors[key].shape != wanted[key].shape
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
    net.load_state_dict(dict(tensors), strict=True)


def token_ids(tokenizer: Tokenizer, expression: str, *, longest: int) -> list[int]:
    """A sentence as token ids, with the special tokens of its tokenizer, unpadded; at most ``longest`` of them."""
    return list(tokenizer.encode(expression).ids[:longest])


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
