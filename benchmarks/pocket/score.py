"""Score pocket on what it never saw: ``python -m benchmarks.pocket.score`` writes ``results/pocket.json``.

The synthetic world of the demo (seed 7), another part of Dubai, Banepa from a drone, prairie lakes in four years, trees
in California, synonyms taught and never taught, things that are nowhere, and speed. IoU is of all pixels of a set
together, at a score of one half. Beside each stands what answering yes everywhere would score: the best that knowing
the class's share, and nothing of the picture, can do.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import from_bounds

from benchmarks.pocket.labels import BIT, DATA, dubai, prairie, trees
from benchmarks.pocket.thesaurus import CONCEPTS, HELD_BACK, HELD_BACK_NOWHERE, HELD_BACK_TEMPLATES
from benchmarks.record import RESULTS, circumstances
from catalogs.synthetic import CLASSES, World
from mapper.models.pocket import STRIDE_PX, WINDOW_PX, Pocket, load

WORLD_WORDS = {"field": "field", "woods": "woods", "lake": "lake", "road": "road", "building": "building"}
PLACES = (
    (33, 500_000, 5_400_000),
    (33, 460_000, 5_350_000),
    (32, 520_000, 5_800_000),
    (14, 480_000, 4_700_000),
)
DATES = (
    datetime.date(2020, 5, 10),
    datetime.date(2021, 8, 1),
    datetime.date(2022, 10, 15),
    datetime.date(2023, 2, 20),
)


def main() -> None:
    """Score the weights, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "pocket.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = load(asked.weights)
    found: dict[str, object] = {
        "benchmark": "pocket", "made_with": circumstances(), "threads": 1, "fingerprint": model.fingerprint,
        "world seed 7 at 1 m": world_scores(model, 1.0),
        "world seed 7 at 0.5 m": world_scores(model, 0.5),
        "world seed 7 at 2 m": world_scores(model, 2.0),
        "what a synonym costs": word_scores(model),
        "nowhere": nowhere_shares(model),
        "speed": speed(model),
    }  # fmt: skip
    if DATA.exists():
        found |= {
            "dubai tile8": dubai_scores(model, shrink=1),
            "dubai tile8 at half size": dubai_scores(model, shrink=2),
            "banepa at 0.13 m": banepa_scores(model, shrink=1),
            "banepa at 0.26 m": banepa_scores(model, shrink=2),
            "banepa at 0.53 m": banepa_scores(model, shrink=4),
            "north dakota at 5 m": lakes_scores(model),
            "trees at 0.2 m": tree_scores(model),
        }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=1))


def scores(model: Pocket, pixels: NDArray[np.uint8], expressions: Sequence[str]) -> NDArray[np.float32]:
    """Score ``(prompt, y, x)`` of a picture ``(3, y, x)`` of any size, looked at as one window."""
    height, width = pixels.shape[1:]
    padded = np.pad(pixels, ((0, 0), (0, -height % STRIDE_PX), (0, -width % STRIDE_PX)), mode="reflect")
    logits = model.logits(padded[None], model.encode_text(expressions))[0, :, :height, :width]
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def shrunk(pixels: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """A picture ``(3, y, x)`` with ``by`` × ``by`` pixels made one."""
    if by == 1:
        return pixels
    image = Image.fromarray(np.moveaxis(pixels, 0, -1))
    return np.moveaxis(np.array(image.resize((image.width // by, image.height // by), Image.Resampling.BOX)), -1, 0)


class Tally:
    """Pixels of truth, of answer, and of both, added up over pictures."""

    def __init__(self) -> None:
        self.counts: dict[str, NDArray[np.int64]] = {}

    def add(
        self,
        name: str,
        answer: NDArray[np.bool_],
        truth: NDArray[np.bool_],
        known: NDArray[np.bool_] | None = None,
    ) -> None:
        """One mask."""
        known = np.ones(truth.shape, bool) if known is None else known
        answer, truth = answer & known, truth & known
        now = [known.sum(), truth.sum(), (answer & truth).sum(), (answer | truth).sum()]
        self.counts[name] = self.counts.get(name, np.zeros(4, np.int64)) + np.array(now, np.int64)

    def report(self) -> dict[str, dict[str, float]]:
        """IoU of each class; beside it that of yes everywhere, and of yes at random as often as it is so."""
        lines = {}
        for name, (known, truth, both, either) in self.counts.items():
            share = float(truth / max(1, known))
            found = {"iou": float(both / max(1, either)), "all_yes_iou": share, "chance_iou": share / (2 - share)}
            lines[name] = {key: round(value, 4) for key, value in found.items()}
        return lines

    def mean(self) -> float:
        """Mean IoU over the classes."""
        return round(float(np.mean([line["iou"] for line in self.report().values()])), 4)


def world_scenes(resolution_m: float) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Pixels and truth of the demo's world at a few places and dates."""
    found = []
    for (zone, left, top), date in zip(PLACES, DATES, strict=True):
        transform = Affine(resolution_m, 0, left, 0, -resolution_m, top)
        scene = World(7).draw(crs=f"EPSG:326{zone}", transform=transform, shape=(1280, 1280), date=date)
        found.append((scene.pixels, scene.truth))
    return found


def world_scores(model: Pocket, resolution_m: float) -> dict[str, object]:
    """IoU of the synthetic world's classes."""
    tally = Tally()
    for pixels, truth in world_scenes(resolution_m):
        found = scores(model, pixels, list(WORLD_WORDS.values()))
        for name, score in zip(WORLD_WORDS, found, strict=True):
            tally.add(name, score >= 0.5, truth == CLASSES.index(name))
    return {"mean_iou": tally.mean(), **tally.report()}


def word_scores(model: Pocket) -> dict[str, object]:
    """What a synonym costs: IoU of a concept's first phrase less that of another, on the synthetic world.

    ``taught`` are phrases of the thesaurus, ``held back`` words that were never taught, ``templates`` sentences never
    taught around the first phrase.
    """
    scenes = world_scenes(1.0)[:2]
    costs: dict[str, dict[str, float]] = {"taught": {}, "held back": {}, "templates": {}}
    for name in WORLD_WORDS:
        first = CONCEPTS[name][0]
        asked = {
            "taught": CONCEPTS[name][1:],
            "held back": HELD_BACK[name],
            "templates": [template.format(first) for template in HELD_BACK_TEMPLATES],
        }
        tally = Tally()
        phrases = [first, *(phrase for group in asked.values() for phrase in group)]
        for pixels, truth in scenes:
            for phrase, score in zip(phrases, scores(model, pixels, phrases), strict=True):
                tally.add(phrase, score >= 0.5, truth == CLASSES.index(name))
        ious = {phrase: line["iou"] for phrase, line in tally.report().items()}
        for kind, group in asked.items():
            costs[kind] |= {f"{name}: {phrase}": round(ious[first] - ious[phrase], 4) for phrase in group}
    return {
        kind: {
            "phrases": len(found),
            "median cost": round(float(np.median(list(found.values()))), 4),
            "share that cost at most 0.03": round(float(np.mean([cost <= 0.03 for cost in found.values()])), 3),
            "worst": dict(sorted(found.items(), key=lambda pair: -pair[1])[:8]),
        }
        for kind, found in costs.items()
    }


def nowhere_shares(model: Pocket) -> dict[str, float]:
    """Share of the pixels said to be a thing that is nowhere, per thing, worst first."""
    pictures = [pixels[:, :640, :640] for pixels, _ in world_scenes(1.0)[:2]]
    if DATA.exists():
        pictures += [dubai(8)[0].pixels[:, :640, :640], dubai(8)[1].pixels[:, 400:1040, 400:1040]]
    found = np.mean([(scores(model, p, HELD_BACK_NOWHERE) >= 0.5).mean((1, 2)) for p in pictures], axis=0)
    worst = sorted(zip(HELD_BACK_NOWHERE, found.tolist(), strict=True), key=lambda pair: -pair[1])
    return {"things": len(worst), "mean": round(float(found.mean()), 5)} | {
        name: round(share, 5) for name, share in worst[:8]
    }


def dubai_scores(model: Pocket, *, shrink: int) -> dict[str, object]:
    """IoU on the held-back part of Dubai."""
    tally = Tally()
    names = {
        "building": "the buildings",
        "road": "the roads",
        "water": "water",
        "vegetation": "vegetation",
        "land": "bare land",
    }
    for picture in dubai(8):
        found = scores(model, shrunk(picture.pixels, shrink), list(names.values()))
        for name, score in zip(names, found, strict=True):
            answer = _grown(score, picture.yes.shape) >= 0.5
            tally.add(name, answer, (picture.yes & BIT[name]) > 0, (picture.known & BIT[name]) > 0)
    return {"mean_iou": tally.mean(), **tally.report()}


def banepa() -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
    """The drone picture ``(3, y, x)``, tiles joined as the slippy map has them; where houses are; where it is seen."""
    tiles = sorted((DATA / "oam-banepa/train").rglob("OAM-*.tif"))
    places = [tuple(int(part) for part in path.stem.split("-")[1:3]) for path in tiles]
    x0, y0 = min(x for x, _ in places), min(y for _, y in places)
    wide, high = max(x for x, _ in places) - x0 + 1, max(y for _, y in places) - y0 + 1
    pixels, seen = np.zeros((3, 512 * high, 512 * wide), np.uint8), np.zeros((512 * high, 512 * wide), bool)
    for path, (x, y) in zip(tiles, places, strict=True):
        where = np.s_[512 * (y - y0) : 512 * (y - y0 + 1), 512 * (x - x0) : 512 * (x - x0 + 1)]
        pixels[:, where[0], where[1]] = np.moveaxis(np.array(Image.open(path).convert("RGB")), -1, 0)
        seen[where] = True
    half_m, tile_m = 20037508.342789244, 2 * 20037508.342789244 / 2**19
    left, top = -half_m + x0 * tile_m, half_m - y0 * tile_m
    bounds = (left, top - high * tile_m, left + wide * tile_m, top)
    shapes = [gpd.read_file(path) for path in sorted((DATA / "oam-banepa/train/osm").glob("*.geojson"))]
    footprints = [shape for frame in shapes for shape in frame.to_crs(3857).geometry if shape is not None]
    built = rasterize(footprints, out_shape=seen.shape, transform=from_bounds(*bounds, seen.shape[1], seen.shape[0]))
    return pixels, built > 0, seen


def banepa_scores(model: Pocket, *, shrink: int) -> dict[str, object]:
    """IoU of buildings on the drone picture."""
    pixels, truth, seen = banepa()
    tally = Tally()
    small = shrunk(pixels, shrink)
    for word in ("the buildings", "houses", "rooftops"):
        score = _grown(_by_windows(model, small, word), seen.shape)
        tally.add(word, score >= 0.5, truth, seen)
    return {"mean_iou": tally.mean(), **tally.report()}


def lakes_scores(model: Pocket) -> dict[str, object]:
    """IoU of water on prairie lakes in four years, east of what was learned from."""
    tally = Tally()
    for picture in prairie(east=True):
        words = ("water", "lakes", "vegetation")
        for word, score in zip(words, scores(model, picture.pixels, words), strict=True):
            concept = "vegetation" if word == "vegetation" else "water"
            truth, known = (picture.yes & BIT[concept]) > 0, (picture.known & BIT[concept]) > 0
            tally.add(f"{word} {picture.name[-4:]}", score >= 0.5, truth, known)
    return {"mean_iou": tally.mean(), **tally.report()}


def tree_scores(model: Pocket) -> dict[str, object]:
    """IoU of trees with the ellipses in their boxes, in a savanna of California, where all between is ground."""
    tally = Tally()
    for picture in trees("sjer"):
        pixels = shrunk(picture.pixels, 2)
        score = _grown(scores(model, pixels, ["trees"])[0], picture.yes.shape)
        tally.add("trees", score >= 0.5, (picture.yes & BIT["woods"]) > 0)
    return {"mean_iou": tally.mean(), **tally.report()}


def speed(model: Pocket) -> dict[str, float]:
    """Megapixels a second on one thread, median of seven after two to warm up."""
    pixels = np.random.default_rng(0).integers(0, 255, (1, 3, WINDOW_PX, WINDOW_PX), np.uint8)
    found = {}
    for count in (1, 4):
        text, times = model.encode_text(["the buildings"] * count), []
        for _ in range(9):
            began = time.perf_counter()
            model.logits(pixels, text)
            times.append(time.perf_counter() - began)
        found[f"mpx_per_s_{count}_prompts"] = round(WINDOW_PX**2 / 1e6 / float(np.median(times[2:])), 3)
    return found


def _by_windows(model: Pocket, pixels: NDArray[np.uint8], word: str) -> NDArray[np.float32]:
    """Score ``(y, x)`` of a large picture: windows that overlap by 128, the inner part of each kept."""
    height, width = pixels.shape[1:]
    out = np.zeros((height, width), np.float32)
    for top in range(0, height, 896):
        for left in range(0, width, 896):
            t, s = max(0, top - 64), max(0, left - 64)
            window = pixels[:, t : top + 960, s : left + 960]
            part = scores(model, window, [word])[0]
            out[top : top + 896, left : left + 896] = part[top - t :, left - s :][:896, :896]
    return out


def _grown(score: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    resized = Image.fromarray(score).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)


if __name__ == "__main__":
    main()
