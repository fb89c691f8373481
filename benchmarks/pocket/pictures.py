"""What pocket gets right and wrong on places it never saw, as pictures: ``python -m benchmarks.pocket.pictures``.

Over each picture: green is found, red is said and is not so, blue is so and was missed. Beside it the curve of the
training, from ``results/pocket_curve.json``. Written to ``docs/pictures``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.pocket.labels import BIT, DATA, Picture, dubai, prairie
from benchmarks.pocket.score import banepa, scores, shrunk
from benchmarks.pocket.train import PHASES
from benchmarks.record import RESULTS
from mapper.models.pocket import Pocket, load

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
SIDE_PX = 420
FOUND, SAID, MISSED = (40, 200, 90), (235, 60, 50), (60, 110, 255)


def main() -> None:
    """Draw one sheet: a row a place, a column a sentence; and the curve."""
    losses = json.loads((RESULTS / "pocket_curve.json").read_text())
    curve({int(step): loss for step, loss in losses.items()}).save(PICTURES / "pocket-curve.png", optimize=True)
    model = load()
    rows = [np.concatenate(list(row), axis=1) for row in sheet(model)]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    PICTURES.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(padded)).save(PICTURES / "pocket.jpg", quality=82, optimize=True)


def curve(losses: Mapping[int, float]) -> Image.Image:
    """The loss over the steps, a line where a phase ends."""
    width, height, edge = 900, 320, 46
    last, low, high = max(losses), 0.8, 2.6
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)

    def at(step: float, loss: float) -> tuple[float, float]:
        across, up = step / last, (min(loss, high) - low) / (high - low)
        return edge + across * (width - 2 * edge), height - edge - up * (height - 2 * edge)

    for loss in (0.8, 1.0, 1.5, 2.0, 2.5):
        draw.line([at(0, loss), at(last, loss)], fill=(225, 225, 225))
        draw.text((8, at(0, loss)[1] - 8), f"{loss:.1f}", fill="black", font_size=14)
    for step in range(0, last + 1, 1000):
        draw.text((at(step, low)[0] - 14, height - edge + 8), f"{step}", fill="black", font_size=14)
    done = 0
    for phase in PHASES[:-1]:
        done += phase.steps
        draw.line([at(done, low), at(done, high)], fill=(160, 160, 160), width=2)
    points = [at(step, loss) for step, loss in sorted(losses.items())]
    for one, other in pairwise(points):
        draw.line([one, other], fill=(30, 90, 200), width=2)
    draw.text((edge, 8), "loss, mean of 50 steps, over the steps", fill="black", font_size=16)
    return image


def sheet(model: Pocket) -> Iterator[Iterator[NDArray[np.uint8]]]:
    """Rows of panels ``(y, x, rgb)``."""
    whole, cut = dubai(8)[0], np.s_[280:700, 640:1060]  # a golf course, towers, villas
    town = Picture(name="dubai8", pixels=whole.pixels[:, *cut], yes=whole.yes[cut], known=whole.known[cut])
    yield _row(
        model, town, 1, ("buildings", "roads", "vegetation", "bare land"), ("building", "road", "vegetation", "land")
    )
    pixels, truth, seen = banepa()
    drone = Picture(
        name="banepa",
        pixels=pixels[:, 512:2192, 512:2192],
        yes=np.where(truth, BIT["building"], 0).astype(np.uint16)[512:2192, 512:2192],
        known=np.where(seen, BIT["building"], 0).astype(np.uint16)[512:2192, 512:2192],
    )
    yield _row(model, drone, 4, ("buildings", "houses", "rooftops"), ("building",) * 3)
    lakes = prairie(east=True)
    yield (panel for year in (0, 1, 3) for panel in _row(model, lakes[year], 1, ("water",), ("water",)))


def _row(
    model: Pocket, picture: Picture, shrink: int, words: tuple[str, ...], concepts: tuple[str, ...]
) -> Iterator[NDArray[np.uint8]]:
    pixels = shrunk(picture.pixels, shrink)[:, :SIDE_PX, :SIDE_PX]
    cut = np.s_[: SIDE_PX * shrink : shrink, : SIDE_PX * shrink : shrink]
    for word, concept, score in zip(words, concepts, scores(model, pixels, list(words)), strict=True):
        truth, known = picture.yes[cut] & BIT[concept] > 0, picture.known[cut] & BIT[concept] > 0
        said = (score >= 0.5)[: truth.shape[0], : truth.shape[1]]
        yield _panel(pixels, said, truth, known, word)


def _panel(
    pixels: NDArray[np.uint8], said: NDArray[np.bool_], truth: NDArray[np.bool_], known: NDArray[np.bool_], word: str
) -> NDArray[np.uint8]:
    shade = np.moveaxis(pixels[:, : said.shape[0], : said.shape[1]], 0, -1).astype(np.float32)
    for where, colour in ((said & truth, FOUND), (said & ~truth, SAID), (~said & truth, MISSED)):
        shade[where & known] = 0.45 * shade[where & known] + 0.55 * np.array(colour, np.float32)
    image = Image.fromarray(shade.astype(np.uint8))
    canvas = Image.new("RGB", (SIDE_PX + 8, SIDE_PX), "white")
    canvas.paste(image, (0, 0))
    ImageDraw.Draw(canvas).text((6, 6), word, fill="white", stroke_width=2, stroke_fill="black", font_size=22)
    return np.asarray(canvas)


if __name__ == "__main__":
    if not DATA.exists():
        raise SystemExit("these pictures are drawn from ../shared/data, which is not there")
    main()
