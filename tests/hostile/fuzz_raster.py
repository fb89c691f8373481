"""Files nobody thought of: ``python -m tests.hostile.fuzz_raster --runs N --seed S``.

Each run spoils one good file of every codec and kind as its number says, and has it read by a process that may die of
it. It prints how many came to what, and the numbers of those that came to no good; ``--runs 1 --seed NUMBER`` repeats
one of them.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.hostile.children import Child, Said
from tests.hostile.rasters import seeds
from tests.hostile.rasters_announced import tiff
from tests.hostile.rasters_damaged import PICTURES

PATIENCE_S = 60.0

MOST_BYTES = 1024**3
"""Beyond what the process holds at rest; as for the corpus."""

GOOD = ("pixels", "AssetError", "ReadError", "BrokenReadError")

_NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 2**15 - 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63,
            2**64 - 1)  # fmt: skip


def fuzz(runs: int, seed: int) -> tuple[Counter[str], list[str]]:
    """What runs from a number on came to, and a line for each that came to no good."""
    count: Counter[str] = Counter()
    bad = []
    with tempfile.TemporaryDirectory() as folder, Child(patience_s=PATIENCE_S) as child:
        for number in range(seed, seed + runs):
            name, content = spoiled(number)
            path = Path(folder) / f"a{PICTURES.get(name, '.tif')}"
            path.write_bytes(content)
            said = child.ask(
                href=str(path), bands=1 if name == "by-hand" else 3, stretch=(0, 255), coarse=number % 3 == 0,
                placed=name in PICTURES, into=str(Path(folder) / "answer.npz"),
            )  # fmt: skip
            kind = judged(said, child)
            count[kind] += 1
            if kind not in GOOD:
                bad.append(f"{kind}: seed {number}, from {name}, {len(content)} bytes: {said.what}")
                child.close()
    return count, bad


def judged(said: Said, child: Child) -> str:
    """What came of it; ``heavy`` where it took more memory than any file may."""
    heavy = said.kind in GOOD and said.peak_bytes - child.at_rest_bytes > MOST_BYTES
    return "heavy" if heavy else said.kind


def spoiled(number: int) -> tuple[str, bytes]:
    """The good file that a run starts from, by name, and what becomes of it: the same for the same number."""
    chance = random.Random(number)
    files = (*seeds(), ("by-hand", tiff()), ("by-hand", tiff(big=True, order=">")))
    name, content = chance.choice(files)
    out = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        chance.choice(_WAYS)(out, chance)
        if not out:
            break
    return name, bytes(out)


def _place(out: bytearray, chance: random.Random) -> int:
    """Somewhere, and half the time in the first kilobyte, where the headers are."""
    return chance.randrange(min(len(out), chance.choice((64, 1024, len(out), len(out)))))


def _flip(out: bytearray, chance: random.Random) -> None:
    out[_place(out, chance)] ^= 1 << chance.randrange(8)


def _byte(out: bytearray, chance: random.Random) -> None:
    out[_place(out, chance)] = chance.randrange(256)


def _number(out: bytearray, chance: random.Random) -> None:
    size = chance.choice((2, 4, 8))
    order = chance.choice("<>")
    value = chance.choice(_NUMBERS) % 256**size
    at = _place(out, chance) // 2 * 2
    out[at : at + size] = struct.pack(order + {2: "H", 4: "I", 8: "Q"}[size], value)[: max(0, len(out) - at)]


def _entry(out: bytearray, chance: random.Random) -> None:
    """One of the twelve bytes' entries that the first directory of a TIFF at its usual place has."""
    at = 10 + 12 * chance.randrange(20)
    if at + 12 <= len(out):
        field, size = chance.choice(((0, 2), (2, 2), (4, 4), (8, 4)))
        out[at + field : at + field + size] = (chance.choice(_NUMBERS) % 256**size).to_bytes(size, "little")


def _cut(out: bytearray, chance: random.Random) -> None:
    del out[_place(out, chance) :]


def _erase(out: bytearray, chance: random.Random) -> None:
    at = _place(out, chance)
    del out[at : at + chance.choice((1, 2, 4, 16, 500))]


def _repeat(out: bytearray, chance: random.Random) -> None:
    at = _place(out, chance)
    out[at:at] = out[at : at + chance.choice((1, 4, 12, 100))]


def _copy(out: bytearray, chance: random.Random) -> None:
    size, source = chance.choice((2, 4, 12, 64)), _place(out, chance)
    part = bytes(out[source : source + size])
    at = _place(out, chance)
    out[at : at + len(part)] = part[: len(out) - at]


def _noise(out: bytearray, chance: random.Random) -> None:
    at = _place(out, chance)
    size = min(len(out) - at, chance.choice((4, 32, 1000)))
    out[at : at + size] = chance.randbytes(size)


_WAYS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _byte, _number, _number, _entry, _entry, _cut, _erase, _repeat, _copy, _noise,
)  # fmt: skip


def main() -> None:
    """As the module says; ends with status 1 where anything came to no good."""
    words = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz_raster")
    words.add_argument("--runs", type=int, default=1000)
    words.add_argument("--seed", type=int, default=0)
    asked = words.parse_args()
    count, bad = fuzz(asked.runs, asked.seed)
    print(f"{asked.runs} runs from seed {asked.seed}: " + ", ".join(f"{kind} {n}" for kind, n in sorted(count.items())))
    print(*bad, sep="\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
