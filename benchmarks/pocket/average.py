"""The mean of two trainings that share their beginning: ``python -m benchmarks.pocket.average ONE OTHER --out FOLDER``.

What one gains on some pictures another loses on others; their mean keeps most of both (M. Wortsman et al., "Model
soups", 2022).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file


def main() -> None:
    """Write the mean of two weight files, and what is known of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    one, other = load_file(asked.one), load_file(asked.other)
    mean = {
        key: ((value.float() + other[key].float()) / 2).to(value.dtype) if value.is_floating_point() else value
        for key, value in one.items()
    }
    facts: list[dict[str, Any]] = [
        json.loads(path.with_suffix(".json").read_text()) for path in (asked.one, asked.other)
    ]
    asked.out.mkdir(parents=True, exist_ok=True)
    target = asked.out / "pocket.safetensors"
    save_file(mean, target)
    about = {
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "bytes": target.stat().st_size,
        "parameters": facts[0]["parameters"],
        "mean_of": [fact["sha256"] for fact in facts],
        "steps": sum(fact["steps"] for fact in facts),
        "cpu_hours": round(sum(fact["cpu_hours"] for fact in facts), 3),
        "trained": facts[1]["trained"],
        "torch": facts[1]["torch"],
    }
    target.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
