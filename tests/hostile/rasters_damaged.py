"""Files that were whole once: cut short, or with other bytes in them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.hostile.rasters import COG, Case, flipped, geotiff, seeds

PICTURES = {"jp2": ".jp2", "jpg": ".jpg", "png": ".png"}
"""Seeds that are no TIFF, and the names of their files; two of them do not know where they are."""


def damaged() -> Iterator[Case]:
    """What must come of them: cut short they are never read as if they were whole; of a flipped byte most formats know
    nothing, so that whatever comes is an error of ours or pixels."""
    cog = geotiff(**COG)
    for number in range(64):
        yield Case(name=f"cut-at-{number}-of-64", content=cog[: len(cog) * number // 64], must="honest")
    chance = random.Random(5)
    for name, content in seeds():
        placed, suffix = name in ("jpg", "png"), PICTURES.get(name, ".tif")
        # The blocks of a JPEG cannot show that they were cut, nor can those of a TIFF that are cut at their own end.
        lossy = name in ("jpeg", "jpg")
        for part in range(1, 8):
            cut = content[: len(content) * part // 8]
            yield Case(name=f"cut-{name}-{part}", content=cut, must="refused" if lossy else "honest",
                       placed=placed, suffix=suffix)  # fmt: skip
        end = len(content)
        regions = {"magic": range(8), "header": range(min(600, end)), "blocks": range(end // 3, end)}
        for region, places in regions.items():
            for number in range(4 if region != "magic" else 2):
                spoiled = flipped(content, places, chance, times=1 + number % 2)
                yield Case(name=f"flip-{name}-{region}-{number}", content=spoiled, must="any",
                           placed=placed, suffix=suffix)  # fmt: skip
    for name, content in seeds():
        middle = len(content) // 2
        for fill in (b"\0", b"\xff"):
            spoiled = content[:middle] + fill * (len(content) - middle)
            yield Case(name=f"half-{fill.hex()}-{name}", content=spoiled, must="any",
                       placed=name in ("jpg", "png"), suffix=PICTURES.get(name, ".tif"))  # fmt: skip
