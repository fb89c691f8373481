"""The small variants of published models that lie beside the repository, in ``../shared/reference``."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REFERENCE = Path(__file__).parents[4] / "shared" / "reference"


def small(model: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and configuration of a model's small variant; None where there is none here."""
    folder = REFERENCE / model
    if not (folder / "tiny_state_dict.json").is_file():
        return None
    spec = importlib.util.spec_from_file_location("fill", REFERENCE / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    arrays = fill.fill_state_dict(json.loads((folder / "tiny_state_dict.json").read_text()))
    config = json.loads((folder / "tiny_config.json").read_text())
    if model == "remotesam":  # its integers are numbers of places, which the reference does not fill in
        arrays = {key: array for key, array in arrays.items() if array.dtype.kind == "f"}
    return {key: torch.from_numpy(array) for key, array in arrays.items()}, config
