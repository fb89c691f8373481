"""A weights file described as a STAC item, by the Machine Learning Model extension.

The item says what goes in, what comes out and which file it is, so that a STAC catalog can hold models beside maps,
and a map can name the model it is derived from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from mapper.models.card import Card

EXTENSIONS = (
    "https://stac-extensions.github.io/mlm/v1.5.1/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
)

SHA256_MULTIHASH = "1220"
"""Begins a multihash of kind sha256 and 32 bytes."""

BANDS = ("red", "green", "blue")
TASK = "semantic-segmentation"
"""The nearest the extension knows: it has no word for segmentation by a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What there is to say of a weights file."""

    card: Card
    window_px: int
    file: str
    """Its name; the item lies beside it."""

    size_bytes: int
    sha256: str
    parameters: int
    memory_bytes: int
    """Of the network in float32."""

    about: Mapping[str, Any]
    """Where it came from, as the file itself says."""


def model_item(described: Description) -> dict[str, Any]:
    """The STAC item of a weights file: a model is from everywhere and of no time, as the extension has it."""
    card, size = described.card, described.window_px
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(EXTENSIONS),
        "id": f"{card.name}-{described.sha256[:12]}",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]],
        },
        "bbox": [-180, -90, 180, 90],
        "properties": {
            "title": card.title,
            "description": " ".join(part for part in (card.title + ".", card.terms, card.prompts) if part),
            "license": "other" if card.licence == "not stated" else card.licence,
            "datetime": None,
            "start_datetime": "1900-01-01T00:00:00Z",
            "end_datetime": "9999-12-31T23:59:59Z",
            "mlm:name": card.name,
            "mlm:architecture": card.title.partition(":")[0],
            "mlm:tasks": [TASK],
            "mlm:framework": "PyTorch",
            "mlm:framework_version": version("torch").partition("+")[0],
            "mlm:total_parameters": described.parameters,
            "mlm:memory_size": described.memory_bytes,
            "mlm:pretrained": True,
            "mlm:accelerator": "cuda",
            "mlm:accelerator_constrained": False,
            "mlm:hyperparameters": {
                "prompts": card.prompts or "a sentence",
                "threshold": 0.5,
                "window_px": size,
            },
            "mlm:input": [
                {
                    "name": "pixels",
                    "description": "0 to 255; the model scales them to what it was trained with",
                    "bands": list(BANDS),
                    "input": {
                        "shape": [-1, len(BANDS), size, size],
                        "dim_order": ["batch", "channel", "height", "width"],
                        "data_type": "uint8",
                    },
                    "value_scaling": None,
                    "resize_type": None,
                    "pre_processing_function": None,
                },
                {
                    "name": "expressions",
                    "description": "a sentence for each thing to look for",
                    "bands": [],
                    "input": {"shape": [-1], "dim_order": ["prompt"], "data_type": "other"},
                },
            ],
            "mlm:output": [
                {
                    "name": "logits",
                    "description": "evidence for each sentence at each pixel; its sigmoid is the score",
                    "tasks": [TASK],
                    "bands": [],
                    "result": {
                        "shape": [-1, -1, size, size],
                        "dim_order": ["batch", "prompt", "height", "width"],
                        "data_type": "float32",
                    },
                    "post_processing_function": {"format": "python", "expression": "1 / (1 + numpy.exp(-logits))"},
                }
            ],
            "resmap:source": dict(described.about),
        },
        "links": [
            {"rel": "about", "href": href, "title": title}
            for href, title in ((card.url, "where it is published"), (_paper_url(card), "the paper"))
            if href
        ],
        "assets": {
            "weights": {
                "href": f"./{described.file}",
                "bands": [{"name": band, "eo:common_name": band} for band in BANDS],
                "title": "The weights, with their tokenizer and configuration",
                "type": "application/octet-stream; application=safetensors",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": "safetensors.torch.save_file",
                "file:size": described.size_bytes,
                "file:checksum": SHA256_MULTIHASH + described.sha256,
            }
        },
    }


def _paper_url(card: Card) -> str:
    """An address as it is; a number of arXiv as its page."""
    if card.paper.lower().startswith("arxiv"):
        return f"https://arxiv.org/abs/{card.paper[5:].strip(' :')}"
    return card.paper if "://" in card.paper else ""
