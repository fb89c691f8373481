"""Pictures of the synthetic world for training, drawn once and kept. Seed 7, the demo's, is never drawn."""

from __future__ import annotations

import datetime
import math
import random
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from scipy.ndimage import uniform_filter

from benchmarks.pocket.labels import SYNTHETIC, Bits, Picture, bits, truth_of_classes
from catalogs.synthetic import CLASSES, World, random_places

DEMO_SEED = 7
COUNT = 450
SIDE_PX = 512


def worlds(cache: Path, *, seed: int, count: int = COUNT) -> list[Picture]:
    """``count`` pictures; drawn into ``cache`` where they are not there yet (about 0.4 s each)."""
    cache.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        path = cache / f"{seed}-{number:04}.npy"
        if not path.exists():
            _keep(path, *_drawn(random.Random(f"{seed}/{number}")))
        layers = np.load(path, mmap_mode="r")
        yes, known = truth_of(np.asarray(layers[:3]), np.asarray(layers[3]))
        found.append(Picture(name=f"world/{number}", pixels=layers[:3], yes=yes, known=known, synthetic=True))
    return found


def truth_of(pixels: NDArray[np.uint8], index: NDArray[np.uint8]) -> tuple[Bits, Bits]:
    """Concepts of a drawn scene. Its land is meadow where green and bare where brown; between, unknown."""
    yes, known = truth_of_classes(index, {name: SYNTHETIC[name] for name in CLASSES})
    red, green, blue = (uniform_filter(band.astype(np.float32), 7) for band in pixels)
    land = index == CLASSES.index("land")
    meadow, bare = land & (green > 1.06 * red) & (green > 1.1 * blue), land & (red > 1.04 * green)
    yes[meadow] |= bits(["grass", "vegetation"])
    yes[bare] |= bits(["land"])
    known[meadow | bare] |= bits(["grass", "vegetation", "land"])
    return yes, known


def _drawn(rng: random.Random) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A place, date and resolution by chance; places with houses, roads or water are kept more often."""
    while True:
        seed = rng.randrange(1000, 100_000)
        ((lon, lat),) = random_places(1, seed=seed)
        zone = math.floor((lon + 180) / 6) + 1
        crs = f"EPSG:{32600 + zone if lat >= 0 else 32700 + zone}"
        left, top = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
        left, top = left + rng.uniform(-3000, 3000), top + rng.uniform(-3000, 3000)
        if rng.random() < 0.5:
            resolution = rng.uniform(0.8, 1.3)
        else:
            resolution = math.exp(rng.uniform(math.log(0.3), math.log(3.0)))
        date = datetime.date(rng.randint(2016, 2026), 1, 1) + datetime.timedelta(days=rng.randrange(365))
        world = World(seed)
        coarse = Affine(8 * resolution, 0, left, 0, -8 * resolution, top)
        glance = world.draw(crs=crs, transform=coarse, shape=(SIDE_PX // 8, SIDE_PX // 8), date=date)
        rare = np.isin(glance.truth, [CLASSES.index(name) for name in ("building", "road", "lake", "woods")]).mean()
        houses = (glance.truth == CLASSES.index("building")).mean()
        if rng.random() < 0.08 + min(0.4, rare) + (0.6 if houses > 0.008 else 0):
            fine = Affine(resolution, 0, left, 0, -resolution, top)
            scene = world.draw(crs=crs, transform=fine, shape=(SIDE_PX, SIDE_PX), date=date)
            return scene.pixels, scene.truth


def _keep(path: Path, pixels: NDArray[np.uint8], index: NDArray[np.uint8]) -> None:
    written = path.with_suffix(".part")
    with written.open("wb") as file:
        np.save(file, np.concatenate([pixels, index[None]]))
    written.rename(path)
