"""What the tests of RSRefSeg and RSRefSeg 2 share: reference weights and answers, a tokenizer, real pictures."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor

SHARED = Path(__file__).parents[4] / "shared"
DUBAI = SHARED / "data" / "dubai" / "tile8" / "images" / "image_part_001.jpg"

EXPRESSIONS = ("the large baseball field on the left", "roads", "buildings next to the water", "a gray vehicle")

_WORDS = (
    "<pad> </s> <unk> the large small baseball field building buildings on in left right of upper lower road roads "
    "water tree vehicle gray white airplane ship a next to is The"
)


def reference(model: str, name: str) -> Path:
    """A file of a model's reference; the test is skipped where it is not."""
    file = SHARED / "reference" / model / name
    if not file.exists():
        pytest.skip("the reference outputs lie beside the repository, in ../shared, and are not here")
    return file


def manifest(model: str, name: str = "state_dict.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reference(model, name).read_text())
    return found


def filled(entries: Mapping[str, Any]) -> dict[str, Tensor]:
    """The reference's weights: a function of name and shape."""
    spec = importlib.util.spec_from_file_location("reference_fill", SHARED / "reference" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    return {key: torch.from_numpy(fill.fill_array(key, one["shape"], one["dtype"])) for key, one in entries.items()}


def arrays(model: str, case: str) -> dict[str, NDArray[Any]]:
    with np.load(reference(model, f"{case}.npz")) as stored:
        return dict(stored)


def inputs(case: Mapping[str, NDArray[Any]]) -> tuple[Tensor, Tensor]:
    """Pixels 0–1 and token ids of a reference case."""
    return torch.from_numpy(case["in_image_u8"]).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(
        case["in_input_ids"]
    )


def word_tokenizer(*, ends: bool = True) -> Tokenizer:
    """Fewer than 64 words; ``</s>`` is 1, and put last unless ``ends`` is False."""
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(_WORDS.split())}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    if ends:
        tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def crops(side: int, count: int) -> NDArray[np.uint8]:
    """Parts of a real picture, ``(n, 3, side, side)``; the test is skipped where it is not."""
    if not DUBAI.exists():
        pytest.skip("the labelled pictures lie beside the repository, in ../shared/data, and are not here")
    picture = np.moveaxis(np.array(Image.open(DUBAI).convert("RGB")), -1, 0)
    corners = np.random.default_rng(0).integers(0, np.array(picture.shape[1:]) - side, (count, 2))
    return np.stack([picture[:, y : y + side, x : x + side] for y, x in corners])


def iou(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Of two masks, from their logits."""
    a, b = one > 0, other > 0
    return float((a & b).sum() / (a | b).sum())


def steps_through(net: torch.nn.Module) -> list[str]:
    """A list that grows by a name whenever one of the network's towers runs."""
    ran: list[str] = []
    for name in ("vision", "sam", "text_tower"):
        net.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    return ran
