"""RemoteSAM: one sentence and one picture in, two logits a pixel out (Yao et al. 2025, arXiv 2505.18022).

    pixels (B, 3, 896, 896)                       "airplane in the image"
        │ patches of 4                                │  20 tokens
        ▼                                             ▼
    stage 0 … 3 (Swin-B, window 12)   ◀── words ──  text (B, 20, 768), BERT
        │ each stage's answer to the words, at /4 /8 /16 /32
        ▼
    exchange between the four scales, on a grid of 28
        │
        ▼ coarse to fine; each step's second kernel is turned by an angle that the picture asks for
    logits (B, 2, 224, 224), bilinear ×4

Words enter at the end of stage 0. So the sentences of a window share only its patches, stage 0's blocks and what the
fusion there asks of the picture alone: 4 % of the work. The rest is paid once a sentence.

Half precision is the decoder's: 54 % of the work, and rounding there hardly moves the mask (IoU with full precision
0.998 or more in a small configuration, 0.992 in the published size; made-up weights). The stages multiply what they
round: with them in bfloat16 too it was 0.984. They stay in float32, on a GPU in TF32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mapper.errors import ModelError
from mapper.models.card import Card
from mapper.models.launched import launched
from mapper.models.weights import fit, read_weights, token_ids
from mapper.segmenter import Logits, Precision

WINDOW_PX = 896
"""The only size it takes: the exchange between scales is wired for a grid of 28."""

TOKENS = 20
"""A sentence is cut to so many tokens, with its first special token and, where it is short enough, its last."""

CARD = Card(
    name="remotesam",
    title="RemoteSAM: one model for every sentence over aerial pictures; 242 million parameters",
    paper="arXiv 2505.18022",
    source="1e12Leon/RemoteSAM",
    file="RemoteSAMv1.pth",
    tokenizer="google-bert/bert-base-uncased",
    terms="Neither its repository nor its model page states a licence, so no rights are granted by default: "
    "fetch the weights yourself and check the terms before you use them.",
    prompts="the thing, then 'in the image': airplane in the image",
)

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """All that tells one configuration from another; the defaults are the published ones."""

    embed_dim: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 12
    image_size: int = WINDOW_PX
    cim_grid: int = 28
    text_hidden: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_inner: int = 3072
    text_vocabulary: int = 30522
    text_positions: int = 512
    text_types: int = 2
    text_eps: float = 1e-12

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the four stages."""
        return tuple(self.embed_dim << stage for stage in range(4))

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the four stages' grids: a quarter of the image, then halved, rounded up."""
        sides = [-(-self.image_size // 4)]
        while len(sides) < 4:
            sides.append(-(-sides[-1] // 2))
        return tuple(sides)

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> Sizes:
        """The sizes of a configuration file; None is the published size.

        Raises:
            ModelError: an entry is missing.
        """
        if config is None:
            return cls()
        try:
            text = config["text"]
            return cls(
                embed_dim=config["embed_dim"],
                depths=tuple(config["depths"]),
                num_heads=tuple(config["num_heads"]),
                window_size=config["window_size"],
                image_size=config["image_size"],
                cim_grid=config["cim_grid"],
                text_hidden=text["hidden_size"],
                text_layers=text["num_hidden_layers"],
                text_heads=text["num_attention_heads"],
                text_inner=text["intermediate_size"],
                text_vocabulary=text["vocab_size"],
                text_positions=text["max_position_embeddings"],
                text_types=text["type_vocab_size"],
                text_eps=text["layer_norm_eps"],
            )
        except KeyError as error:
            raise ModelError(
                f"the configuration of remotesam has no {error.args[0]}", fix="leave it out for the published size"
            ) from error


# ── the model as a Segmenter ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences:
    """What ``RemoteSam.encode_text`` hands out."""

    expressions: tuple[str, ...]
    """As asked, in order."""

    words: Tensor
    """float32 ``(prompt, TOKENS, 768)``: BERT's last hidden state, padding included."""

    mask: Tensor
    """int64 ``(prompt, TOKENS)``: 1 where a token is real."""


class RemoteSam:
    """A ``Segmenter``: RemoteSAM on one device."""

    name = "remotesam"
    band_names = ("red", "green", "blue")

    def __init__(self, net: Net, tokenizer: Tokenizer, *, fingerprint: str, device: str, precision: Precision) -> None:
        self.window_px = net.sizes.image_size
        self.fingerprint = fingerprint
        self.device = device
        self._tokenizer = tokenizer
        self._one_by_one = device == "cpu"
        self._tf32 = precision == "bf16" and device != "cpu"
        self._net = lean(net, _DTYPES[precision]).to(device)

    def encode_text(self, expressions: Sequence[str]) -> Sentences:
        """The sentences as BERT understands them, in float32: each alone, and each but once."""
        known: dict[str, tuple[Tensor, Tensor]] = {}
        with torch.inference_mode():
            for expression in dict.fromkeys(expressions):
                ids, mask = padded(token_ids(self._tokenizer, expression, longest=TOKENS), self.device)
                known[expression] = self._net.text_encoder(ids, mask), mask
        empty = torch.zeros(0, TOKENS, self._net.sizes.text_hidden), torch.zeros(0, TOKENS, dtype=torch.int64)
        words, mask = (
            torch.cat([one.to(self.device), *(known[e][at] for e in expressions)]) for at, one in enumerate(empty)
        )
        return Sentences(expressions=tuple(expressions), words=words, mask=mask)

    def logits(self, pixels: NDArray[np.uint8], text: Sentences) -> Logits:
        """Evidence for each sentence at each pixel: the foreground's logit less the background's.

        Args:
            pixels: uint8 ``(window, 3, window_px, window_px)``: red, green, blue.
            text: what ``encode_text`` gave.

        Returns:
            float32 ``(window, prompt, y, x)``; its sigmoid is the probability of the foreground. Sentences are
            answered one by one, and on a CPU windows too, so that neither can change a bit of another's answer. A GPU
            takes the windows of a call together: keep their number the same from call to call for the same bits.

        Raises:
            ModelError: the pixels have another shape or dtype.
        """
        return self.begin(pixels, text)()

    def begin(self, pixels: NDArray[np.uint8], text: Sentences) -> Callable[[], Logits]:
        """Start on windows; what it gives waits for the ``logits`` of them. Arguments and errors as there."""
        self._check(pixels)
        answer = partial(self._answer, text)
        with _reproducible(tf32=self._tf32):
            if not self._one_by_one and len(pixels):
                return launched(answer, pixels, self.device)
            out = np.empty((len(pixels), len(text.mask), self.window_px, self.window_px), np.float32)
            for at in range(len(pixels)):
                out[at : at + 1] = launched(answer, pixels[at : at + 1], self.device)()
            return lambda: out

    def _answer(self, text: Sentences, pixels: Tensor) -> Tensor:
        """float32 ``(window, prompt, y, x)`` of uint8 ``(window, 3, y, x)`` on the device."""
        seen = self._net.see(standardised(pixels))
        out = pixels.new_empty((len(pixels), len(text.mask), *pixels.shape[2:]), dtype=torch.float32)
        for at, (words, mask) in enumerate(zip(text.words, text.mask, strict=True)):
            out[:, at] = self._net.answer(seen, words.expand(len(pixels), -1, -1), mask.expand(len(pixels), -1))
        return out

    def compile(self) -> None:
        """Let torch compile the stages' blocks, where its fusing pays; happens at the first window."""
        for module in self._net.modules():
            if isinstance(module, Block):  # 24 of them, of eight shapes: the whole network takes torch minutes longer
                module.compile(dynamic=False)
        self.fingerprint += "/compiled"

    def _check(self, pixels: NDArray[np.uint8]) -> None:
        side = self.window_px
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (3, side, side):
            raise ModelError(
                f"remotesam was given {pixels.dtype} pixels of shape {'×'.join(map(str, pixels.shape))}",
                fix=f"give uint8 (window, 3, {side}, {side}): red, green, blue; it takes no other size",
            )


def load(weights: Path | None = None, *, device: str = "cpu", precision: Precision = "fp32") -> RemoteSam:
    """The model, ready to answer.

    Args:
        weights: a safetensors file that ``resmap models convert`` made. There is no default: they do not ship.
        device: as torch names it.
        precision: of the decoder's convolutions; the rest and the logits are float32 always.

    Raises:
        ModelError: no weights, or they are missing, damaged, another model's, or without a tokenizer.
    """
    if precision not in _DTYPES:
        raise ModelError(f"remotesam has no precision {precision!r}", fix=f"use one of {', '.join(_DTYPES)}")
    if weights is None:
        raise ModelError(
            "the weights of remotesam do not come with resmap, because they state no licence",
            fix="resmap models show remotesam says where they are; convert them once, then give model.weights",
        )
    stored = read_weights(weights, model="remotesam")
    if stored.tokenizer is None:
        raise ModelError(
            "this weights file has no tokenizer, so remotesam cannot read sentences",
            fix="convert the checkpoint again: resmap models show remotesam",
            weights=weights,
        )
    return RemoteSam(
        from_upstream(stored.tensors, stored.config),
        stored.tokenizer,
        fingerprint=f"{stored.sha256}/{precision}",
        device=device,
        precision=precision,
    )


def from_upstream(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Net:
    """The bare network of a published checkpoint, in evaluation mode and float32.

    Args:
        state_dict: tensors under the checkpoint's own names. A text pooler and position ids are dropped; integer
            entries may be missing, because they are computed.
        config: as the reference configurations have it; None is the published size.

    Raises:
        ModelError: a key is missing, unknown or of another shape, or the windows are numbered in another way.
    """
    with torch.device("meta"):  # so that no time goes into random weights
        net = Net(Sizes.of(config))
    net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, Block):
            module.lay_out()
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
    computed = {key: value for key, value in net.state_dict().items() if not value.is_floating_point()}
    for key, value in computed.items():
        found = state_dict.get(key, value)
        if key.endswith("relative_position_index") and found.shape == value.shape and not torch.equal(found, value):
            raise ModelError(
                "these weights number the places in a window in another way",
                fix="check that they are RemoteSAM's",
                key=key,
            )
    kept = {key: value for key, value in state_dict.items() if not _is_spare(key)}
    fit(net, {**computed, **kept}, model="remotesam")
    return net.eval().requires_grad_(False)


@contextmanager
def _reproducible(*, tf32: bool) -> Iterator[None]:
    """Kernels chosen by shape alone; with ``tf32`` a GPU rounds what it multiplies in float32 to 10 bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def padded(ids: Sequence[int], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Token ids cut to ``TOKENS`` and filled with 0, and the mask of the real ones: int64 ``(1, TOKENS)`` each."""
    ids = ids[:TOKENS]
    spare = [0] * (TOKENS - len(ids))
    return torch.tensor([[*ids, *spare]], device=device), torch.tensor([[1] * len(ids) + spare], device=device)


def standardised(pixels: Tensor) -> Tensor:
    """uint8 ``(B, 3, y, x)`` as the network wants it: float32, about zero mean and unit variance."""
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels.float() / 255.0 - mean) / std


def lean(net: Net, dtype: torch.dtype) -> Net:
    """The same network for answering only; ``net`` is used up.

    Batch norms of the decoder are multiplied into its convolutions, whose kernels are of ``dtype``; kernels lie
    channels-last.
    """
    decoder = net.classifier
    for step in decoder.STEPS:
        norm1, norm2 = (decoder.get_submodule(f"bn{at}_{step}") for at in (1, 2))
        assert isinstance(norm1, nn.BatchNorm2d)
        assert isinstance(norm2, nn.BatchNorm2d)
        plain, turning = (decoder.get_submodule(f"conv{at}_{step}") for at in (1, 2))
        assert isinstance(plain, nn.Conv2d)
        assert isinstance(turning, TurnedConv)
        setattr(decoder, f"conv1_{step}", RoundedConv(fuse_conv_bn_eval(plain, norm1), dtype))
        turning.absorb(norm2, dtype)
        setattr(decoder, f"bn1_{step}", nn.Identity())
        setattr(decoder, f"bn2_{step}", nn.Identity())
    for module in net.modules():
        if isinstance(module, Conv):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return net


def _is_spare(key: str) -> bool:
    return key.startswith("text_encoder.pooler.") or key.endswith("position_ids")


# ── the network ─────────────────────────────────────────────────────────────────────────────────────────────


class Pointwise(nn.Conv1d):
    """A 1×1 convolution over a sequence, which is a linear map of its tokens; only its weights have a third axis."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, n, c_in)`` to ``(B, n, c_out)``."""
        return F.linear(x, self.weight[..., 0], self.bias)


class Conv(nn.Conv2d):
    """Takes any float, computes in its weights' precision."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, c_in, y, x)`` to ``(B, c_out, y', x')``."""
        return super().forward(x.to(self.weight.dtype))


class Seen(NamedTuple):
    """What a stage makes of the picture before it hears the words."""

    tokens: Tensor
    """float32 ``(B, n, c)``: after the blocks, the receptive branch added."""

    vis: Tensor
    """float32 ``(B, n, c)``: what the words will be multiplied with."""

    query: Tensor
    """float32 ``(B, n, c)``: what the words will be asked."""


class Net(nn.Module):
    """RemoteSAM with its text encoder, under the checkpoint's names."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.backbone = Backbone(sizes)
        self.classifier = Decoder(sizes.channels)
        self.text_encoder = TextEncoder(sizes)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Two logits a pixel, background and foreground.

        Args:
            pixels: float32 ``(B, 3, y, x)``, standardised; y and x the image size or up to 3 less.
            ids: int64 ``(B, TOKENS)``, padded with 0.
            mask: int64 ``(B, TOKENS)``, 1 where a token is real.

        Returns:
            float32 ``(B, 2, y, x)``.

        Raises:
            ModelError: the pixels have another size.
        """
        height, width = pixels.shape[-2:]
        low = self.low(self.see(pixels), self.text_encoder(ids, mask), mask)
        return F.interpolate(low, size=(height, width), mode="bilinear", align_corners=True)

    def see(self, pixels: Tensor) -> Seen:
        """All that needs no words: patches, and stage 0 up to its fusion."""
        side = self.sizes.image_size
        if not all(side - 4 < actual <= side for actual in pixels.shape[-2:]):
            raise ModelError(
                f"remotesam was given pixels of shape {'×'.join(map(str, pixels.shape))}",
                fix=f"give (B, 3, {side}, {side}); it takes no other size",
            )
        return self.backbone.see(pixels)

    def answer(self, seen: Seen, words: Tensor, mask: Tensor) -> Tensor:
        """The foreground's logit less the background's ``(B, y, x)``, from what ``see`` and ``text_encoder`` gave."""
        side = self.sizes.image_size
        background, foreground = self.low(seen, words, mask).unbind(1)
        evidence = (foreground - background)[:, None]
        return F.interpolate(evidence, size=(side, side), mode="bilinear", align_corners=True)[:, 0]

    def low(self, seen: Seen, words: Tensor, mask: Tensor) -> Tensor:
        """The same at a quarter of the size."""
        logits: Tensor = self.classifier(*self.backbone(seen, words, mask))
        return logits


class Backbone(nn.Module):
    """Swin (Liu et al. 2021) whose stages listen to the words, then the exchange between scales."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sides = sizes.sides
        self.patch_embed = PatchEmbed(sizes.embed_dim)
        self.layers = nn.ModuleList(Stage(sizes, at) for at in range(4))
        self.norm0, self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(c) for c in sizes.channels)
        self.cim = CrossScale(sizes)

    def see(self, pixels: Tensor) -> Seen:
        """Up to the fusion of stage 0."""
        seen: Seen = self.layers[0].see(self.patch_embed(pixels))  # type: ignore[operator]
        return seen

    def forward(self, seen: Seen, words: Tensor, mask: Tensor) -> list[Tensor]:
        """Four maps ``(B, c, y, x)``, fine to coarse."""
        maps = []
        norms = (self.norm0, self.norm1, self.norm2, self.norm3)
        for at, (stage, norm, side) in enumerate(zip(self.layers, norms, self.sides, strict=True)):
            assert isinstance(stage, Stage)
            answer = stage.fusion(seen.vis, seen.query, words, mask)
            maps.append(torch.unflatten(norm(answer), 1, (side, side)).permute(0, 3, 1, 2))
            if at < 3:
                seen = self.layers[at + 1].see(stage.pass_on(seen, answer))  # type: ignore[operator]
        fused: list[Tensor] = self.cim(maps)
        return fused


class PatchEmbed(nn.Module):
    """Patches of 4×4 pixels as tokens."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.proj = Conv(3, c, 4, 4)
        self.norm = nn.LayerNorm(c)

    def forward(self, pixels: Tensor) -> Tensor:
        """``(B, 3, y, x)`` to ``(B, y/4*x/4, c)``, zeros at the right and the bottom if need be."""
        height, width = pixels.shape[-2:]
        whole = F.pad(pixels, (0, -width % 4, 0, -height % 4))
        tokens: Tensor = self.norm(self.proj(whole).flatten(2).transpose(1, 2))
        return tokens


class Stage(nn.Module):
    """Blocks that look, a fusion that listens, two gates that say how much of each goes on."""

    def __init__(self, sizes: Sizes, at: int) -> None:
        super().__init__()
        c, side = sizes.channels[at], sizes.sides[at]
        self.last = at == 3
        self.blocks = nn.ModuleList(
            Block(c, sizes.num_heads[at], side, sizes.window_size, shift=number % 2 * (sizes.window_size // 2))
            for number in range(sizes.depths[at])
        )
        self.fusion = Fusion(c, sizes.text_hidden)
        self.res_gate = _gate(c)
        self.visual_residual = Receptive(side)
        self.visual_gate = _gate(c)
        if not self.last:
            self.downsample = Merge(c, side)

    def see(self, tokens: Tensor) -> Seen:
        """``(B, n, c)`` looked at; in the last stage nothing goes on, so its gates and receptive branch rest."""
        for block in self.blocks:
            tokens = block(tokens)
        vis, query = self.fusion.ask(tokens)
        if not self.last:
            wide = self.visual_residual(tokens)
            tokens = tokens + torch.tanh(self.visual_gate(wide)) * wide
        return Seen(tokens, vis, query)

    def pass_on(self, seen: Seen, answer: Tensor) -> Tensor:
        """The next stage's tokens, a quarter as many of twice the width."""
        merged: Tensor = self.downsample(seen.tokens + torch.tanh(self.res_gate(answer)) * answer)
        return merged


class Block(nn.Module):
    """Attention within windows of the grid, then a perceptron, each beside a shortcut.

    Windows lie on the grid padded to whole windows and, every second block, rolled by half a window. Both are one
    gather: ``slots`` says which token sits where. A place without a token is what ``qkv`` makes of zeros: its bias.
    """

    slots: Tensor
    """int64 ``(window*place,)``: the token at each place of each window; 0 where there is none."""
    empty: Tensor
    """int64 ``(k,)``: the places without a token."""
    places: Tensor
    """int64 ``(n,)``: where each token sits."""
    apart: Tensor
    """float32 ``(kind, place, place)``: -100 between places that the roll made neighbours."""

    def __init__(self, c: int, heads: int, side: int, window: int, shift: int) -> None:
        super().__init__()
        self.side, self.window, self.shift = side, window, shift
        self.norm1 = nn.LayerNorm(c)
        self.attn = WindowAttention(c, heads, window)
        self.norm2 = nn.LayerNorm(c)
        self.mlp = Perceptron(c)
        self.counts: tuple[int, ...] = ()
        for name in ("slots", "empty", "places", "apart"):
            self.register_buffer(name, None, persistent=False)

    def lay_out(self) -> None:
        """Compute the tables that depend on sizes alone."""
        w, shift = self.window, self.shift
        whole = -(-self.side // w) * w
        token = torch.full((whole, whole), -1)
        token[: self.side, : self.side] = torch.arange(self.side**2).view(self.side, self.side)
        token = token.roll((-shift, -shift), (0, 1))
        part = torch.zeros(whole, dtype=torch.int64)  # along one axis: how the roll cut the grid
        if shift:
            part[-w:-shift], part[-shift:] = 1, 2
        label = part[:, None] * 3 + part
        windows, labels = (t.view(whole // w, w, whole // w, w).transpose(1, 2) for t in (token, label))
        # A roll marks only the last row and column of windows. Four kinds, each a run: inside, right, bottom, corner.
        kinds = [np.s_[:-1, :-1], np.s_[:-1, -1:], np.s_[-1:, :-1], np.s_[-1:, -1:]] if shift else [np.s_[:, :]]
        runs = [windows[kind].reshape(-1, w * w) for kind in kinds]
        marks = [labels[kind].reshape(-1, w * w)[:1] for kind in kinds]
        self.counts = tuple(len(run) for run in runs)
        slots = torch.cat(runs).flatten()
        self.slots = slots.clamp(min=0)
        self.empty = (slots < 0).nonzero()[:, 0]
        self.places = torch.argsort(torch.where(slots < 0, self.side**2, slots), stable=True)[: self.side**2]
        self.apart = torch.stack([torch.where(mark == mark.T, 0.0, -100.0) for mark in marks])
        self.attn.number_places()

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, ``(B, n, c)`` float32."""
        qkv = self.attn.qkv(self.norm1(x))
        qkv = qkv.index_select(1, self.slots)
        qkv[:, self.empty] = self.attn.qkv.bias
        seen = self.attn(torch.unflatten(qkv, 1, (-1, self.window**2)), self.counts, self.apart)
        x = x + self.attn.proj(seen.flatten(1, 2).index_select(1, self.places))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class Perceptron(nn.Module):
    """Four times as wide inside."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(c, 4 * c)
        self.fc2 = nn.Linear(4 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, ``(B, n, c)``."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class WindowAttention(nn.Module):
    """Each place of a window asks all others, with a bias by how far they lie apart."""

    relative_position_index: Tensor

    def __init__(self, c: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", torch.empty(window**2, window**2, dtype=torch.int64))
        self.qkv = nn.Linear(c, 3 * c)
        self.proj = nn.Linear(c, c)

    def number_places(self) -> None:
        """Row offset first, then column offset, both from ``1 - window`` up."""
        w = self.window
        row, column = (torch.arange(w**2) // w, torch.arange(w**2) % w)
        offset = (row[:, None] - row + w - 1) * (2 * w - 1) + (column[:, None] - column + w - 1)
        self.relative_position_index.copy_(offset)

    def forward(self, qkv: Tensor, counts: Sequence[int], apart: Tensor) -> Tensor:
        """``(B, window, place, 3*c)`` to ``(B, window, place, c)``; ``counts`` windows of each kind, in order."""
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # (head, place, place)
        batch, n = len(qkv), qkv.shape[2]
        answers = []
        for run, mask in zip(torch.split(qkv, list(counts), 1), apart, strict=True):
            q, k, v = run.reshape(-1, n, 3, self.heads, qkv.shape[-1] // 3 // self.heads).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=(bias + mask)[None])
            answers.append(seen.transpose(1, 2).reshape(batch, -1, n, qkv.shape[-1] // 3))
        return torch.cat(answers, 1) if len(answers) > 1 else answers[0]


class Merge(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, c: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.reduction = nn.Linear(4 * c, 2 * c, bias=False)
        self.norm = nn.LayerNorm(4 * c)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, n, c)`` to ``(B, n/4, 2*c)``."""
        odd = self.side % 2
        x = F.pad(torch.unflatten(tokens, 1, (self.side, self.side)), (0, 0, 0, odd, 0, odd))
        four = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(four, -1).flatten(1, 2)))
        return merged


def _gate(c: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(c, c, bias=False), nn.ReLU(), nn.Linear(c, c, bias=False))


class Receptive(nn.Module):
    """Tokens weighted by how the mean over their channels looks at two ranges."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.repblock = nn.ModuleDict()
        for suffix in ("", "_2"):
            self.repblock[f"brb_3x3{suffix}"] = _named(
                conv1=Conv(1, 1, 1, bias=False),
                bn1=nn.BatchNorm2d(1),
                conv2=Conv(1, 1, 3, padding=1, bias=False),
                bn2=nn.BatchNorm2d(1),
            )
            self.repblock[f"brb_1x1{suffix}"] = _named(conv=Conv(1, 1, 1, bias=False), bn=nn.BatchNorm2d(1))
            self.repblock[f"brb_identity{suffix}"] = nn.BatchNorm2d(1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Same shape, ``(B, n, c)``."""
        mean = torch.unflatten(tokens.mean(-1), 1, (1, self.side, self.side))  # (B, 1, y, x)
        weight = torch.sigmoid(self._look(F.relu(self._look(mean, "")), "_2"))
        return tokens * weight.flatten(1)[..., None]

    def _look(self, x: Tensor, suffix: str) -> Tensor:
        branches = (self.repblock[f"brb_{kind}{suffix}"](x) for kind in ("3x3", "1x1", "identity"))
        return torch.stack(list(branches)).sum(0)


def _named(**modules: nn.Module) -> nn.Sequential:
    chain = nn.Sequential()
    for name, module in modules.items():
        chain.add_module(name, module)
    return chain


class Fusion(nn.Module):
    """Pixels and words, multiplied: each pixel takes from the words what it asked for."""

    def __init__(self, c: int, text: int) -> None:
        super().__init__()
        self.vis_project = nn.Sequential(Pointwise(c, c))
        self.image_lang_att = WordAttention(c, text)
        self.project_mm = nn.Sequential(Pointwise(c, c))

    def ask(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The half that needs no words: ``(B, n, c)`` each."""
        return F.gelu(self.vis_project(tokens)), self.image_lang_att.query(tokens)

    def forward(self, vis: Tensor, query: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """``(B, n, c)`` from what ``ask`` gave, words ``(B, token, 768)`` and their mask ``(B, token)``."""
        y: Tensor = F.gelu(self.project_mm(vis * self.image_lang_att(query, words, mask)))
        return y


class WordAttention(nn.Module):
    """Each pixel's share in the words, standardised over the picture; one head, statistics per picture."""

    EPS = 1e-5

    def __init__(self, c: int, text: int) -> None:
        super().__init__()
        self.f_key = nn.Sequential(Pointwise(text, c))
        self.f_query = nn.Sequential(Pointwise(c, c))
        self.f_value = nn.Sequential(Pointwise(text, c))
        self.W = nn.Sequential(Pointwise(c, c))

    def query(self, tokens: Tensor) -> Tensor:
        """float32 ``(B, n, c)``: each channel with mean 0 and variance 1 over the picture."""
        asked: Tensor = self.f_query(tokens)
        variance, mean = torch.var_mean(asked, 1, correction=0, keepdim=True)
        return (asked - mean) * torch.rsqrt(variance + self.EPS)

    def forward(self, query: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """float32 ``(B, n, c)``.

        Shares times values, then a linear map, then each channel standardised over the picture: the map commutes with
        the shares, so it is applied to 20 words and not to n pixels; its bias leaves with the mean; and the variance
        of a channel follows from the covariance of the shares, 20 by 20.
        """
        real = mask[..., None].float()  # (B, token, 1)
        key, value = self.f_key(words) * real, self.f_value(words) * real  # (B, token, c)
        evidence = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5  # (B, n, token)
        share = (evidence + (10_000.0 * real - 10_000.0).transpose(1, 2)).softmax(-1)
        share = share - share.mean(1, keepdim=True)
        value = value @ self.get_parameter("W.0.weight")[..., 0].T
        covariance = share.transpose(1, 2) @ share / share.shape[1]  # (B, token, token)
        variance = (value * (covariance @ value)).sum(1, keepdim=True)  # (B, 1, c)
        standardised: Tensor = share @ (value * torch.rsqrt(variance + self.EPS))
        return standardised


class CrossScale(nn.Module):
    """The four maps meet on one small grid, and each takes home a factor and a summand."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.channels = sizes.channels
        total, width = sum(sizes.channels), sum(sizes.channels) // 4
        self.down_channel = Conv(total, width, 1)
        self.up_channel = Conv(width, total, 1)
        self.block = nn.ModuleList([ExchangeBlock(sizes)])
        self.bn = nn.BatchNorm2d(width)
        self.fusion = nn.ModuleList(Blend(c) for c in sizes.channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Same shapes, ``(B, c, y, x)`` fine to coarse."""
        grid = (maps[-1].shape[-2], maps[-1].shape[-1])
        pooled = torch.cat([F.adaptive_avg_pool2d(one, grid) for one in maps], 1)
        shared = self.up_channel(self.bn(self.block[0](self.down_channel(pooled))))
        parts = torch.split(shared, list(self.channels), 1)
        return [blend(one, part) for blend, one, part in zip(self.fusion, maps, parts, strict=True)]


class Blend(nn.Module):
    """A map, multiplied and added to by its part of the small grid."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.local_embedding = Conv(c, c, 1)
        self.bn1 = nn.BatchNorm2d(c)
        self.global_embedding = Conv(c, c, 1)
        self.bn2 = nn.BatchNorm2d(c)
        self.global_act = Conv(c, c, 1)
        self.bn3 = nn.BatchNorm2d(c)

    def forward(self, own: Tensor, shared: Tensor) -> Tensor:
        """``own``'s shape."""
        factor = F.hardsigmoid(self.bn3(self.global_act(shared)))
        summand = self.bn2(self.global_embedding(shared))
        factor, summand = (
            F.interpolate(t, size=own.shape[-2:], mode="bilinear", align_corners=False) for t in (factor, summand)
        )
        return torch.addcmul(summand, self.bn1(self.local_embedding(own)), factor)


class Residual(nn.Module):
    """A module beside a shortcut."""

    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        y: Tensor = x + self.m(x)
        return y


class ExchangeBlock(nn.Module):
    """Attention over the grid, each scale by itself, attention again, all scales together."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sum(sizes.channels) // 4
        self.csa1 = Residual(GridAttention(width, sizes.cim_grid))
        self.intra_ff = Residual(EachScale([c // 4 for c in sizes.channels]))
        self.csa2 = Residual(GridAttention(width, sizes.cim_grid))
        self.ff = Residual(FeedForward(width))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        y: Tensor = self.ff(self.csa2(self.intra_ff(self.csa1(x))))
        return y


class FeedForward(nn.Module):
    """Twice as wide inside, where each channel's pair looks around itself."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c)
        self.conv1 = Conv(c, 2 * c, 1)
        self.bn2 = nn.BatchNorm2d(2 * c)
        self.conv2 = Conv(2 * c, 2 * c, 3, padding=1, groups=c)
        self.conv3 = Conv(2 * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        y: Tensor = self.conv3(F.relu6(self.conv2(self.bn2(self.conv1(self.bn1(x))))))
        return y


class EachScale(nn.Module):
    """A ``FeedForward`` for each scale's share of the channels. Its caller adds the shortcut a second time."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.widths = widths
        for number, c in enumerate(widths, 1):
            self.add_module(f"ff{number}", Residual(FeedForward(c)))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        parts = zip(self.children(), torch.split(x, self.widths, 1), strict=True)
        return torch.cat([one(part) for one, part in parts], 1)


class GridAttention(nn.Module):
    """The grid asks itself and two coarser views of itself."""

    def __init__(self, c: int, grid: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c)
        self.DWConv1 = nn.Sequential(Conv(c, c, 3, 2, 1, groups=c), nn.BatchNorm2d(c))
        self.DWConv2 = nn.Sequential(Conv(c, c, 5, 3, 2, groups=c), nn.BatchNorm2d(c))
        self.attention = TokenAttention(c, grid)
        self.bn4 = nn.BatchNorm2d(c)
        self.conv = Conv(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, ``(B, c, y, x)``."""
        fine = self.bn1(x)
        views = (fine, self.DWConv1(fine), self.DWConv2(fine))
        tokens = torch.cat([view.flatten(2) for view in views], 2).transpose(1, 2)  # (B, token, c)
        answer = self.attention(tokens).transpose(1, 2).view(x.shape)  # (B, c, y, x)
        y: Tensor = self.conv(F.hardswish(self.bn4(answer)))
        return y


class TokenAttention(nn.Module):
    """Eight heads over all tokens; twice an array is read in another order than it was written, as it was trained."""

    HEADS, KEY, VALUE = 8, 32, 64

    def __init__(self, c: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        tokens = grid**2 + (-(-grid // 2)) ** 2 + (-(-grid // 3)) ** 2
        inner = self.HEADS * self.VALUE
        self.qkv = _named(c=nn.Linear(c, self.HEADS * (2 * self.KEY + self.VALUE), bias=False), bn=TokenNorm(1024))
        self.parallel_conv = nn.Sequential(nn.Hardswish(), Conv(inner, inner, 3, padding=1, groups=inner))
        self.to_out = nn.Linear(inner, c)
        self.proj = nn.Linear(tokens, grid**2)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, token, c)`` to ``(B, y*x, c)``: the tokens of the fine view."""
        batch, n, _ = tokens.shape
        heads = torch.unflatten(self.qkv(tokens), 2, (self.HEADS, -1)).transpose(1, 2)  # (B, head, token, 128)
        q, k, v = torch.split(heads, [self.KEY, self.KEY, self.VALUE], -1)
        # (B, head, y*x, value) in memory, read as (B, head*value, y, x)
        fine = v[:, :, : self.grid**2].reshape(batch, -1, self.grid, self.grid)
        around = self.parallel_conv(fine).flatten(2)  # (B, head*value, y*x)
        asked = F.scaled_dot_product_attention(q, k, v)
        # (B, token, head*value) in memory, read as (B, head*value, token)
        asked = asked.transpose(1, 2).reshape(batch, -1, n)
        answer: Tensor = self.to_out((self.proj(asked) + around).transpose(1, 2))
        return answer


class TokenNorm(nn.BatchNorm1d):
    """A batch norm over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, ``(B, token, c)``."""
        return super().forward(x.flatten(0, 1)).view(x.shape)


class Decoder(nn.Module):
    """Coarse to fine, each step a plain convolution and a turned one."""

    STEPS = (4, 3, 2)
    WIDTH = 512

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        width = channels[-1] // 2
        above = channels[-1]
        for step in self.STEPS:
            self.add_module(f"conv1_{step}", Conv(above + channels[step - 2], width, 3, padding=1, bias=False))
            self.add_module(f"conv2_{step}", TurnedConv(width))
            self.add_module(f"bn1_{step}", nn.BatchNorm2d(width))
            self.add_module(f"bn2_{step}", nn.BatchNorm2d(width))
            above = width
        self.conv1_1 = Conv(width, 2, 1)

    def forward(self, *maps: Tensor) -> Tensor:
        """Two logits ``(B, 2, y, x)`` at the size of the finest of four maps, fine to coarse."""
        *skips, x = maps
        for step, skip in zip(self.STEPS, reversed(skips), strict=True):
            conv1, conv2, bn1, bn2 = (self.get_submodule(f"{kind}_{step}") for kind in ("conv1", "conv2", "bn1", "bn2"))
            if x.shape[-2:] != skip.shape[-2:]:
                x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=True)
            x = F.relu_(bn1(conv1(torch.cat([x, skip.to(x.dtype)], 1))))
            x = F.relu_(bn2(conv2(x)))
        logits: Tensor = self.conv1_1(x)
        return logits


class RoundedConv(nn.Module):
    """A 3×3 convolution whose kernels are stored in another precision, made from one in float32."""

    weight: Tensor
    bias: Tensor
    lost: Tensor

    def __init__(self, whole: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        rounded = whole.weight.detach().to(dtype, memory_format=torch.channels_last)
        self.register_buffer("weight", rounded)
        self.register_buffer("bias", whole.bias)
        self.register_buffer("lost", lost(whole.weight.detach(), rounded))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, c_in, y, x)`` to ``(B, c_out, y, x)``."""
        if self.weight.dtype == torch.float32:
            return F.conv2d(x, self.weight, self.bias, padding=1)
        answers = [
            F.conv2d(one, self.weight, given_back(one, self.bias, self.lost), padding=1)
            for one in torch.split(x.to(self.weight.dtype), 1)
        ]
        return torch.cat(answers) if len(answers) > 1 else answers[0]


def lost(kernel: Tensor, rounded: Tensor) -> Tensor:
    """What rounding took from kernels ``(out, in, y, x)``, summed over their places: float32 ``(out, in)``."""
    return (kernel - rounded.float()).sum((2, 3))


def given_back(x: Tensor, bias: Tensor, lost: Tensor) -> Tensor:
    """The bias that makes up, for the mean of a picture ``(1, in, y, x)``, for what rounding took from the kernels.

    Rounded kernels shift a whole channel by their errors times the mean of what they see; with made-up weights that
    was a fifth of all that half precision changes in the logits, and all of its bias.
    """
    return (bias + lost @ x.mean((0, 2, 3), dtype=torch.float32)).to(x.dtype)


class TurnedConv(nn.Module):
    """A 3×3 convolution whose kernels the picture turns and weighs (Pu et al. 2023, adaptive rotated convolution)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, c, c, 3, 3))
        self.rounting_func = Routing(c)
        self.bias: Tensor | None = None
        self.dtype = torch.float32

    def absorb(self, norm: nn.BatchNorm2d, dtype: torch.dtype) -> None:
        """Compute in ``dtype`` from now on, and take over the batch norm that follows.

        Turned kernels are linear in the weight, so the norm's scale goes there.
        """
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        self.dtype = dtype
        self.rounting_func.dwc.to(dtype)
        scaled = self.weight[0] * scale.view(-1, 1, 1, 1)
        self.weight = nn.Parameter(scaled.contiguous(memory_format=torch.channels_last)[None], requires_grad=False)
        self.bias = nn.Parameter(norm.bias - mean * scale, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, ``(B, c, y, x)``; each picture with kernels of its own."""
        weight = self.weight[0].flatten(2).transpose(1, 2)  # (out, 9, in)
        answers = []
        for one, alpha, theta in zip(torch.split(x.to(self.dtype), 1), *self.rounting_func(x), strict=True):
            kernel = torch.unflatten(alpha * turned(theta) @ weight, 1, (3, 3)).permute(0, 3, 1, 2)
            rounded = kernel.to(self.dtype)
            bias = self.bias
            if bias is not None and rounded.dtype != kernel.dtype:
                bias = given_back(one, bias, lost(kernel, rounded))
            answers.append(F.conv2d(one, rounded, bias, padding=1))
        return torch.cat(answers) if len(answers) > 1 else answers[0]


class Routing(nn.Module):
    """How strong, and by which angle: one number each a picture."""

    LARGEST = math.radians(40)

    def __init__(self, c: int) -> None:
        super().__init__()
        self.dwc = Conv(c, c, 3, padding=1, groups=c, bias=False)
        self.norm = _named(norm=nn.LayerNorm(c))
        self.fc_alpha = nn.Linear(c, 1)
        self.fc_theta = nn.Linear(c, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and angle in radians from ``(B, c, y, x)``, each ``(B, 1)``."""
        around = self.dwc(x).permute(0, 2, 3, 1)  # (B, y, x, c)
        mean = F.relu_(self.norm(around)).mean((1, 2), dtype=torch.float32)  # (B, c)
        return torch.sigmoid(self.fc_alpha(mean)), F.softsign(self.fc_theta(mean)) * self.LARGEST


def turned(theta: Tensor) -> Tensor:
    """The matrix ``(9, 9)`` that turns a 3×3 kernel by an angle ``(1,)``: bilinear, nothing sought outside of it."""
    at = torch.arange(9, device=theta.device)
    across, down = (at % 3 - 1).float(), (at // 3 - 1).float()
    cos, sin = torch.cos(theta), torch.sin(theta)
    sought = torch.stack([across * cos - down * sin, across * sin + down * cos]).clamp(-1, 1)  # (2, 9)
    near = (1 - (sought[:, :, None] - torch.stack([across, down])[:, None]).abs()).clamp(min=0)  # (2, 9 to, 9 from)
    return near[0] * near[1]


class TextEncoder(nn.Module):
    """BERT (Devlin et al. 2018) without its pooler."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        c = sizes.text_hidden
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(sizes.text_vocabulary, c),
                "position_embeddings": nn.Embedding(sizes.text_positions, c),
                "token_type_embeddings": nn.Embedding(sizes.text_types, c),
                "LayerNorm": nn.LayerNorm(c, eps=sizes.text_eps),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(TextLayer(sizes) for _ in range(sizes.text_layers))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The last hidden state, float32 ``(B, token, 768)``, of int64 ids and mask ``(B, token)``."""
        word, position, kind, norm = self.embeddings.children()
        at = torch.arange(ids.shape[1], device=ids.device)
        x: Tensor = norm(word(ids) + position(at) + kind(torch.zeros_like(at)))
        hidden = ((1.0 - mask.float()) * -10_000.0)[:, None, None]  # (B, head, asking, asked)
        for layer in self.get_submodule("encoder.layer").children():
            x = layer(x, hidden)
        return x


class TextLayer(nn.Module):
    """Attention, then a perceptron, each added and then normalised."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        c, inner, eps = sizes.text_hidden, sizes.text_inner, sizes.text_eps
        self.heads = sizes.text_heads
        asking = _named(query=nn.Linear(c, c), key=nn.Linear(c, c), value=nn.Linear(c, c))
        self.attention = nn.ModuleDict({"self": asking, "output": _added(c, c, eps)})
        self.intermediate = _named(dense=nn.Linear(c, inner))
        self.output = _added(inner, c, eps)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Same shape, ``(B, token, c)``; ``hidden`` is added to each token's evidence for each other."""
        asking = self.get_submodule("attention.self").children()
        q, k, v = (torch.unflatten(one(x), 2, (self.heads, -1)).transpose(1, 2) for one in asking)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=hidden).transpose(1, 2).flatten(2)
        dense, norm = self.get_submodule("attention.output").children()
        x = norm(x + dense(seen))
        dense, norm = self.output.children()
        y: Tensor = norm(x + dense(F.gelu(self.intermediate(x))))
        return y


def _added(c_in: int, c_out: int, eps: float) -> nn.Sequential:
    """A linear map and the norm of its sum with what it is added to."""
    return _named(dense=nn.Linear(c_in, c_out), LayerNorm=nn.LayerNorm(c_out, eps=eps))
