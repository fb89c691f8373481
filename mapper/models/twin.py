"""What RSRefSeg and RSRefSeg 2 have in common: SigLIP beside SAM, and a segmenter that looks at a window once.

    pixels ──► image part, most of the work, once a window ──┐
                                                             ├──► prompt part, once a window and sentence ──► logits
    sentence ──► text part, once a run ──────────────────────┘

Both models put everything that does not depend on the sentence into the image part and everything that does not
depend on the pixels into the text part, by algebra that changes no answer; the model's file says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.siglip.configuration_siglip import SiglipTextConfig, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipMultiheadAttentionPoolingHead

from mapper.errors import ModelError
from mapper.models.launched import launched
from mapper.models.weights import Weights, read_weights
from mapper.segmenter import Logits, Precision

EOS = 1
"""The end of a sentence, in SigLIP's tokenizer and in Gemma's, which SigLIP 2 uses."""

PAIRS_AT_ONCE = 16
"""Windows times prompts that a GPU answers together: the decoder holds about 60 MB for each."""

_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}

Config = TypeVar("Config")

Features: TypeAlias = Any
"""A named tuple of tensors, each with the window, or the sentence, as first axis."""


class SiglipVision(nn.Module):
    """SigLIP's image tower (Zhai et al. 2023), with the pooling head its checkpoints have."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, cast(int, config.patch_size)
        self.image_px = cast(int, config.image_size)
        self.grid = self.image_px // patch  # pixels that fill no patch are not looked at
        self.embeddings = _Patches(width, patch, self.grid)
        self.encoder = SiglipEncoder(cast(Any, config))
        self.post_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head: nn.Module | None = SiglipMultiheadAttentionPoolingHead(config)

    def forward(self, pixels: Tensor) -> Tensor:
        """``(n, 3, y, x)`` as ``siglip_input`` gives it, to float32 tokens ``(n, y*x, c)``, row by row."""
        tokens = self.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        with narrowed(self.encoder):
            tokens = self.encoder(tokens + self.embeddings.position_embedding.weight, None).last_hidden_state
        seen: Tensor = self.post_layernorm(tokens)
        return seen


class SiglipText(nn.Module):
    """SigLIP's text tower: no mask, so a pad counts as a word like any other."""

    def __init__(self, config: SiglipTextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.longest, self.vocabulary = config.max_position_embeddings, config.vocab_size
        self.embeddings = _Words(width, self.vocabulary, self.longest)
        self.encoder = SiglipEncoder(cast(Any, config))
        self.final_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head = nn.Linear(width, cast(int, config.projection_size))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids ``(n, token)`` to tokens ``(n, token, c)`` and, from the last of them, sentences ``(n, c)``."""
        tokens = self.embeddings.token_embedding(ids) + self.embeddings.position_embedding.weight[: ids.shape[1]]
        read: Tensor = self.final_layer_norm(self.encoder(tokens, None).last_hidden_state)
        return read, self.head(read[:, -1])


class _Patches(nn.Module):
    def __init__(self, width: int, patch: int, grid: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch)
        self.position_embedding = nn.Embedding(grid**2, width)


class _Words(nn.Module):
    def __init__(self, width: int, vocabulary: int, longest: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(longest, width)


def narrow(layers: nn.Module, dtype: torch.dtype) -> None:
    """Keep the matrices of these layers in a dtype; ``narrowed`` then computes with them."""
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            module.to(dtype)


def narrowed(layers: nn.Module) -> torch.autocast:
    """A context in which layers multiply in the dtype of their matrices, and add and normalise in float32.

    Sums that run through all layers lose no bits to bf16, at the price of some memory traffic.
    """
    matrix = next(module.weight for module in layers.modules() if isinstance(module, nn.Linear))
    narrow = matrix.dtype != torch.float32
    return torch.autocast(matrix.device.type, dtype=torch.bfloat16, enabled=narrow)


class Apart(nn.Module):
    """Layers that may be narrower than what goes in and comes out."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """What the layers make of it, in the dtype of ``x``."""
        with narrowed(self.layers):
            y: Tensor = self.layers(x)
        return y.to(x.dtype)


def attending(config: type[Config], **sizes: Any) -> Config:
    """A configuration of transformers' whose network attends by torch's own fused attention."""
    made: Config = cast(Any, config)(**sizes, attn_implementation="sdpa")
    return made


def siglip_configs(clip: Mapping[str, Any]) -> tuple[SiglipVisionConfig, SiglipTextConfig]:
    """Of the two towers, from the ``clip`` part of a model's configuration."""
    return (
        attending(SiglipVisionConfig, **clip["vision"]),
        attending(SiglipTextConfig, **clip["text"], bos_token_id=None, eos_token_id=EOS),
    )


def siglip_input(pixels: Tensor, side_px: int) -> Tensor:
    """Pixels 0–1 as SigLIP saw them in training: -1 to 1, and resized without smoothing."""
    return F.interpolate(pixels * 2 - 1, (side_px, side_px), mode="bilinear", align_corners=False)


def sam_input(pixels: Tensor) -> Tensor:
    """Pixels 0–1 about zero mean and unit variance, by ImageNet's figures."""
    mean, deviation = pixels.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    standardised: Tensor = (pixels - mean) / deviation
    return standardised


def grid_code(frequencies: Tensor, side: int) -> Tensor:
    """SAM's code of places: ``(1, c, side, side)`` from random frequencies ``(2, c/2)`` (Tancik et al. 2020)."""
    centres = (torch.arange(side, dtype=frequencies.dtype, device=frequencies.device) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    phase = 2 * math.pi * (torch.stack([x, y], -1) @ frequencies)  # (y, x, c/2)
    return torch.cat([phase.sin(), phase.cos()], -1).permute(2, 0, 1)[None]


def resized(logits: Tensor, side_px: int, ori_hw: tuple[int, int] | None) -> Tensor:
    """Logits at the network's size and, where asked, from there at that of the picture: two steps, as in training."""
    at_network = F.interpolate(logits, (side_px, side_px), mode="bilinear", align_corners=False)
    if ori_hw is None or tuple(ori_hw) == (side_px, side_px):
        return at_network
    return F.interpolate(at_network, tuple(ori_hw), mode="bilinear", align_corners=False)


def check_inputs(model: str, pixels: Tensor, ids: Tensor, *, side_px: int, longest: int) -> None:
    """Nothing, where a network can take these.

    Raises:
        ModelError: pixels or ids have another shape than it was made for.
    """
    if pixels.ndim != 4 or pixels.shape[1:] != (3, side_px, side_px):
        raise ModelError(
            f"{model} was given pixels of shape {'×'.join(map(str, pixels.shape))}",
            fix=f"give (n, 3, {side_px}, {side_px}), 0 to 1: red, green, blue",
        )
    if ids.ndim != 2 or len(ids) != len(pixels) or not 1 <= ids.shape[1] <= longest:
        raise ModelError(
            f"{model} was given token ids of shape {'×'.join(map(str, ids.shape))} for {len(pixels)} pictures",
            fix=f"give one row of 1 to {longest} ids for each picture",
        )


class Net(Protocol):
    """A network in three parts; ``answer`` takes as many windows as sentences, pair by pair."""

    image_px: int
    longest: int
    vocabulary: int

    def image(self, pixels: Tensor) -> Features:
        """All that does not depend on a sentence, from pixels 0–1 ``(n, 3, y, x)``."""

    def text(self, ids: Tensor) -> Features:
        """All that does not depend on pixels, from token ids ``(n, token)``."""

    def answer(self, image: Any, text: Any) -> Tensor:
        """float32 logits ``(pair, 1, y, x)``, smaller than the pixels."""

    def narrow(self, dtype: torch.dtype) -> None:
        """Compute in this dtype wherever it pays and does no harm."""

    def encoders(self) -> Sequence[nn.Module]:
        """The modules of the image part that are worth compiling."""

    def to(self, device: str) -> Any:
        """On that device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences:
    """Sentences as a model understands them; they depend on no picture."""

    expressions: tuple[str, ...]
    features: tuple[Features, ...]
    """Of each, with a first axis of one."""


class Twin:
    """A ``Segmenter`` of a network in three parts: each window is looked at once, each sentence read once."""

    name: ClassVar[str]
    band_names = ("red", "green", "blue")

    def __init__(self, net: Net, tokenizer: Tokenizer, *, fingerprint: str, device: str, precision: Precision) -> None:
        self.fingerprint = fingerprint
        self.device = device
        self.window_px = net.image_px
        net.narrow(_DTYPES[precision])
        net.to(device)
        self._net = net
        self._tokenizer = tokenizer
        self._known: dict[str, Features] = {}

    def written(self, expression: str) -> str:
        """The sentence as the tokenizer is to see it."""
        raise NotImplementedError

    def encode_text(self, expressions: Sequence[str]) -> Sentences:
        """The sentences as the model understands them, each read alone and unpadded, in float32.

        Those of the call before are remembered. Of a sentence of more tokens than the model has places for (64), the
        first 63 are read and the end of the sentence.

        Raises:
            ModelError: a sentence has no words.
        """
        self._known = {one: self._known.get(one) or self._read(one) for one in dict.fromkeys(expressions)}
        return Sentences(expressions=tuple(expressions), features=tuple(self._known[one] for one in expressions))

    def logits(self, pixels: NDArray[np.uint8], text: Sentences) -> Logits:
        """Evidence for each sentence at each pixel.

        Args:
            pixels: uint8 ``(window, 3, y, x)`` red, green, blue; y and x are ``window_px``.
            text: what ``encode_text`` gave.

        Returns:
            float32 ``(window, prompt, y, x)``.

        Raises:
            ModelError: the pixels have another shape or dtype.
        """
        return self.begin(pixels, text)()

    def begin(self, pixels: NDArray[np.uint8], text: Sentences) -> Callable[[], Logits]:
        """Start on windows; what it gives waits for the ``logits`` of them. Arguments and errors as there."""
        self._check_pixels(pixels)
        out = np.empty((len(pixels), len(text.features), self.window_px, self.window_px), np.float32)
        if out.size == 0:
            return lambda: out
        answer = partial(self._answer, text)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            if self.device != "cpu":
                return launched(answer, pixels, self.device)
            # One by one: which kernel is chosen, and so the last bit, must not depend on the company.
            for at in range(len(pixels)):
                out[at : at + 1] = launched(answer, pixels[at : at + 1], self.device)()
            return lambda: out

    def _answer(self, text: Sentences, pixels: Tensor) -> Tensor:
        """float32 ``(window, prompt, y, x)`` of uint8 ``(window, 3, y, x)`` on the device."""
        image = self._net.image(pixels.float() / 255)
        out = pixels.new_empty((len(pixels), len(text.features), *pixels.shape[2:]), dtype=torch.float32)
        pairs = [(window, prompt) for window in range(len(pixels)) for prompt in range(len(text.features))]
        at_once = 1 if self.device == "cpu" else PAIRS_AT_ONCE
        for some in (pairs[start : start + at_once] for start in range(0, len(pairs), at_once)):
            full = [*some, *[some[-1]] * (at_once - len(some))]  # one shape, so that one kernel answers all
            at_window = resized(self._net.answer(*_paired(image, text.features, full)), self.window_px, None)[:, 0]
            for (window, prompt), logits in zip(some, at_window, strict=False):
                out[window, prompt] = logits
        return out

    def compile(self) -> None:
        """Compile the image encoders at their next use: minutes once, less time for each window after."""
        for module in self._net.encoders():
            module.compile(dynamic=False)
        self.fingerprint = f"{self.fingerprint}/compiled"

    def _read(self, expression: str) -> Features:
        ids = ended_ids(self._tokenizer, self.written(expression), longest=self._net.longest)
        if ids == [EOS]:
            raise ModelError(f"{self.name} finds no words in {expression!r}", fix="say what to look for in a sentence")
        with torch.inference_mode():
            return self._net.text(torch.tensor([ids], device=self.device))

    def _check_pixels(self, pixels: NDArray[np.uint8]) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (3, self.window_px, self.window_px):
            raise ModelError(
                f"{self.name} was given {pixels.dtype} pixels of shape {'×'.join(map(str, pixels.shape))}",
                fix=f"give uint8 (window, 3, {self.window_px}, {self.window_px}): red, green, blue",
            )


def ended_ids(tokenizer: Tokenizer, sentence: str, *, longest: int) -> list[int]:
    """A sentence as token ids that end in ``EOS``, unpadded.

    Of more than ``longest`` the last go, and the end of the sentence stays: the model pools what stands last.
    """
    ids = list(tokenizer.encode(sentence).ids)
    ids = ids[:-1] if ids[-1:] == [EOS] else ids
    return [*ids[: longest - 1], EOS]


def stored_weights(model: str, path: Path | None, *, precision: str, missing: str) -> tuple[Weights, Tokenizer]:
    """The weights file of a model, and the tokenizer in it.

    Args:
        missing: what to do where no weights were given; they never ship.

    Raises:
        ModelError: there is no file, it is another model's or has no tokenizer, or there is no such precision.
    """
    if precision not in _DTYPES:
        raise ModelError(f"{model} has no precision {precision!r}", fix=f"use one of {', '.join(_DTYPES)}")
    if path is None:
        raise ModelError(f"the weights of {model} do not ship with resmap", fix=missing)
    stored = read_weights(path, model=model)
    if stored.tokenizer is None:
        raise ModelError(
            "the weights file has no tokenizer, so no sentence can be read",
            fix=f"convert the checkpoint again, with its tokenizer: resmap models show {model}",
            weights=path,
        )
    return stored, stored.tokenizer


def check_vocabulary(net: Net, tokenizer: Tokenizer, *, model: str) -> None:
    """Nothing, where the network has a word for every id of the tokenizer.

    Raises:
        ModelError: it has fewer.
    """
    if tokenizer.get_vocab_size() > net.vocabulary:
        raise ModelError(
            f"the tokenizer knows {tokenizer.get_vocab_size()} tokens, the network {net.vocabulary}",
            fix=f"convert the checkpoint again, with the tokenizer of {model}",
        )


def built(model: str, make: Callable[[], nn.Module]) -> nn.Module:
    """What ``make`` makes of a configuration, on the meta device: sizes without memory.

    Raises:
        ModelError: the configuration lacks an entry, or makes no network.
    """
    try:
        with torch.device("meta"):
            return make().eval()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"this configuration makes no {model}",
            fix="give that of the checkpoint, or None for the published size",
            reason=f"{type(error).__name__}: {error}"[:200],
        ) from error


def _paired(image: Features, text: tuple[Features, ...], pairs: Sequence[tuple[int, int]]) -> tuple[Features, Features]:
    """Features of each window and of each sentence of the pairs, in their order."""
    at = torch.tensor([window for window, _ in pairs], device=image[0].device)
    sentences = [text[prompt] for _, prompt in pairs]
    seen = type(image)(*(part[at] for part in image))
    return seen, type(text[0])(*(torch.cat(part) for part in zip(*sentences, strict=True)))
