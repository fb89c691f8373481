"""RSRefSeg: SigLIP tells SAM where the sentence points (Chen et al. 2025, arXiv 2501.06809).

    pixels ──┬─► SAM image encoder ─────────────────────────────────────────────┐
             └─► SigLIP vision ──► tokens V (27×27)                             ▼
                                      │  similarity, token by token and whole   mask decoder ──► logits /4
    sentence ──► SigLIP text ──► T, g ┘──► V filtered ──► 49 sparse prompts ────┤
                                      └──► similarity Z ──► dense prompt ───────┘

The filtered features are V times maps of one number a place, so the 1×1 convolution over them is done on V once a
window (``Net.image``) and a sentence only weighs its three outputs. What the sum over tokens needs of a sentence is
kept at a fixed length, so that all sentences cost the same and can be answered together.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamMaskEmbedding, SamVisionEncoder

from mapper.models.card import Card
from mapper.models.lora import Layout, load_published, published_shapes
from mapper.models.twin import (
    Apart,
    SiglipText,
    SiglipVision,
    Twin,
    attending,
    built,
    check_inputs,
    check_vocabulary,
    grid_code,
    narrow,
    resized,
    sam_input,
    siglip_configs,
    siglip_input,
    stored_weights,
)
from mapper.segmenter import Precision

WINDOW_PX = 1024

CARD = Card(
    name="rsrefseg",
    title="RSRefSeg: SigLIP and SAM, for checkpoints you trained yourself",
    paper="https://arxiv.org/abs/2501.06809",
    source="no trained checkpoint is published; the code to train one is at https://github.com/KyanChen/RSRefSeg",
    tokenizer="google/siglip-so400m-patch14-384",
    terms="Nobody has published trained weights: those you train are yours, under the licences of your data and of "
    "SAM and SigLIP (Apache-2.0).",
    prompts="A sentence that names one thing and where it is, as in RRSIS-D: the large baseball field on the left. "
    "Case and punctuation are not read.",
)

_SAM = {
    "base": (768, 12, 12, [2, 5, 8, 11]),
    "large": (1024, 24, 16, [5, 11, 17, 23]),
    "huge": (1280, 32, 16, [7, 15, 23, 31]),
}
"""Width, layers, heads, and the layers that see the whole picture."""

_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}


def config(sam: str = "base") -> dict[str, Any]:
    """The configuration with SAM ``base``, ``large`` or ``huge``, and SigLIP so400m at 384 pixels."""
    width, layers, heads, wide = _SAM[sam]
    return {
        "sam": {
            "vision": {
                "hidden_size": width, "mlp_dim": 4 * width, "num_hidden_layers": layers, "num_attention_heads": heads,
                "global_attn_indexes": wide,
            },
            "prompt": {"hidden_size": 256},
            "decoder": {"hidden_size": 256, "mlp_dim": 2048, "num_attention_heads": 8, "iou_head_hidden_dim": 256},
        },
        "clip": {
            "text": {**_SO400M, "vocab_size": 32000, "max_position_embeddings": 64},
            "vision": {**_SO400M, "image_size": 384, "patch_size": 14},
        },
        "lora": {"r": 16, "alpha": 16},
        "down_spatial_times": 2,
        "with_dense_feat": True,
    }  # fmt: skip


class Image(NamedTuple):
    """What a window is, whatever is asked of it."""

    directions: Tensor
    """V at length one: ``(n, place, c)``."""

    parts: Tensor
    """The 1×1 convolution's answer to V where it takes the local, the global and the plain features:
    ``(n, 3, sam_c, place)``."""

    sam: Tensor
    """SAM's features: ``(n, sam_c, y, x)``."""


class Text(NamedTuple):
    """What a sentence asks, wherever it is asked."""

    tokens: Tensor
    """T at length one, zeros after the end: ``(n, longest, c)``."""

    shares: Tensor
    """What each token counts in their mean, zero after the end: ``(n, longest)``."""

    whole: Tensor
    """g at length one: ``(n, c)``."""


class RsRefSeg(Twin):
    """A ``Segmenter`` of SigLIP and SAM."""

    name = "rsrefseg"

    def written(self, expression: str) -> str:
        """As SigLIP's tokenizer has it: lower case, no ASCII punctuation, single spaces."""
        plain = expression.lower().translate(str.maketrans("", "", string.punctuation))
        return re.sub(r"\s+", " ", plain).strip()


def load(weights: Path | None = None, *, device: str = "cpu", precision: Precision = "fp32") -> RsRefSeg:
    """The model, ready to answer.

    Args:
        weights: a weights file with a tokenizer in it, see ``mapper.models.weights``.
        device: as torch names it.
        precision: bf16 is used in SigLIP's image encoder and SAM's MLPs; sentences, prompts and masks stay float32.

    Raises:
        ModelError: the file is missing, damaged or another model's, or has no tokenizer.
    """
    stored, tokenizer = stored_weights(
        "rsrefseg",
        weights,
        precision=precision,
        missing="nobody has published any; train your own and convert them: resmap models show rsrefseg",
    )
    net = from_upstream(stored.tensors, stored.config)
    check_vocabulary(net, tokenizer, model="rsrefseg")
    return RsRefSeg(net, tokenizer, fingerprint=f"{stored.sha256}/{precision}", device=device, precision=precision)


def from_upstream(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Net:
    """The bare network of a checkpoint, adapters merged, in float32.

    Args:
        state_dict: the checkpoint's tensors under their own names, of any floating dtype. Those that need no
            change are shared.
        config: sizes of the network, see ``config()``; None is SAM base with SigLIP so400m.

    Raises:
        ModelError: a key is missing, unknown or of another shape.
    """
    sizes = _config() if config is None else config
    parts = built("rsrefseg", lambda: _Parts(sizes))
    load_published(parts, state_dict, _layout(sizes), model="rsrefseg")
    return Net(cast(_Parts, parts), sizes)


def upstream_shapes(config: Mapping[str, Any] | None = None) -> dict[str, tuple[int, ...]]:
    """Every tensor a checkpoint of these sizes has, by its published name."""
    sizes = _config() if config is None else config
    return published_shapes(built("rsrefseg", lambda: _Parts(sizes)), _layout(sizes))


_config = config  # the name is also that of an argument


class Net(nn.Module):
    """The network, made of loaded parts."""

    image_px: int
    longest: int
    """Tokens a sentence may have."""
    vocabulary: int
    image_code: Tensor
    token_code: Tensor

    def __init__(self, parts: _Parts, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        self.image_px = int(sizes["sam"]["vision"].get("image_size", WINDOW_PX))
        self.longest, self.vocabulary = parts.text.longest, parts.text.vocabulary
        parts.vision.head = None  # pools V into one vector, which nothing asks for
        self.vision, self.text_tower, self.sam = parts.vision, parts.text, Sam(parts.sam)
        self.logit_scale, self.logit_bias = parts.logit_scale, parts.logit_bias
        first = fuse_conv_bn_eval(parts.down_channel.conv, parts.down_channel.bn)
        # (sam_c, 3·c, 1, 1) to (3, sam_c, c)
        self.weigh = nn.Parameter(first.weight.view(len(first.weight), 3, -1).transpose(0, 1).contiguous())
        self.weigh_bias = nn.Parameter(cast(Tensor, first.bias))
        self.down = nn.ModuleList(
            fuse_conv_bn_eval(step.conv, step.bn) if isinstance(step, _ConvNorm) else step.conv
            for step in cast(Sequence[_ConvNorm | _Conv], list(parts.down_spatial))
        )
        self.mask_embed, self.no_mask, self.decoder = parts.mask_embed, parts.no_mask, parts.decoder
        self.dense_from_mask = bool(sizes["with_dense_feat"])
        self.register_buffer("image_code", grid_code(parts.frequencies, self.sam.grid))
        self.register_buffer("token_code", grid_code(parts.frequencies, self.vision.grid))
        self.requires_grad_(False).eval()

    def forward(self, pixels: Tensor, ids: Tensor, ori_hw: tuple[int, int] | None = None) -> Tensor:
        """Logits of one sentence for each picture.

        Args:
            pixels: ``(n, 3, image_px, image_px)``, 0 to 1: red, green, blue.
            ids: ``(n, token)``, pads included: the network reads them as words.
            ori_hw: height and width of the answer; None is the network's own.

        Returns:
            float32 ``(n, 1, y, x)``.

        Raises:
            ModelError: pixels or ids of another shape.
        """
        check_inputs("rsrefseg", pixels, ids, side_px=self.image_px, longest=self.longest)
        return resized(self.answer(self.image(pixels), self.text(ids)), self.image_px, ori_hw)

    def image(self, pixels: Tensor) -> Image:
        """What a window is, whatever is asked of it; pixels 0–1 ``(n, 3, y, x)``."""
        seen = self.vision(siglip_input(pixels, self.vision.image_px))
        parts = self.weigh @ seen.transpose(1, 2)[:, None]  # (n, 3, sam_c, place)
        return Image(directions=seen / seen.norm(dim=-1, keepdim=True), parts=parts, sam=self.sam(sam_input(pixels)))

    def text(self, ids: Tensor) -> Text:
        """What a sentence asks, wherever it is asked; token ids ``(n, token)``."""
        tokens, whole = self.text_tower(ids)
        spare = self.longest - ids.shape[1]
        return Text(
            tokens=F.pad(tokens / tokens.norm(dim=-1, keepdim=True), (0, 0, 0, spare)),
            shares=F.pad(tokens.new_full(ids.shape, 1 / ids.shape[1]), (0, spare)),
            whole=whole / whole.norm(dim=-1, keepdim=True),
        )

    def answer(self, image: Image, text: Text) -> Tensor:
        """float32 logits ``(pair, 1, y, x)`` at a quarter of the size."""
        likeness = self.likeness(image, text)
        sparse = self.sparse(self.fused(image, text, *likeness))
        return self.decoded(image.sam, sparse, self.dense(likeness[1]))[0]

    def likeness(self, image: Image, text: Text) -> tuple[Tensor, Tensor]:
        """How alike places are to each token ``(n, longest, place)``, 0–1, and to the whole, a logit ``(n, place)``."""
        scale, bias = self.logit_scale.exp(), self.logit_bias
        by_token = torch.sigmoid(scale * (text.tokens @ image.directions.transpose(1, 2)) + bias)
        whole = scale * (image.directions @ text.whole[..., None])[..., 0] + bias
        return by_token, whole

    def fused(self, image: Image, text: Text, by_token: Tensor, whole: Tensor) -> Tensor:
        """V filtered by what the sentence says of it, in SAM's width: ``(n, sam_c, y, x)``.

        Of the paper's three features two are V times a number a place, (1 + a)/2 and sigmoid Z, and the third is V.
        """
        local = (1 + (text.shares[:, None] @ by_token)) / 2  # (n, 1, place)
        of_local, of_whole, plain = image.parts.unbind(1)
        mixed = of_local * local + of_whole * torch.sigmoid(whole)[:, None] + plain + self.weigh_bias[:, None]
        return self._gridded(F.gelu(mixed))

    def sparse(self, fused: Tensor) -> Tensor:
        """Prompts for the decoder, one for each of a few places: ``(n, sam_c, y, x)``."""
        prompts = fused + self.token_code
        for step in self.down[:-1]:
            prompts = F.gelu(step(prompts))
        last: Tensor = self.down[-1](prompts)
        return last

    def dense(self, whole: Tensor) -> Tensor:
        """A prompt for each of SAM's places ``(n, sam_c, y, x)``, from the likeness of the whole, ``(n, place)``."""
        if not self.dense_from_mask:
            return self.no_mask.weight[..., None, None].expand(len(whole), -1, self.sam.grid, self.sam.grid)
        embedded: Tensor = self.mask_embed(self.mask_prompt(whole))
        return embedded

    def mask_prompt(self, whole: Tensor) -> Tensor:
        """The likeness as a mask ``(n, 1, y, x)`` of SAM's size: logits."""
        side = 4 * self.sam.grid
        return F.interpolate(self._gridded(whole[:, None]), (side, side), mode="bilinear", align_corners=False)

    def decoded(self, features: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(n, 1, y, x)`` and the IoU the decoder expects of them ``(n, 1)``."""
        masks, iou = self.decoder(
            image_embeddings=features,
            image_positional_embeddings=self.image_code.expand(len(features), -1, -1, -1),
            sparse_prompt_embeddings=sparse.flatten(2).transpose(1, 2)[:, None],  # (n, 1, prompt, c)
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )[:2]
        return masks[:, 0], iou[:, 0]

    def _gridded(self, places: Tensor) -> Tensor:
        """``(n, c, place)`` as ``(n, c, y, x)``."""
        return places.view(*places.shape[:2], self.vision.grid, self.vision.grid)

    def narrow(self, dtype: torch.dtype) -> None:
        """Multiply in this dtype in SigLIP's layers and SAM's MLPs.

        SAM's attention stays float32: with it the masks of the tiny configuration agreed to 0.993 only (made-up
        weights, real pictures), without it to 0.996.
        """
        narrow(self.vision.encoder, dtype)
        for layer in self.sam.layers:
            narrow(cast(nn.Module, layer.mlp), dtype)

    def encoders(self) -> tuple[nn.Module, nn.Module]:
        """The two image encoders."""
        return self.vision, self.sam


class Sam(nn.Module):
    """SAM's image encoder (Kirillov et al. 2023)."""

    def __init__(self, encoder: SamVisionEncoder) -> None:
        super().__init__()
        self.patches, self.layers, self.neck = encoder.patch_embed, encoder.layers, encoder.neck
        for layer in self.layers:
            layer.mlp = Apart(cast(nn.Module, layer.mlp))
        self.places = cast(nn.Parameter, encoder.pos_embed)  # (1, y, x, c)
        self.grid = self.places.shape[1]

    def forward(self, pixels: Tensor) -> Tensor:
        """``(n, 3, y, x)`` as ``sam_input`` gives it, to float32 features ``(n, c, y/16, x/16)``."""
        tokens = self.patches(pixels) + self.places  # (n, y, x, c)
        for layer in self.layers:
            tokens = layer(tokens)
        features: Tensor = self.neck(tokens)
        return features


class _Conv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)


class _ConvNorm(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)


class _Parts(nn.Module):
    """All that a checkpoint holds and the network may use, in the checkpoint's order."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        sam, (vision, text) = sizes["sam"], siglip_configs(sizes["clip"])
        vision_config = attending(SamVisionConfig, **sam["vision"])
        decoder_config = attending(SamMaskDecoderConfig, **sam["decoder"])
        width = decoder_config.hidden_size
        self.sam = SamVisionEncoder(vision_config)
        self.frequencies = nn.Parameter(torch.empty(2, vision_config.num_pos_feats))
        self.vision = SiglipVision(vision)
        self.logit_scale = nn.Parameter(torch.empty(1))
        self.logit_bias = nn.Parameter(torch.empty(1))
        self.text = SiglipText(text)
        self.mask_embed = SamMaskEmbedding(SamPromptEncoderConfig(**sam["prompt"]))
        self.no_mask = nn.Embedding(1, width)
        self.decoder = SamMaskDecoder(decoder_config)
        self.down_channel = _ConvNorm(3 * vision.hidden_size, width, 1, 1)
        steps = [_ConvNorm(width, width, 3, 2) for _ in range(sizes["down_spatial_times"])]
        self.down_spatial = nn.Sequential(*steps, _Conv(width))


def _layout(sizes: Mapping[str, Any]) -> Layout:
    inner = "base_model.model."
    prompts, width = "sam_prompt_encoder.model.", sizes["sam"]["decoder"]["hidden_size"]
    points = [f"point_embed.{n}" for n in range(4)]
    return Layout(
        renames=(
            (r"^sam\.", f"backbone.{inner}model."),
            (r"^frequencies$", f"backbone.{inner}shared_image_embedding.positional_embedding"),
            (r"^vision\.", f"clip_vision_encoder.{inner}model."),
            (r"^(logit_\w+)$", rf"clip_text_encoder.{inner}\1"),
            (r"^text\.", f"clip_text_encoder.{inner}model."),
            (r"^mask_embed\.", f"{prompts}mask_embed."),
            (r"^no_mask\.", f"{prompts}no_mask_embed."),
            (r"^decoder\.", "sam_mask_decoder.model."),
            (r"^down_", "prompter_down_"),
        ),
        adapted=re.compile(
            r"^sam\..*\.(qkv|proj|lin1|lin2)$|^sam\.neck\.conv[12]$"
            r"|^vision\..*\.(q|k|v|out)_proj$|^text\.encoder\..*\.(q|k|v|out)_proj$|^text\.head$"
        ),
        rank=int(sizes["lora"]["r"]),
        alpha=float(sizes["lora"]["alpha"]),
        unused={
            **{f"{prompts}{name}.weight": (1, width) for name in (*points, "not_a_point_embed")},
            f"{prompts}shared_embedding.positional_embedding": (2, width // 2),
        },
    )
