"""Train pocket on one CPU core: ``python -m benchmarks.pocket.train``.

The steps, the seed and the number of threads decide what comes out, not the clock. Goes on from ``checkpoint.pt`` in
the work folder if there is one; ``--start WEIGHTS`` begins a new training from weights that exist (the shipped ones,
say). Pictures come first, sentences alone after (``sentences.py``). Writes ``pocket.safetensors`` and ``pocket.json``
there every few minutes, and the curve of the loss to ``curve.json``; copy the first two to ``mapper/models/weights``
to ship them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from benchmarks.pocket.chips import SENTENCES, Chip, absent_words, chip_of
from benchmarks.pocket.labels import Picture, training_pictures
from benchmarks.pocket.sentences import teach
from benchmarks.pocket.thesaurus import CONCEPTS
from benchmarks.pocket.town import towns
from benchmarks.pocket.worlds import COUNT, worlds
from mapper.models.pocket import WEIGHTS, Net, standardised, tokens

BATCH = 8
THREADS = 1
SAMPLED_BATCHES, SAMPLED_PIXELS = 12, 256
EMA = 0.996
SAVE_EVERY_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of the training with one mixture of pictures; begins at the running mean of the one before."""

    steps: int
    peak: float
    """Highest learning rate; from there by a cosine to a hundredth of it."""
    shares: Mapping[str, float]
    """How often a chip is cut from each source; sources that are not there are left out."""


PHASES = (
    Phase(  # all that is to be known, drawn pictures above all, because their truth is exact
        steps=6_500,
        peak=2e-3,
        shares={
            "world": 0.28, "town": 0.12, "dubai1": 0.11, "dubai2": 0.11, "dubai3": 0.10, "dubai5": 0.05,
            "denmark": 0.03, "vegas": 0.02, "ucayali": 0.03, "naip": 0.03, "prairie": 0.06, "trees": 0.02,
            "ucmerced": 0.04,
        },
    ),
    Phase(  # real towns, which the first phase has not learned enough of, not even those it saw
        steps=4_000,
        peak=1.2e-3,
        shares={
            "world": 0.17, "town": 0.10, "dubai1": 0.18, "dubai2": 0.18, "dubai3": 0.16, "dubai5": 0.03,
            "denmark": 0.02, "vegas": 0.02, "ucayali": 0.02, "naip": 0.03, "prairie": 0.05, "trees": 0.02,
            "ucmerced": 0.02,
        },
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where training stands."""

    step: int = 0
    seconds: float = 0.0


class Chips:
    """Chips without end, of all sources by their shares."""

    def __init__(self, pictures: list[Picture], absent: list[str], seed: int) -> None:
        self.rng = random.Random(seed)
        self.shares = PHASES[0].shares
        self.absent = absent
        self.groups: dict[str, list[Picture]] = {}
        for picture in pictures:
            self.groups.setdefault(picture.name.split("/")[0], []).append(picture)
        self.real = [p for p in pictures if not p.synthetic]

    def batch(self) -> list[Chip]:
        """``BATCH`` chips."""
        names = self.rng.choices(list(self.groups), [self.shares[name] for name in self.groups], k=BATCH)
        return [self._chip(self.rng.choice(self.groups[name])) for name in names]

    def _chip(self, picture: Picture) -> Chip:
        styled = picture.synthetic and self.rng.random() < 0.2
        return chip_of(picture, self.rng, self.absent, self.rng.choice(self.real) if styled else None)


def main() -> None:
    """Train all phases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/pocket"), help="checkpoint, caches and output")
    parser.add_argument("--start", type=Path, help="begin from these weights and not from nothing")
    parser.add_argument("--words", type=Path, default=WEIGHTS, help="file with the table of words; see words.py")
    parser.add_argument("--worlds", type=int, default=COUNT, help="pictures of the synthetic world")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(asked.seed)
    net = _net(asked.start, asked.words)
    pictures = (
        training_pictures()
        + worlds(asked.work / "worlds", seed=asked.seed, count=asked.worlds)
        + towns(seed=asked.seed)
    )
    print(f"{len(pictures)} pictures", flush=True)
    chips = Chips(pictures, absent_words(net.words), asked.seed)
    trained, anchors, progress = train(net, chips, asked.work)
    teach(trained, anchors, seen(trained, chips), chips.absent, seed=asked.seed)
    export(trained, asked.work / "pocket.safetensors", about=about(progress))


def train(net: Net, chips: Chips, work: Path) -> tuple[Net, Tensor, Progress]:
    """Run all phases, saving on the way, from where a checkpoint stands.

    Returns:
        The running mean of the network, float32 ``(concept, EMBEDDING + 1)`` its anchors, and what it took.
    """
    net.train()
    ema = Net(vocabulary=len(net.words.keys))
    ema.load_state_dict(net.state_dict())
    anchors = torch.nn.Parameter(_anchors(net))
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [anchors, *(p for p in net.parameters() if p.ndim <= 1)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}], lr=PHASES[0].peak
    )
    progress = _resumed(work, net, ema, anchors, optimizer, chips)
    began, saved = time.monotonic() - progress.seconds, time.monotonic()
    losses: list[float] = []
    for step in range(progress.step, sum(phase.steps for phase in PHASES)):
        phase, done = at(step)
        chips.shares = phase.shares
        if done == 0:
            net.load_state_dict(ema.state_dict())
        rate = phase.peak * min(1.0, (done + 1) / 100)
        rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done / phase.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = step_loss(net, anchors, chips.batch())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        _follow(ema, net, min(EMA, (2 + step) / (11 + step)))
        losses.append(loss.item())
        progress = Progress(step=step + 1, seconds=time.monotonic() - began)
        if progress.step % 50 == 0:
            mean = float(np.mean(losses[-50:]))
            _add_to_curve(work, progress.step, mean)
            print(f"step {progress.step} {progress.seconds / 60:.1f} min loss {mean:.4f} lr {rate:.2g}", flush=True)
        if time.monotonic() - saved > SAVE_EVERY_S:
            _save(work, net, ema, anchors, optimizer, chips, progress)
            saved = time.monotonic()
    _save(work, net, ema, anchors, optimizer, chips, progress)
    return ema.eval(), anchors.detach(), progress


def at(step: int) -> tuple[Phase, int]:
    """The phase that a step belongs to, and how many of its steps come before."""
    for phase in PHASES:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    raise ValueError("the training has no such step")


def seen(net: Net, chips: Chips) -> Tensor:
    """float32 ``(pixel, EMBEDDING)``: vectors of a sample of pixels of all sources."""
    found = []
    with torch.inference_mode():
        for _ in range(SAMPLED_BATCHES):
            for chip in chips.batch():
                vectors = net.pixels(standardised(chip.pixels[None]))[0].flatten(1).T
                found.append(vectors[torch.randint(len(vectors), (SAMPLED_PIXELS,))])
    return torch.cat(found).clone()


def step_loss(net: Net, anchors: Tensor, chips: list[Chip]) -> Tensor:
    """What the pixels' vectors, the sentences' vectors and the two together get wrong.

    Every concept has an anchor, a vector that is trained to find it. The pixels learn from the anchors of all
    concepts at once, the sentences to come near their concept's anchor, and both from each other.
    """
    pixels = torch.stack([chip.pixels for chip in chips])
    yes, known = torch.stack([chip.yes for chip in chips]), torch.stack([chip.known for chip in chips])
    meant = torch.tensor([chip.meant for chip in chips])
    words = [tokens(sentence) for chip in chips for sentence in chip.sentences]
    codes = net.words(words, keep_spelling=torch.rand(len(words)) < 0.7).view(len(chips), SENTENCES, -1)
    with torch.autocast("cpu", torch.bfloat16):
        vectors = net.pixels(standardised(pixels))
    every = torch.cat([anchors.expand(len(chips), -1, -1), codes], 1)  # (chip, concept + sentence, c)
    with torch.autocast("cpu", torch.bfloat16):
        evidence = torch.einsum("npc,ncyx->npyx", every[..., :-1], vectors)
    logits = evidence.float() + every[..., -1, None, None]
    concepts = len(anchors)
    row = torch.arange(len(chips))[:, None]
    by_anchor = mask_loss(logits[:, :concepts], yes[:, :concepts], known[:, :concepts])
    by_words = mask_loss(logits[:, concepts:], yes[row, meant], known[row, meant])
    named = meant < concepts
    astray = F.mse_loss(codes[named], anchors.detach()[meant[named]])
    return by_anchor + by_words + astray


def mask_loss(logits: Tensor, yes: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy where known, plus the Dice loss where something is there.

    Rare things must not weigh more in the cross-entropy: that was tried, and the best threshold was 0.73 then.
    """
    area, there = known.sum((2, 3)), (yes * known).sum((2, 3))
    entropy = F.binary_cross_entropy_with_logits(logits, yes, reduction="none")
    entropy = (entropy * known).sum((2, 3)) / area.clamp(min=256)
    score = logits.sigmoid() * known
    overlap = 2 * (score * yes).sum((2, 3)) / (score.sum((2, 3)) + there + 1)
    seen = (there > 8).float()
    asked = (area > 0).float()
    loss: Tensor = entropy.sum() / asked.sum() + 0.5 * ((1 - overlap) * seen).sum() / seen.sum().clamp(min=1)
    return loss


def export(net: Net, target: Path, *, about: dict[str, object]) -> None:
    """The weights in half precision, and beside them a JSON file with their sha256 and ``about``."""
    stored = {
        key: value.half().contiguous() if value.is_floating_point() else value.contiguous()
        for key, value in net.state_dict().items()
    }
    written = target.with_suffix(".tmp")
    save_file(stored, written)
    digest = hashlib.sha256(written.read_bytes()).hexdigest()
    written.chmod(0o644)
    written.rename(target)
    size = {"bytes": target.stat().st_size, "parameters": sum(p.numel() for p in net.parameters())}
    target.with_suffix(".json").write_text(json.dumps({"sha256": digest, **size, **about}, indent=2) + "\n")


def about(progress: Progress) -> dict[str, object]:
    """What the JSON file beside the weights says of their training."""
    return {
        "steps": progress.step, "batch": BATCH, "threads": THREADS, "hours": round(progress.seconds / 3600, 3),
        "trained": datetime.now(UTC).isoformat(timespec="seconds"), "torch": torch.__version__,
    }  # fmt: skip


def _net(start: Path | None, words: Path) -> Net:
    """A new network with the table of words in it, or the one that ``start`` has."""
    stored = load_file(words)
    net = Net(vocabulary=len(stored["words.keys"]))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    net.words.keys.copy_(stored["words.keys"])
    net.words.table.copy_(stored["words.table"])
    torch.nn.init.normal_(net.words.spelling.weight, std=0.3)
    final, stem = net.words.out[-1], net.pixels.from_stem.norm
    assert isinstance(final, torch.nn.Linear)
    assert isinstance(stem, torch.nn.BatchNorm2d)
    torch.nn.init.normal_(final.weight, std=0.15)
    torch.nn.init.normal_(net.pixels.spread.weight, std=0.2)
    torch.nn.init.constant_(stem.weight, 0.0)  # context first: the stem's colours are a trap
    if start is not None:
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(start).items()})
    return net


def _anchors(net: Net) -> Tensor:
    """Where the concepts' anchors begin: where the network's own words for them are."""
    with torch.no_grad():
        return torch.stack([net.words([tokens(p) for p in phrases]).mean(0) for phrases in CONCEPTS.values()])


def _follow(ema: Net, net: Net, decay: float) -> None:
    """Move the averaged weights towards the trained ones."""
    with torch.no_grad():
        for slow, fast in zip(ema.state_dict().values(), net.state_dict().values(), strict=True):
            if slow.is_floating_point():
                slow.lerp_(fast, 1 - decay)


def _save(
    work: Path, net: Net, ema: Net, anchors: Tensor, optimizer: torch.optim.Optimizer, chips: Chips,
    progress: Progress,
) -> None:  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    state = {
        "net": net.state_dict(), "ema": ema.state_dict(), "anchors": anchors.data, "optimizer": optimizer.state_dict(),
        "step": progress.step, "seconds": progress.seconds,
        "rng": chips.rng.getstate(), "torch": torch.get_rng_state(),
    }  # fmt: skip
    torch.save(state, work / "checkpoint.tmp")
    (work / "checkpoint.tmp").rename(work / "checkpoint.pt")
    export(ema, work / "pocket.safetensors", about=about(progress))


def _add_to_curve(work: Path, step: int, loss: float) -> None:
    path = work / "curve.json"
    curve = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**curve, str(step): round(loss, 4)}))


def _resumed(
    work: Path, net: Net, ema: Net, anchors: Tensor, optimizer: torch.optim.Optimizer, chips: Chips
) -> Progress:
    path = work / "checkpoint.pt"
    if not path.exists():
        return Progress()
    state = torch.load(path, weights_only=False)  # our own file, of this machine
    net.load_state_dict(state["net"])
    ema.load_state_dict(state["ema"])
    anchors.data.copy_(state["anchors"])
    optimizer.load_state_dict(state["optimizer"])
    chips.rng.setstate(state["rng"])
    torch.set_rng_state(state["torch"])
    return Progress(step=state["step"], seconds=state["seconds"])


if __name__ == "__main__":
    main()
