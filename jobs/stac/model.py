"""The model a mosaic was made with, as a STAC item beside the mosaic's collection."""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jobs.mapped import Known
from jobs.stac.provenance import clean
from mapper import models
from mapper.errors import ModelError
from mapper.models.fetch import header_of, kept_weights, sha256_of, shown
from mapper.models.mlm import Description, model_item
from mapper.storage import is_local

_LARGEST_HEADER_BYTES = 100 * 2**20
"""As the format has it."""


_BUFFERS = ("running_mean", "running_var")
"""Of batch normalisation: kept with the weights, and no parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFound:
    """A model's item, and its weights."""

    document: dict[str, Any]
    """STAC; ``assets.weights.href`` is a file beside it where ``goes_along``, else where the weights are."""

    weights: Path
    goes_along: bool
    """Whether the weights are to be copied beside the item: they come with resmap, and have no address."""


def model_of(known: Known) -> ModelFound | str:
    """The item of the very weights that a mosaic was made with; a sentence where there is none."""
    name = str(known.mosaic.made_by.get("model", ""))
    # A fingerprint begins with the digest of the weights.
    digest = str(known.facts.get("fingerprint", "")).partition("/")[0]
    if not re.fullmatch("[0-9a-f]{64}", digest):
        return "no run says which weights were used, so the catalog has no item of the model"
    asked = (known.job.get("model") or {}).get("weights")
    path = _weights(name, asked, digest)
    if path is None:
        return f"the weights of {name} are not on this machine, so the catalog has no item of the model"
    try:
        card, window_px = models.card(name), models.window_px(name)
    except ModelError as error:
        return f"the catalog has no item of the model: {error.what}"
    parameters, buffers = _sizes(path)
    document = model_item(
        Description(
            card=card,
            window_px=window_px,
            file=path.name,
            size_bytes=path.stat().st_size,
            sha256=digest,
            parameters=parameters,
            memory_bytes=4 * (parameters + buffers),
            about=clean((header_of(path) or {}).get("about") or {}),
        )
    )
    ships = asked is None
    if not ships:
        document["assets"]["weights"]["href"] = shown(str(asked)) if not is_local(str(asked)) else str(path.resolve())
    return ModelFound(document=document, weights=path, goes_along=ships)


def _weights(name: str, asked: object, digest: str) -> Path | None:
    """The file on this machine that has the digest."""
    if asked is None:
        known = [Path(str(files("mapper.models") / "weights" / f"{name}.safetensors"))]
    elif is_local(str(asked)):
        known = [Path(str(asked).removeprefix("file://")).expanduser()]
    else:
        known = [kept.path for kept in kept_weights()]
    return next((path for path in known if path.is_file() and sha256_of(path) == digest), None)


def _sizes(path: Path) -> tuple[int, int]:
    """How many parameters a safetensors file holds, and how many values of other kinds that a network keeps."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        described = json.loads(file.read(min(size, _LARGEST_HEADER_BYTES)))
    counts = {True: 0, False: 0}
    for key, tensor in described.items():
        if key != "__metadata__" and tensor["dtype"] in ("F64", "F32", "F16", "BF16"):
            counts[key.endswith(_BUFFERS)] += math.prod(tensor["shape"])
    return counts[False], counts[True]
