"""``resmap try``: one picture, one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from mapper import models
from mapper.errors import AssetError, SpecError
from mapper.map_tile import ModelChoice
from mapper.picture import segment
from mapper.quicklook import overlay
from mapper.raster import DRIVERS, GDAL_OPTIONS

LARGEST_PX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of it."""

    overlay: str
    share: float
    """Of the picture that is present, 0 to 1."""

    highest: float
    """Score."""


def try_sentence(image: Path, sentence: str, *, model: ModelChoice, out: Path | None, threshold: float) -> Trial:
    """Segment a picture and write the overlay.

    Raises:
        AssetError: the picture cannot be read, or is none of 8 bits.
        SpecError: the sentence is empty, or the overlay cannot be written.
        ModelError: no such model, or its weights are missing or not what they should be.
    """
    models.window_px(model.name)  # a wrong name is said before a large picture is read
    pixels = _read(image)
    score = segment(pixels, [sentence], model=model.load())[0]
    mask = (score >= threshold).astype(np.uint8)
    target = out or image.with_name(f"{image.stem}-overlay.png")
    from PIL import Image

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(overlay(pixels.transpose(2, 0, 1), {sentence: mask})).save(target)
    except (OSError, ValueError) as error:
        raise SpecError(
            f"the overlay cannot be written: {error}", fix="choose another --out, ending in .png", out=target
        ) from error
    return Trial(overlay=str(target), share=float(mask.mean()), highest=float(score.max()))


def _read(image: Path) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """uint8 ``(y, x, rgb)``; one band is shown grey, an alpha band is left out."""
    import warnings

    if not image.is_file():
        raise AssetError("there is no such picture", fix="check the path", image=image)
    last: Exception | None = None
    for driver in DRIVERS:
        try:
            with warnings.catch_warnings(), rasterio.Env(**GDAL_OPTIONS):
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(image, driver=driver) as dataset:
                    if dataset.width * dataset.height > LARGEST_PX:
                        raise AssetError(
                            "the picture has more than 64 megapixels",
                            fix="map it with a job: `resmap run`",
                            image=image,
                        )
                    if dataset.dtypes[0] != "uint8":
                        raise AssetError(
                            f"the picture holds {dataset.dtypes[0]}, not 0 to 255",
                            fix="convert it to 8 bits",
                            image=image,
                        )
                    bands = dataset.read([1, 2, 3] if dataset.count >= 3 else [1, 1, 1])
            return np.ascontiguousarray(bands.transpose(1, 2, 0))
        except RasterioError as error:
            last = error
    raise AssetError(f"the picture cannot be read: {last}", fix=f"use one of {', '.join(DRIVERS)}", image=image)
