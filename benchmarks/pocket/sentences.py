"""The second part of the training: sentences alone, against a network for pixels that no longer changes.

The thesaurus has a few hundred phrases, and people have more. So words are shaken: each stands for the meanings
around it and for those between it and others of its concept, which is where the synonyms nobody listed lie (H. Zhang
et al., "mixup", 2018). A meaning between two concepts is what both agree on. What a sentence should say is what its
concept's anchor says of a sample of real pixels.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.pocket.thesaurus import CONCEPTS, NOT_DRAWN, NOWHERE, TEMPLATES
from mapper.models.pocket import Net, WordNet, tokens

STEPS = 1500
SENTENCES = 192
RATE = 1.5e-3
SHAKE = 0.35
"""Greatest length of the noise on a word's vector, as a share of the vector's own."""

MODIFIED = 0.15
"""Share of the phrases that any word is put before: in English the last noun says what a thing is."""

MIXED = 0.15
"""Share of the sentences whose word lies between those of two concepts."""

BETWEEN = "+"

FAINT = -9.0
"""The logit that means: surely not here."""


class Shaken(WordNet):
    """The same words, each a little beside itself."""

    def __init__(self, vocabulary: int, kin: Sequence[Sequence[str]]) -> None:
        super().__init__(vocabulary)
        self.kin = {word: words for words in kin for word in words}

    def parts(self, word: str) -> tuple[str, ...]:
        """As ``WordNet.parts``; a word between two is one."""
        return (word,) if BETWEEN in word else super().parts(word)

    def vectors(self, words: Sequence[str]) -> Tensor:
        """As ``WordNet.vectors``, mixed with a word of the same concept and disturbed."""
        if not self.training:
            return super().vectors(words)
        pairs = [word.partition(BETWEEN) for word in words]
        plain = torch.lerp(
            super().vectors([one for one, _, _ in pairs]),
            super().vectors([other or one for one, _, other in pairs]),
            0.5,
        )
        other = super().vectors([random.choice(self.kin.get(word, (word,))) for word in words])
        share = torch.rand(len(words), 1) * (torch.rand(len(words), 1) < 0.4) * 0.5
        mixed = plain + share * (other - plain)
        noise = torch.randn_like(mixed)
        noise *= mixed.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        return mixed + noise * torch.rand(len(words), 1) * SHAKE


def teach(net: Net, anchors: Tensor, pixels: Tensor, absent: Sequence[str], *, seed: int, steps: int = STEPS) -> None:
    """Train ``net.words`` in place; the rest of the network stays.

    Args:
        net: whose pixels are done learning.
        anchors: float32 ``(concept, EMBEDDING + 1)``, the vector and bias that find each concept.
        pixels: float32 ``(pixel, EMBEDDING)``, vectors of pixels of all training sets.
        absent: words for things that are nowhere.
        seed: decides all.
        steps: of ``SENTENCES`` each.
    """
    random.seed(seed)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    words = Shaken(
        len(net.words.keys), [sorted({w for p in phrases for w in tokens(p)}) for phrases in CONCEPTS.values()]
    )
    words.load_state_dict(net.words.state_dict())
    words.train()
    names = list(CONCEPTS)
    nouns = [[phrase for phrase in phrases if words.knows(phrase)] for phrases in CONCEPTS.values()]
    with torch.no_grad():
        wanted = torch.cat([anchors[:, :-1] @ pixels.T + anchors[:, -1:], torch.full((1, len(pixels)), FAINT)])
    optimizer = torch.optim.AdamW(words.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.05)
    for _ in range(steps):
        meant = [rng.randrange(len(names)) if rng.random() < 0.7 else len(names) for _ in range(SENTENCES)]
        said = [sentence("" if m == len(names) else names[m], rng, absent, modified=MODIFIED) for m in meant]
        read = [tokens(one) for one in said]
        also = list(meant)  # what else each means: itself, but for words between two concepts
        for at in rng.sample(range(SENTENCES), int(MIXED * SENTENCES)):
            meant[at], also[at] = rng.sample(range(len(names)), 2)
            read[at] = [BETWEEN.join(rng.choice(nouns[which]) for which in (meant[at], also[at]))]
        keep = torch.tensor([rng.random() < 0.5 and one == other for one, other in zip(meant, also, strict=True)])
        codes = words(read, keep_spelling=keep)
        some = torch.randint(len(pixels), (2048,))
        logits = codes[:, :-1] @ pixels[some].T + codes[:, -1:]
        truth = (wanted[torch.tensor(meant)][:, some] + wanted[torch.tensor(also)][:, some]) / 2
        loss = F.binary_cross_entropy_with_logits(logits, truth.sigmoid())
        loss = loss + 0.01 * F.smooth_l1_loss(logits, truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(words.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    net.words.load_state_dict(words.state_dict())


def sentence(
    concept: str, rng: random.Random, absent: Sequence[str], *, synthetic: bool = True, modified: float = 0.0
) -> str:
    """A sentence that means ``concept``, or with an empty one a thing that is nowhere.

    Args:
        concept: one of ``CONCEPTS`` or empty.
        rng: decides which.
        absent: words for things that are nowhere.
        synthetic: whether the picture is drawn, and so surely without what ``NOT_DRAWN`` lists.
        modified: share of the phrases that any word is put before: in English the last noun says what a thing is.
    """
    if concept:
        phrase = rng.choice(CONCEPTS[concept])
        if rng.random() < modified:
            phrase = f"{rng.choice(absent)} {phrase}"
    else:
        kind = rng.random()
        if kind < 0.35:
            phrase = rng.choice(NOWHERE)
        elif kind < 0.55 and synthetic:
            phrase = rng.choice(NOT_DRAWN)
        elif kind < 0.87:
            phrase = " ".join(rng.choice(absent) for _ in range(rng.choice((1, 1, 2))))
        else:
            phrase = " ".join(_letters(rng) for _ in range(rng.choice((1, 1, 2))))
    return rng.choice(TEMPLATES).format(phrase)


def _letters(rng: random.Random) -> str:
    return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(2, 9)))
