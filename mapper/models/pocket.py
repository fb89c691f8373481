"""pocket: the small text-prompted segmenter that ships with resmap.

    pixels (n, 3, y, x)                        "all the houses"
        │  stem /2, stages /4 /8 /16 /32             │  words: GloVe vectors, character n-grams
        │  top-down decoder back to /4, /2           │  neighbours mixed, attention pool
        ▼                                            ▼
    embedding (n, 48, y/2, x/2)     ·          one vector of 48 and a bias per sentence
                        │
                        ▼  dot product, bilinear ×2
               logits (n, prompt, y, x)

Pixels are encoded once, however many sentences are asked; a further sentence costs one dot product. Windows
and sentences are taken one by one where their number could change a bit of the answer.

Trained by ``python -m benchmarks.pocket.train``; what it can and cannot do stands in ``weights/pocket.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mapper.errors import ModelError
from mapper.models.card import Card
from mapper.models.launched import launched
from mapper.segmenter import Logits, Precision

WEIGHTS = Path(__file__).parent / "weights" / "pocket.safetensors"
"""Shipped in the package; its sha256 stands in ``pocket.json`` beside it."""

WINDOW_PX = 640
"""With an overlap of 128 the stride is 512, which divides the usual shards."""

STRIDE_PX = 32
"""Sides of what it looks at are multiples of this: the coarsest stage."""

EMBEDDING = 48
"""Length of the vectors that pixels and sentences meet in."""

WORD_DIM = 64
GRAM_BUCKETS = 4096
LONGEST_SENTENCE = 24
"""Words beyond this are not read."""

CARD = Card(
    name="pocket",
    title="The small model that ships: buildings, roads, fields, woods, water, bare land",
    licence="Apache-2.0",
    terms="Trained on pictures under CC0, CC BY-SA 4.0 and public domain; see mapper/models/weights/pocket.md.",
    source="resmap itself",
    ships=True,
)

SHORTEST_PART = 4
"""Letters. ``fishpond`` is read as fish and pond; shorter parts are found in any word by chance."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences:
    """What ``Pocket.encode_text`` hands out: the sentences as vectors."""

    expressions: tuple[str, ...]
    """As asked, in order."""

    weight: Tensor
    """float32 ``(prompt, EMBEDDING)``."""

    bias: Tensor
    """float32 ``(prompt,)``: the logit where the pixel's vector is zero."""


class Pocket:
    """A ``Segmenter`` of two million parameters, fast enough for one CPU core."""

    name = "pocket"
    window_px = WINDOW_PX
    band_names = ("red", "green", "blue")

    def __init__(self, net: Net, *, fingerprint: str, device: str, precision: Precision) -> None:
        self.fingerprint = fingerprint
        self.device = device
        self._words = net.words
        self._pixels = net.pixels.to(device).narrow(_DTYPES[precision])
        self._dtype = _DTYPES[precision]

    def encode_text(self, expressions: Sequence[str]) -> Sentences:
        """The sentences as vectors, each encoded alone, on the CPU and in float32 whatever the device."""
        with torch.inference_mode():
            codes = [self._words([tokens(expression)]) for expression in expressions]
        weight = torch.cat([code[:, :-1] for code in codes]) if codes else torch.zeros(0, EMBEDDING)
        bias = torch.cat([code[:, -1] for code in codes]) if codes else torch.zeros(0)
        return Sentences(expressions=tuple(expressions), weight=weight, bias=bias)

    def logits(self, pixels: NDArray[np.uint8], text: Sentences) -> Logits:
        """Evidence for each sentence at each pixel.

        Args:
            pixels: uint8 ``(window, 3, y, x)`` red, green, blue; y and x any multiples of 32.
            text: what ``encode_text`` gave.

        Returns:
            float32 ``(window, prompt, y, x)``.

        Raises:
            ModelError: the pixels have another shape or dtype.
        """
        return self.begin(pixels, text)()

    def begin(self, pixels: NDArray[np.uint8], text: Sentences) -> Callable[[], Logits]:
        """Start on windows; what it gives waits for the ``logits`` of them. Arguments and errors as there."""
        _check_pixels(pixels)
        answer = partial(self._answer, text)
        if self.device == "cpu":  # one window at a time: the convolution chosen must not depend on the batch
            empty = np.zeros((0, len(text.bias), *pixels.shape[2:]), np.float32)
            answers = [launched(answer, pixels[n : n + 1], self.device)() for n in range(len(pixels))]
            return lambda: np.concatenate(answers) if answers else empty
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            return launched(answer, pixels, self.device)

    def _answer(self, text: Sentences, pixels: Tensor) -> Tensor:
        seen = self._pixels.seen(standardised(pixels, self._dtype))
        coarse, fine = (layer.float().permute(0, 2, 3, 1) for layer in seen)  # channels last
        out = pixels.new_empty((len(pixels), len(text.bias), *pixels.shape[2:]), dtype=torch.float32)
        for prompt, (weight, bias) in enumerate(zip(text.weight, text.bias, strict=True)):
            # One sentence at a time, so that another one in the job does not change this one's last bit.
            evidence = self._evidence(coarse, fine, weight.to(self.device), bias.to(self.device))
            out[:, prompt] = upsampled(evidence)[:, 0]
        return out

    def _evidence(self, coarse: Tensor, fine: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Logits ``(n, 1, y/2, x/2)``: the sentence goes into the last layers' weights, which spares their channels."""
        spread, edges = self._pixels.spread, self._pixels.from_stem.conv
        assert spread.bias is not None
        assert edges.bias is not None
        quarters = torch.einsum("c,cqk->kq", weight, spread.weight.view(EMBEDDING, 4, -1))
        constant = weight @ spread.bias.view(EMBEDDING, 4) + weight @ edges.bias + bias  # (quarter,)
        by_quarter = (coarse.flatten(0, 2) @ quarters + constant).view(*coarse.shape[:3], 4).permute(0, 3, 1, 2)
        by_edge = (fine.flatten(0, 2) @ (weight @ edges.weight.flatten(1))).view(fine.shape[:3])
        return F.pixel_shuffle(by_quarter, 2) + by_edge[:, None]


def load(weights: Path | None = None, device: str = "cpu", precision: Precision = "fp32") -> Pocket:
    """The model, ready to answer.

    Args:
        weights: a safetensors file made by ``benchmarks.pocket.train``; None is the shipped one. Its sha256
            is checked against the JSON file beside it; weights of your own need no such file.
        device: as torch names it.
        precision: of the pixel branch; sentences and logits are float32 always.

    Raises:
        ModelError: the file is missing, damaged, or another model's.
    """
    if precision not in _DTYPES:
        raise ModelError(f"pocket has no precision {precision!r}", fix=f"use one of {', '.join(_DTYPES)}")
    path = WEIGHTS if weights is None else weights
    content, digest = _read_weights(path, expected=_recorded_digest(path))
    try:
        tensors = load_safetensors(content)
        net = Net(vocabulary=len(tensors["words.table"]))
        net.load_state_dict({key: _as_stored(key, value) for key, value in tensors.items()}, strict=True)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ModelError(
            "these are not pocket's weights",
            fix="use the file that ships with resmap",
            weights=path,
            reason=str(error)[:200],
        ) from error
    net.eval()
    return Pocket(folded(net), fingerprint=f"{digest}/{precision}", device=device, precision=precision)


def tokens(expression: str) -> list[str]:
    """The words of a sentence, lower case, without punctuation; at most ``LONGEST_SENTENCE``."""
    return re.findall(r"[^\W_]+", expression.lower())[:LONGEST_SENTENCE]


def word_hash(word: str) -> int:
    """A word's key in the table of word vectors: 62 bits of its blake2b, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") >> 2


def grams(word: str) -> list[int]:
    """Buckets of the word itself and of its character 3- to 5-grams (Bojanowski et al. 2017, section 3.2)."""
    marked = f"<{word}>"
    pieces = [marked] + [marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)]
    return [zlib.crc32(piece.encode()) % GRAM_BUCKETS for piece in dict.fromkeys(pieces)]


def standardised(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels as the network wants them: about zero mean and unit variance, channels last."""
    scaled = (pixels.to(torch.float32) - 110.0) / 60.0
    return scaled.to(dtype).contiguous(memory_format=torch.channels_last)


def upsampled(evidence: Tensor) -> Tensor:
    """Logits at half size brought to the size of the pixels."""
    return F.interpolate(evidence, scale_factor=2, mode="bilinear", align_corners=False)


def folded(net: Net) -> Net:
    """The same network with each batch norm multiplied into its convolution; ``net`` is used up.

    The products are rounded to bfloat16 whatever they will be computed in. Nearly all that half precision changed in
    the masks came from rounding weights (mask IoU 0.993 with float32), and so both have the same ones.
    """
    for module in net.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    net.pixels.bfloat16().float()
    net.pixels.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return net.requires_grad_(False)


class Net(nn.Module):
    """Both branches, as trained."""

    def __init__(self, *, vocabulary: int) -> None:
        super().__init__()
        self.pixels = PixelNet()
        self.words = WordNet(vocabulary)


class ConvNorm(nn.Module):
    """Convolution, batch norm (fixed statistics when answering), optional ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(c_out, momentum=0.05)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Same height and width, divided by the stride."""
        y: Tensor = self.norm(self.conv(x))
        return F.relu_(y) if self.relu else y


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al. 2015)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = ConvNorm(channels, channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        y: Tensor = x + self.second(self.first(x))
        return F.relu_(y)


class PixelNet(nn.Module):
    """Pixels to vectors at half size.

    Plain 3×3 convolutions: on a CPU depthwise ones move as many bytes for a tenth of the arithmetic.
    """

    WIDTHS = (48, 96, 128, 144)
    BLOCKS = (2, 2, 2, 2)
    DECODER = 64

    def __init__(self) -> None:
        super().__init__()
        w, d = self.WIDTHS, self.DECODER
        self.stem = ConvNorm(3, 24, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(ConvNorm(c_in, c_out, stride=2), *(Residual(c_out) for _ in range(blocks)))
            for c_in, c_out, blocks in zip((24, *w[:-1]), w, self.BLOCKS, strict=True)
        )
        self.lateral = nn.ModuleList(ConvNorm(c, d, kernel=1, relu=False) for c in w)
        self.smooth = nn.ModuleList(ConvNorm(d, d) for _ in w)
        self.from_stem = ConvNorm(24, EMBEDDING, kernel=1, relu=False)  # sharpens the edges
        self.spread = nn.Conv2d(d, 4 * EMBEDDING, 1)

    def seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(n, 3, y, x)`` to what the last layers take: ``(n, DECODER, y/4, x/4)`` and ``(n, 24, y/2, x/2)``."""
        half = self.stem(x)
        levels = [half]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        top = self.smooth[-1](self.lateral[-1](levels[-1]))  # /32
        for lateral, smooth, level in zip(self.lateral[-2::-1], self.smooth[-2::-1], levels[-2:0:-1], strict=True):
            top = smooth(lateral(level) + F.interpolate(top, scale_factor=2, mode="nearest"))  # /16, /8, /4
        return top, half

    def forward(self, x: Tensor) -> Tensor:
        """``(n, 3, y, x)`` to ``(n, EMBEDDING, y/2, x/2)``."""
        coarse, fine = self.seen(x)
        vectors: Tensor = F.pixel_shuffle(self.spread(coarse), 2) + self.from_stem(fine)
        return vectors

    def narrow(self, dtype: torch.dtype) -> PixelNet:
        """``seen`` in ``dtype``; the last layers stay in float32."""
        self.to(dtype)
        self.spread.float()
        self.from_stem.float()
        return self


class WordNet(nn.Module):
    """Sentences to vectors: each word by meaning (a fixed table) and spelling (learned), then pooled."""

    table: Tensor
    keys: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(vocabulary, WORD_DIM, dtype=torch.int8))
        self.register_buffer("keys", torch.zeros(vocabulary, dtype=torch.int64))
        self.unknown = nn.Parameter(torch.zeros(WORD_DIM))
        self.meaning = nn.Linear(WORD_DIM, WORD_DIM)
        self.spelling = nn.EmbeddingBag(GRAM_BUCKETS, WORD_DIM, mode="mean")
        self.neighbours = nn.Conv1d(WORD_DIM, WORD_DIM, 3, padding=1)
        self.attention = nn.Linear(WORD_DIM, 1)
        self.norm = nn.LayerNorm(WORD_DIM)
        self.out = nn.Sequential(nn.Linear(WORD_DIM, 128), nn.GELU(), nn.Linear(128, EMBEDDING + 1))

    def forward(self, sentences: Sequence[list[str]], keep_spelling: Tensor | None = None) -> Tensor:
        """``(sentence, EMBEDDING + 1)``: a vector and a bias each.

        Args:
            sentences: words of each; a sentence of no words is one unknown word.
            keep_spelling: bool ``(sentence,)``, training only: where False the spelling is hidden, so that
                meaning alone must do and unseen synonyms work.
        """
        sentences = [[part for word in words for part in self.parts(word)] or [""] for words in sentences]
        counts = [len(words) for words in sentences]
        flat = [word for words in sentences for word in words]
        spelt = [grams(word) for word in flat]
        offsets = torch.tensor([0, *np.cumsum([len(s) for s in spelt])[:-1].tolist()])
        spelling = self.spelling(torch.tensor([bucket for s in spelt for bucket in s]), offsets)
        if keep_spelling is not None:
            spelling = spelling * keep_spelling.repeat_interleave(torch.tensor(counts))[:, None]
        each = self.meaning(self.vectors(flat)) + spelling  # (word, c)
        padded = nn.utils.rnn.pad_sequence(list(each.split(counts)), batch_first=True)  # (sentence, word, c)
        real = torch.arange(padded.shape[1])[None] < torch.tensor(counts)[:, None]
        mixed = padded + F.gelu(self.neighbours(padded.transpose(1, 2))).transpose(1, 2)
        share = self.attention(mixed)[..., 0].masked_fill(~real, -torch.inf).softmax(1)
        pooled = (share[..., None] * mixed).sum(1)
        code: Tensor = self.out(self.norm(pooled))
        return code

    def parts(self, word: str) -> tuple[str, ...]:
        """The word itself where its meaning is known; else the two known words it is written of, if there are two."""
        if self.knows(word):
            return (word,)
        cuts = range(len(word) - SHORTEST_PART, SHORTEST_PART - 1, -1)  # the longest beginning first
        halves = ((word[:cut], word[cut:]) for cut in cuts)
        return next((half for half in halves if self.knows(half[0]) and self.knows(half[1])), (word,))

    def knows(self, word: str) -> bool:
        """Whether the table has it."""
        wanted = torch.tensor(word_hash(word))
        at = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
        return bool(self.keys[at] == wanted)

    def vectors(self, words: Sequence[str]) -> Tensor:
        """float32 ``(word, WORD_DIM)``: what each word means; the learned unknown where that is not known."""
        wanted = torch.tensor([word_hash(word) for word in words], dtype=torch.int64)
        at = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
        known = (self.keys[at] == wanted)[:, None]
        return torch.where(known, self.table[at].float() / 32.0, self.unknown)


def _check_pixels(pixels: NDArray[np.uint8]) -> None:
    shape = "×".join(map(str, pixels.shape))
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ModelError(
            f"pocket was given {pixels.dtype} pixels of shape {shape}",
            fix="give uint8 (window, 3, y, x): red, green, blue",
        )
    if pixels.shape[2] % STRIDE_PX or pixels.shape[3] % STRIDE_PX or 0 in pixels.shape[2:]:
        raise ModelError(
            f"pocket was given pixels of shape {shape}",
            fix=f"pad height and width to multiples of {STRIDE_PX}",
        )


def _recorded_digest(weights: Path) -> str | None:
    """The sha256 in the JSON file beside the weights; None where someone's own weights have no such file."""
    record = weights.with_suffix(".json")
    if weights != WEIGHTS and not record.exists():
        return None
    try:
        return str(json.loads(record.read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "the record of pocket's weights cannot be read",
            fix="reinstall resmap",
            record=record,
            reason=error,
        ) from error


def _read_weights(path: Path, expected: str | None) -> tuple[bytes, str]:
    """The file's bytes and their sha256; the bytes checked are the bytes used."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            "pocket's weights cannot be read",
            fix="reinstall resmap, or pass another file",
            weights=path,
            reason=error,
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if expected is not None and digest != expected:
        raise ModelError(
            "pocket's weights are not the ones recorded beside them",
            fix="reinstall resmap; for weights of your own, leave no pocket.json beside them",
            weights=path, sha256=digest, recorded=expected,
        )  # fmt: skip
    return content, digest


def _as_stored(key: str, value: Tensor) -> Tensor:
    """Weights are stored in half precision to keep the file small; tables of integers stay what they are."""
    return value if not value.is_floating_point() else value.float()
