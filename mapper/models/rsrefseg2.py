"""RSRefSeg 2: SigLIP 2 finds in two steps what the sentence means, SAM 2 draws it (Chen et al. 2025, arXiv 2507.06231).

    pixels ──┬─► SAM 2 image encoder (Hiera) ──────────────────────────────────────────────────────┐
             └─► SigLIP 2 vision ──► tokens I (32×32)                                              ▼
                                        │                                                     mask decoder ──► logits /4
    sentence ──► SigLIP 2 text ──► T, g │                                                          │
                  │  two sets of three queries, Q1 and Q2                                          │
                  ├─► Q1 ──► I asks Q1, twice ──► I                                                │
                  ├─► Q2 ──► I asks Q2, twice ──► I ◄── nine prompts ask Q2 and I ──► sparse ──────┤
                  └─► g ───► likeness of I, convolved, to g ──► dense ─────────────────────────────┘

What is done once, and what is done otherwise than the paper writes it, to the same end:

- All of Q1 and Q2 depends on the sentence alone and is made with it (``Net.text``). So are the projections of the
  attention in which 1024 places ask three queries: the queries are brought to the places' width, three a head, and
  the places need none (``_asked``). Where nine prompts ask 1024 places, the prompts are brought there (``_asking``).
- The dense prompt wants the features at 256×256, of length one, times g. Upsampling is linear, so the product is
  taken at 32×32. The length of a bilinear mixture follows from the products of neighbours (``_squared_length``).
- SAM 2's finer features pass two 1×1 convolutions in a row, which are one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers.models.sam2.configuration_sam2 import (
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2PromptEncoderConfig,
)
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel, Sam2MaskDecoder, Sam2MaskEmbedding

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
    name="rsrefseg2",
    title="RSRefSeg 2: SigLIP 2 and SAM 2.1, trained on referring sentences about aerial pictures",
    paper="https://arxiv.org/abs/2507.06231",
    source="KyanChen/RSRefSeg2",
    file="rrsisd.pth",
    tokenizer="google/siglip2-so400m-patch16-512",
    licence="Apache-2.0",
    terms="Apache-2.0, as are SAM 2 and SigLIP 2. One file for each data set it was trained on: rrsisd.pth, "
    "risbench.pth, refsegrs.pth; each is the best on its test set among the trainings' states, so published figures "
    "flatter it.",
    prompts="A sentence that names one thing and where it is, as in RRSIS-D: The baseball field on the lower left. "
    "Case and punctuation are read.",
)

_TRUNKS: dict[str, dict[str, Any]] = {
    "tiny": {
        "embed_dim": 96, "num_heads": 1, "stages": [1, 2, 7, 2], "global_att_blocks": [5, 7, 9],
        "window_pos_embed_bkg_spatial_size": [7, 7], "window_spec": [8, 4, 14, 7],
    },
    "base_plus": {
        "embed_dim": 112, "num_heads": 2, "stages": [2, 3, 16, 3], "global_att_blocks": [12, 16, 20],
        "window_pos_embed_bkg_spatial_size": [14, 14], "window_spec": [8, 4, 14, 7],
    },
    "large": {
        "embed_dim": 144, "num_heads": 2, "stages": [2, 6, 36, 4], "global_att_blocks": [23, 33, 43],
        "window_pos_embed_bkg_spatial_size": [7, 7], "window_spec": [8, 4, 16, 8],
    },
}  # fmt: skip

_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}


def config(trunk: str = "large") -> dict[str, Any]:
    """The configuration with SAM 2.1 Hiera ``tiny``, ``base_plus`` or ``large``; what is published is ``large``."""
    return {
        "sam2": {"image_size": WINDOW_PX, "d_model": 256, "trunk": _TRUNKS[trunk]},
        "clip": {
            "text": {**_SO400M, "vocab_size": 256_000, "max_position_embeddings": 64},
            "vision": {**_SO400M, "image_size": 512, "patch_size": 16},
        },
        "lora": {"r": 16, "alpha": 16},
        "prompter": {
            "num_text_queries": 3, "feat_dim": 1152, "prompt_dim": 256, "img_pe_grid": 32, "num_prompts": 9,
            "num_heads": 8, "mlp_dim": 512, "internal_dim": 512, "depths": [2, 2, 2],
        },
    }  # fmt: skip


class Image(NamedTuple):
    """What a window is, whatever is asked of it."""

    tokens: Tensor
    """SigLIP's: ``(n, place, c)``."""

    coarse: Tensor
    """SAM's features at /16: ``(n, sam_c, y, x)``."""

    middle: Tensor
    """At /8: ``(n, sam_c/4, 2y, 2x)``."""

    fine: Tensor
    """At /4: ``(n, sam_c/8, 4y, 4x)``."""


class Text(NamedTuple):
    """What a sentence asks, wherever it is asked; ``layer`` counts those in which places ask, of both steps."""

    whole: Tensor
    """g at length one: ``(n, c)``."""

    queries: Tensor
    """The second step's queries as each of its layers has them: ``(n, layer, query, c)``."""

    keys: Tensor
    """What each place is multiplied with: ``(n, layer, head*query, c)``."""

    places: Tensor
    """What is added, by place: ``(n, layer, place, head*query)``."""

    values: Tensor
    """What a place is given: ``(n, layer, head*query, c)``."""


class RsRefSeg2(Twin):
    """A ``Segmenter`` of SigLIP 2 and SAM 2."""

    name = "rsrefseg2"

    def written(self, expression: str) -> str:
        """As it is: the published weights were trained on sentences in their own case, with their punctuation."""
        return expression


def load(
    weights: Path | None = None,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    choose_by_stability: bool = True,
) -> RsRefSeg2:
    """The model, ready to answer.

    Args:
        weights: a weights file with a tokenizer in it, see ``mapper.models.weights``.
        device: as torch names it.
        precision: bf16 is used in SigLIP 2's image encoder, in most MLPs and in the dense prompt's convolutions;
            sentences, attention to them, SAM 2's attention and masks stay float32.
        choose_by_stability: where the first mask wavers about its threshold, take the best of the three others, as
            in the published figures; False takes the first always.

    Raises:
        ModelError: the file is missing, damaged or another model's, or has no tokenizer.
    """
    stored, tokenizer = stored_weights(
        "rsrefseg2",
        weights,
        precision=precision,
        missing="get the published file and convert it once, see: resmap models show rsrefseg2; "
        "then name the new file in model.weights",
    )
    net = from_upstream(stored.tensors, stored.config)
    check_vocabulary(net, tokenizer, model="rsrefseg2")
    net.decoder.dynamic_multimask_via_stability = choose_by_stability
    fingerprint = f"{stored.sha256}/{precision}" + ("" if choose_by_stability else "/first")
    return RsRefSeg2(net, with_case(tokenizer), fingerprint=fingerprint, device=device, precision=precision)


def from_upstream(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Net:
    """The bare network of a checkpoint, adapters merged, in float32.

    Args:
        state_dict: the checkpoint's tensors under their own names, of any floating dtype. Those that need no
            change are shared.
        config: sizes of the network, see ``config()``; None is the published size.

    Raises:
        ModelError: a key is missing, unknown or of another shape.
    """
    sizes = _config() if config is None else config
    parts = built("rsrefseg2", lambda: _Parts(sizes))
    load_published(parts, state_dict, _layout(sizes), model="rsrefseg2")
    return Net(cast(_Parts, parts), sizes)


def upstream_shapes(config: Mapping[str, Any] | None = None) -> dict[str, tuple[int, ...]]:
    """Every tensor a checkpoint of these sizes has, by its published name."""
    sizes = _config() if config is None else config
    return published_shapes(built("rsrefseg2", lambda: _Parts(sizes)), _layout(sizes))


_config = config  # the name is also that of an argument


def with_case(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without its lower-casing, if it has any.

    SigLIP 2 itself was trained on lower-case text, and libraries of 2026 add the step to its tokenizer. These
    checkpoints were trained before that, on sentences as people wrote them.
    """
    if tokenizer.normalizer is None or tokenizer.normalizer.normalize_str("A") != "a":
        return tokenizer
    content = json.loads(tokenizer.to_str())
    content["normalizer"] = _without_lowercase(content["normalizer"])
    return Tokenizer.from_str(json.dumps(content))


def _without_lowercase(normalizer: dict[str, Any]) -> dict[str, Any] | None:
    if normalizer["type"] == "Sequence":
        steps = [_without_lowercase(step) for step in normalizer["normalizers"]]
        return {"type": "Sequence", "normalizers": [step for step in steps if step is not None]}
    return None if normalizer["type"] == "Lowercase" else normalizer


class Net(nn.Module):
    """The network, made of loaded parts."""

    image_px: int
    longest: int
    """Tokens a sentence may have."""
    vocabulary: int
    image_code: Tensor
    bilinear: Tensor

    def __init__(self, parts: _Parts, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        self.image_px = int(sizes["sam2"]["image_size"])
        self.longest, self.vocabulary = parts.text.longest, parts.text.vocabulary
        parts.vision.head = None  # pools the tokens into one vector, which nothing asks for
        self.vision, self.text_tower, self.prompter = parts.vision, parts.text, parts.prompter
        self.sam = Hiera(parts, grid=self.image_px // 16)
        self.logit_scale, self.logit_bias = parts.logit_scale, parts.logit_bias
        self.mask_embed, self.decoder = parts.mask_embed, parts.decoder
        norm = cast(nn.BatchNorm2d, self.prompter.dense_prompt_conv[1])
        self.convolve = nn.Sequential(
            fuse_conv_bn_eval(cast(nn.Conv2d, self.prompter.dense_prompt_conv[0]), norm),
            nn.GELU(),
            self.prompter.dense_prompt_conv[3],
        )
        del self.prompter.dense_prompt_conv
        self.register_buffer("image_code", grid_code(parts.frequencies, self.sam.grid))
        self.register_buffer("bilinear", _between_corners(self.vision.grid, 4 * self.sam.grid))
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
        check_inputs("rsrefseg2", pixels, ids, side_px=self.image_px, longest=self.longest)
        return resized(self.answer(self.image(pixels), self.text(ids)), self.image_px, ori_hw)

    def image(self, pixels: Tensor) -> Image:
        """What a window is, whatever is asked of it; pixels 0–1 ``(n, 3, y, x)``."""
        return Image(self.vision(siglip_input(pixels, self.vision.image_px)), *self.sam(sam_input(pixels)))

    def text(self, ids: Tensor) -> Text:
        """What a sentence asks, wherever it is asked; token ids ``(n, token)``."""
        tokens, whole = self.text_tower(ids)
        first, second = self.prompter.queries(tokens)
        asked, seconds = [], []
        for layer in self.prompter.finding:
            first = layer.refined(first, self.prompter.text_query_pe_embedding1)
            asked.append(self._asked(layer, first, self.prompter.text_query_pe_embedding1))
        for layer in self.prompter.placing:
            second = layer.refined(second, self.prompter.text_query_pe_embedding2)
            asked.append(self._asked(layer, second, self.prompter.text_query_pe_embedding2))
            seconds.append(second)
        keys, places, values = (torch.stack(each, 1) for each in zip(*asked, strict=True))
        return Text(whole / whole.norm(dim=-1, keepdim=True), torch.stack(seconds, 1), keys, places, values)

    def answer(self, image: Image, text: Text) -> Tensor:
        """float32 logits ``(pair, 1, y, x)`` at a quarter of the size."""
        tokens = self.found(image, text)
        tokens, sparse = self.prompted(tokens, text)
        return self.decoded(image, sparse, self.mask_embed(self.likeness(self.convolved(tokens), text.whole)))[0]

    def found(self, image: Image, text: Text) -> Tensor:
        """The tokens after the first step, what is it: ``(n, place, c)``."""
        tokens = image.tokens
        for at, layer in enumerate(self.prompter.finding):
            tokens = layer.asking(tokens, text.keys[:, at], text.places[:, at], text.values[:, at])
        return tokens

    def prompted(self, tokens: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        """After the second step, where is it: tokens ``(n, place, c)`` and prompts ``(n, prompt, sam_c)``."""
        p = self.prompter
        prompts = p.prompt_embedding.expand(len(tokens), -1, -1)
        start = len(p.finding)
        places = p.img_pe.flatten(2).transpose(1, 2)
        for at, layer in enumerate(p.placing):
            which = start + at
            tokens = layer.asking(tokens, text.keys[:, which], text.places[:, which], text.values[:, which])
            queries = text.queries[:, at]
            placed = queries + p.text_query_pe_embedding2
            prompts = layer.prompted(prompts, p.prompt_pe_embedding, placed, queries, tokens + places, tokens)
        return tokens, p.sparse_prompt_mlp(prompts)

    def convolved(self, tokens: Tensor) -> Tensor:
        """The tokens as a picture, looked at with their neighbours: float32 ``(n, c, y, x)``."""
        picture = tokens.transpose(1, 2).reshape(len(tokens), -1, self.vision.grid, self.vision.grid)
        dense: Tensor = self.convolve(picture.to(next(self.convolve.parameters()).dtype))
        return dense.float()

    def likeness(self, features: Tensor, whole: Tensor) -> Tensor:
        """How alike the features, brought to SAM's mask size, are to a sentence: a logit ``(n, 1, 4y, 4x)``."""
        product = torch.einsum("ncyx,nc->nyx", features, whole)
        along = self.bilinear @ product @ self.bilinear.T
        length = _squared_length(features, self.bilinear).clamp_min(1e-12).sqrt()
        return (self.logit_scale.exp() * along / length + self.logit_bias)[:, None]

    def decoded(self, image: Image, sparse: Tensor, dense: Tensor, *, all_masks: bool = False) -> tuple[Tensor, Tensor]:
        """Logits ``(n, 1, y, x)`` and their expected IoU ``(n, 1)``; with ``all_masks`` the three it chooses among."""
        masks, iou, *_ = self.decoder(
            image_embeddings=image.coarse,
            image_positional_embeddings=self.image_code.expand(len(dense), -1, -1, -1),
            sparse_prompt_embeddings=sparse[:, None],  # (n, 1, prompt, c)
            dense_prompt_embeddings=dense,
            multimask_output=all_masks,
            high_resolution_features=[image.fine, image.middle],
        )
        return masks[:, 0], iou[:, 0]

    def narrow(self, dtype: torch.dtype) -> None:
        """Multiply in this dtype in SigLIP's layers, the convolutions and the MLPs, but for SAM 2's two finest stages.

        What the finest stages round, all that follow build on. With all of SAM 2 in bfloat16 the masks of the base size
        agreed to 0.987 (made-up weights, a real picture), with its MLPs to 0.994, so to 0.997.
        """
        narrow(self.vision.encoder, dtype)
        for block in self.sam.blocks[self.sam.stage_ends[1] + 1 :]:
            narrow(cast(nn.Module, block.mlp), dtype)
        self.convolve.to(dtype)
        for layer in (*self.prompter.finding, *self.prompter.placing):
            layer.mlp_img_1.to(dtype)

    def encoders(self) -> tuple[nn.Module, nn.Module]:
        """The two image encoders."""
        return self.vision, self.sam

    def _asked(self, layer: PlaceLayer, queries: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of queries ``(n, query, c)`` in one layer: keys, places and values, as ``Text`` has them."""
        attention = layer.cross_attn_img_text_1
        key = attention.by_head(attention.k_proj, queries + code)  # (n, query, head, e)
        value = attention.by_head(attention.v_proj, queries)
        keys = attention.widened(key, attention.q_proj).flatten(1, 2)  # (n, head*query, c)
        steady = torch.einsum("nqhe,he->nhq", key, attention.q_proj.bias.view(attention.heads, -1))
        places = self.prompter.img_pe.flatten(2).transpose(1, 2) @ keys.transpose(1, 2) + steady.flatten(1)[:, None]
        from_value = attention.out_proj.weight.view(-1, *value.shape[2:])  # (c, head, e)
        values = torch.einsum("nqhe,che->nhqc", value, from_value).flatten(1, 2)
        return keys * attention.scale, places * attention.scale, values


class Hiera(nn.Module):
    """SAM 2's image encoder (Ravi et al. 2024), without its memory."""

    code: Tensor

    def __init__(self, parts: _Parts, *, grid: int) -> None:
        super().__init__()
        trunk = parts.trunk
        self.grid = grid
        self.patches, self.blocks = trunk.patch_embed, trunk.blocks
        for block in self.blocks:
            block.mlp = Apart(cast(nn.Module, block.mlp))
        self.stage_ends = tuple(trunk.stage_ends)
        self.register_buffer("code", _hiera_code(trunk, 4 * grid))
        # The neck counts from the coarsest level, the trunk from the finest.
        self.to_top, self.to_coarse, to_middle, to_fine = (cast(_Level, level).conv for level in parts.neck)
        self.to_middle = _one_after_other(to_middle, parts.decoder.conv_s1)
        self.to_fine = _one_after_other(to_fine, parts.decoder.conv_s0)
        self.no_memory = nn.Parameter(parts.no_memory.view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(n, 3, y, x)`` as ``sam_input`` gives it, to float32 features at /16, /8 and /4, channels first."""
        tokens = self.patches(pixels) + self.code  # (n, y/4, x/4, c)
        levels = []
        for at, block in enumerate(self.blocks):
            tokens = block(tokens)
            if at in self.stage_ends:
                levels.append(tokens.permute(0, 3, 1, 2))
        top = F.interpolate(self.to_top(levels[3]), scale_factor=2.0, mode="nearest")
        coarse = self.to_coarse(levels[2]) + top + self.no_memory
        return coarse, self.to_middle(levels[1]), self.to_fine(levels[0])


class Attention(nn.Module):
    """Attention in a width of its own."""

    def __init__(self, asking: int, asked: int, *, heads: int, internal: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (internal // heads) ** -0.5
        self.q_proj = nn.Linear(asking, internal)
        self.k_proj = nn.Linear(asked, internal)
        self.v_proj = nn.Linear(asked, internal)
        self.out_proj = nn.Linear(internal, asking)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``(n, query, asking)`` of ``(n, query, asking)``, ``(n, key, asked)`` and ``(n, key, asked)``."""
        q, k, v = (
            self.by_head(project, x).transpose(1, 2)
            for project, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        mixed: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed

    def of_few(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As ``forward``, cheaper where the queries are few and the keys many: only the queries are projected.

        The bias of the keys adds the same to all of a query's scores, which the softmax does not see.
        """
        few = self.by_head(self.q_proj, q)  # (n, query, head, e)
        wide = self.widened(few, self.k_proj) * self.scale  # (n, head, query, c)
        weight = (wide.flatten(1, 2) @ k.transpose(1, 2)).softmax(-1)  # (n, head*query, key)
        mixed = (weight @ v).view(wide.shape)
        values = torch.einsum("nhqc,hec->nqhe", mixed, self.v_proj.weight.view(self.heads, -1, wide.shape[-1]))
        answer: Tensor = self.out_proj(values.flatten(2) + self.v_proj.bias)
        return answer

    def by_head(self, project: nn.Linear, x: Tensor) -> Tensor:
        """``(n, t, c)`` projected: ``(n, t, head, e)``."""
        projected: Tensor = project(x)
        return projected.view(*x.shape[:2], self.heads, -1)

    def widened(self, x: Tensor, project: nn.Linear) -> Tensor:
        """``(n, t, head, e)`` as ``(n, head, t, c)``: times an unprojected c it is x times the projected one.

        The projection's bias is left out.
        """
        return torch.einsum("nthe,hec->nhtc", x, project.weight.view(self.heads, -1, project.in_features))


class Mlp(nn.Module):
    """Two layers; computes in the dtype of its weights, answers in that of its input."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, hidden), nn.Linear(hidden, width)])

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        first, second = cast("tuple[nn.Linear, nn.Linear]", tuple(self.layers))
        y: Tensor = second(F.gelu(first(x.to(first.weight.dtype))))
        return y.to(x.dtype)


class QueryLayer(nn.Module):
    """Two sets of queries read the sentence and one another. Attribute names are the checkpoint's."""

    def __init__(self, width: int, hidden: int, **attention: int) -> None:
        super().__init__()
        self.self_attn_query_query1 = Attention(width, width, **attention)
        self.self_attn_query_query2 = Attention(width, width, **attention)
        self.cross_attn_query_text_query1_text = Attention(width, width, **attention)
        self.cross_attn_query_text_query2_text = Attention(width, width, **attention)
        self.cross_attn_query_query_query1_query2 = Attention(width, width, **attention)
        self.cross_attn_query_query_query2_query1 = Attention(width, width, **attention)
        self.mlp_query1_2, self.mlp_query1_3 = Mlp(width, hidden), Mlp(width, hidden)
        self.mlp_query2_2, self.mlp_query2_3 = Mlp(width, hidden), Mlp(width, hidden)
        for n in (1, 2, 3, 4, 5):
            self.add_module(f"norm_query1_{n}", nn.LayerNorm(width))
            self.add_module(f"norm_query2_{n}", nn.LayerNorm(width))

    def forward(self, one: Tensor, two: Tensor, code1: Tensor, code2: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Both sets ``(n, query, c)``; ``code1`` and ``code2`` say which query is which."""
        norm = self.get_submodule
        one = norm("norm_query1_1")(one + self.self_attn_query_query1(one + code1, one + code1, one))
        two = norm("norm_query2_1")(two + self.self_attn_query_query2(two + code2, two + code2, two))
        one = norm("norm_query1_2")(one + self.cross_attn_query_text_query1_text(one + code1, text, text))
        one = norm("norm_query1_3")(one + self.mlp_query1_2(one))
        two = norm("norm_query2_2")(two + self.cross_attn_query_text_query2_text(two + code2, text, text))
        two = norm("norm_query2_3")(two + self.mlp_query2_2(two))
        one = norm("norm_query1_4")(one + self.cross_attn_query_query_query1_query2(one + code1, two + code2, two))
        one = norm("norm_query1_5")(one + self.mlp_query1_3(one))
        two = norm("norm_query2_4")(two + self.cross_attn_query_query_query2_query1(two + code2, one + code1, one))
        two = norm("norm_query2_5")(two + self.mlp_query2_3(two))
        return one, two


class PlaceLayer(nn.Module):
    """Queries refine themselves, places ask them. Attribute names are the checkpoint's, where the steps differ too."""

    SELF, SELF_NORM = "self_attn_text_text_1", "norm_text_1"

    def __init__(self, width: int, hidden: int, **attention: int) -> None:
        super().__init__()
        self.add_module(self.SELF, Attention(width, width, **attention))
        self.add_module(self.SELF_NORM, nn.LayerNorm(width))
        self.cross_attn_img_text_1 = Attention(width, width, **attention)
        self.norm_img_1 = nn.LayerNorm(width)
        self.mlp_img_1 = Mlp(width, hidden)
        self.norm_img_2 = nn.LayerNorm(width)

    def refined(self, queries: Tensor, code: Tensor) -> Tensor:
        """The queries ``(n, query, c)`` after asking one another."""
        placed = queries + code
        refined: Tensor = self.get_submodule(self.SELF_NORM)(
            queries + self.get_submodule(self.SELF)(placed, placed, queries)
        )
        return refined

    def asking(self, tokens: Tensor, keys: Tensor, places: Tensor, values: Tensor) -> Tensor:
        """The tokens ``(n, place, c)`` after asking the queries, which come as ``Text`` has them."""
        scores = tokens @ keys.transpose(1, 2) + places  # (n, place, head*query)
        weight = scores.view(*scores.shape[:2], self.cross_attn_img_text_1.heads, -1).softmax(-1).flatten(2)
        tokens = self.norm_img_1(tokens + weight @ values + self.cross_attn_img_text_1.out_proj.bias)
        after: Tensor = self.norm_img_2(tokens + self.mlp_img_1(tokens))
        return after


class PromptLayer(PlaceLayer):
    """As its base, and prompts ask both the queries and the places."""

    SELF, SELF_NORM = "self_attn_text_1", "norm_text_1"

    def __init__(self, width: int, prompt: int, hidden: int, **attention: int) -> None:
        super().__init__(width, hidden, **attention)
        self.self_attn_prompt_1 = Attention(prompt, prompt, **attention)
        self.cross_attn_prompt_text_1 = Attention(prompt, width, **attention)
        self.cross_attn_prompt_img_1 = Attention(prompt, width, **attention)
        self.mlp_prompt_2, self.mlp_prompt_3 = Mlp(prompt, hidden), Mlp(prompt, hidden)
        for n in (1, 2, 3, 4, 5):
            self.add_module(f"norm_prompt_{n}", nn.LayerNorm(prompt))

    def prompted(
        self, prompts: Tensor, code: Tensor, placed_queries: Tensor, queries: Tensor, placed: Tensor, tokens: Tensor
    ) -> Tensor:
        """The prompts ``(n, prompt, sam_c)`` after asking queries and places; ``placed`` are those with their code."""
        norm = self.get_submodule
        prompts = norm("norm_prompt_1")(prompts + self.self_attn_prompt_1(prompts + code, prompts + code, prompts))
        prompts = norm("norm_prompt_2")(
            prompts + self.cross_attn_prompt_text_1(prompts + code, placed_queries, queries)
        )
        prompts = norm("norm_prompt_3")(prompts + self.mlp_prompt_2(prompts))
        prompts = norm("norm_prompt_4")(prompts + self.cross_attn_prompt_img_1.of_few(prompts + code, placed, tokens))
        last: Tensor = norm("norm_prompt_5")(prompts + self.mlp_prompt_3(prompts))
        return last


class Prompter(nn.Module):
    """From what a sentence says to what SAM is asked. Attribute names are the checkpoint's."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        width, prompt, hidden = sizes["feat_dim"], sizes["prompt_dim"], sizes["mlp_dim"]
        attention = {"heads": sizes["num_heads"], "internal": sizes["internal_dim"]}
        decompose, find, place = sizes["depths"]
        self.text_query_pe_embedding1 = nn.Parameter(torch.empty(sizes["num_text_queries"], width))
        self.text_query_pe_embedding2 = nn.Parameter(torch.empty(sizes["num_text_queries"], width))
        self.img_pe = nn.Parameter(torch.empty(1, width, sizes["img_pe_grid"], sizes["img_pe_grid"]))
        self.prompt_pe_embedding = nn.Parameter(torch.empty(sizes["num_prompts"], prompt))
        self.prompt_embedding = nn.Parameter(torch.empty(sizes["num_prompts"], prompt))
        self.two_queries_text_attn_layers = nn.ModuleList(
            QueryLayer(width, hidden, **attention) for _ in range(decompose)
        )
        self.queries1_to_img_attn_layers = nn.ModuleList(PlaceLayer(width, hidden, **attention) for _ in range(find))
        self.prompt_queries2_img_attn_layers = nn.ModuleList(
            PromptLayer(width, prompt, hidden, **attention) for _ in range(place)
        )
        self.sparse_prompt_mlp = Mlp(prompt, hidden)
        self.dense_prompt_conv = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.BatchNorm2d(width // 2),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, padding=1),
        )

    @property
    def finding(self) -> Sequence[PlaceLayer]:
        """The layers of the first step."""
        return cast(Sequence[PlaceLayer], self.queries1_to_img_attn_layers)

    @property
    def placing(self) -> Sequence[PromptLayer]:
        """The layers of the second."""
        return cast(Sequence[PromptLayer], self.prompt_queries2_img_attn_layers)

    def queries(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What is it, and where: two sets ``(n, query, c)`` from the tokens of a sentence ``(n, token, c)``."""
        count = len(self.text_query_pe_embedding1)
        one = two = F.adaptive_avg_pool1d(tokens.transpose(1, 2), count).transpose(1, 2)
        for layer in self.two_queries_text_attn_layers:
            one, two = layer(one, two, self.text_query_pe_embedding1, self.text_query_pe_embedding2, tokens)
        return one, two


def _between_corners(coarse: int, fine: int) -> Tensor:
    """``(fine, coarse)``: linear interpolation that maps first to first and last to last."""
    at = torch.arange(fine, dtype=torch.float64)[:, None] * (coarse - 1) / (fine - 1)
    return (1 - (at - torch.arange(coarse)).abs()).clamp_min(0).float()


def _squared_length(features: Tensor, bilinear: Tensor) -> Tensor:
    """Squared length over channels of ``bilinear @ features @ bilinear.T``, which is never made.

    A mixture's squared length is the sum over pairs of what it mixes, of both shares times their product; bilinear
    mixtures pair each place with itself and its eight neighbours only.

    Args:
        features: ``(n, c, y, x)``.
        bilinear: ``(fine, y)``, and y = x: at most two neighbours to a row, as ``_between_corners`` gives.

    Returns:
        ``(n, fine, fine)``.
    """
    left, right, upper, lower = features[..., :-1], features[..., 1:], features[..., :-1, :], features[..., 1:, :]
    alone, pairs = bilinear**2, 2 * bilinear[:, :-1] * bilinear[:, 1:]  # (fine, y), (fine, y-1)
    itself, beside, below = (features**2).sum(1), (left * right).sum(1), (upper * lower).sum(1)
    across = ((upper[..., :-1] * lower[..., 1:]).sum(1) + (upper[..., 1:] * lower[..., :-1]).sum(1)) / 2
    by_row = alone @ itself + pairs @ below
    by_pair = alone @ beside + pairs @ across
    return by_row @ alone.T + by_pair @ pairs.T


def _one_after_other(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """The 1×1 convolution that does what two do; made in float64."""
    a, b = first.weight.double().flatten(1), second.weight.double().flatten(1)
    bias = b @ cast(Tensor, first.bias).double() + cast(Tensor, second.bias).double()
    both = nn.Conv2d(first.in_channels, second.out_channels, 1, device="meta")
    both.weight = nn.Parameter((b @ a)[..., None, None].float())
    both.bias = nn.Parameter(bias.float())
    return both


def _hiera_code(trunk: Sam2HieraDetModel, side: int) -> Tensor:
    """Where each patch is: the picture's code, stretched, and that of a window, repeated; ``(1, side, side, c)``."""
    window: Tensor = trunk.pos_embed_window
    stretched = F.interpolate(trunk.pos_embed, size=(side, side), mode="bicubic")
    code = stretched + window.tile(1, 1, side // window.shape[2], side // window.shape[3])
    return code.permute(0, 2, 3, 1)


class _Level(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 1)


class _Parts(nn.Module):
    """All that a checkpoint holds and the network may use."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        sam, trunk, (vision, text) = sizes["sam2"], sizes["sam2"]["trunk"], siglip_configs(sizes["clip"])
        width, widths = sam["d_model"], [trunk["embed_dim"] * 2**stage for stage in range(4)]
        self.no_memory = nn.Parameter(torch.empty(1, 1, width))
        self.trunk = Sam2HieraDetModel(
            attending(
                Sam2HieraDetConfig,
                hidden_size=trunk["embed_dim"],
                num_attention_heads=trunk["num_heads"],
                blocks_per_stage=list(trunk["stages"]),
                embed_dim_per_stage=widths,
                num_attention_heads_per_stage=[trunk["num_heads"] * 2**stage for stage in range(4)],
                window_size_per_stage=list(trunk["window_spec"]),
                global_attention_blocks=list(trunk["global_att_blocks"]),
                window_positional_embedding_background_size=list(trunk["window_pos_embed_bkg_spatial_size"]),
            )
        )
        self.neck = nn.ModuleList(_Level(level, width) for level in widths[::-1])
        self.frequencies = nn.Parameter(torch.empty(2, width // 2))
        self.mask_embed = Sam2MaskEmbedding(Sam2PromptEncoderConfig(hidden_size=width))
        self.decoder = Sam2MaskDecoder(attending(Sam2MaskDecoderConfig, hidden_size=width))
        self.vision = SiglipVision(vision)
        self.logit_scale = nn.Parameter(torch.empty(1))
        self.logit_bias = nn.Parameter(torch.empty(1))
        self.text = SiglipText(text)
        self.prompter = Prompter(sizes["prompter"])


def _layout(sizes: Mapping[str, Any]) -> Layout:
    inner, sam = "base_model.model.", "backbone.model."
    points = [f"point_embeddings.{n}" for n in range(4)]
    width = sizes["sam2"]["d_model"]
    return Layout(
        renames=(
            (r"^no_memory$", f"{sam}no_mem_embed"),
            (r"^trunk\.patch_embed\.projection\.", "trunk.patch_embed.proj."),
            (r"^(trunk\..*)\.layer_norm([12])\b", r"\1.norm\2"),
            (r"^(trunk\..*)\.mlp\.proj_in\b", r"\1.mlp.layers.0"),
            (r"^(trunk\..*)\.mlp\.proj_out\b", r"\1.mlp.layers.1"),
            (r"^trunk\.", f"{sam}image_encoder.{inner}trunk."),
            (r"^neck\.", f"{sam}image_encoder.{inner}neck.convs."),
            (r"^frequencies$", f"{sam}sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
            *(
                (rf"^mask_embed\.{ours}\.", f"{sam}sam_prompt_encoder.mask_downscaling.{theirs}.")
                for ours, theirs in (("conv1", 0), ("layer_norm1", 1), ("conv2", 3), ("layer_norm2", 4), ("conv3", 6))
            ),
            (r"^(decoder\..*(?:mlps\.\d|head))\.layers\.0\.", r"\1.layers.1."),
            (r"^(decoder\..*(?:mlps\.\d|head))\.proj_in\.", r"\1.layers.0."),
            (r"^(decoder\..*(?:mlps\.\d|head))\.proj_out\.", r"\1.layers.2."),
            (r"^(decoder\.transformer\..*)\.mlp\.proj_in\.", r"\1.mlp.layers.0."),
            (r"^(decoder\.transformer\..*)\.mlp\.proj_out\.", r"\1.mlp.layers.1."),
            (r"^(decoder\.transformer\..*)layer_norm", r"\1norm"),
            (r"^(decoder\..*)\.o_proj\.", r"\1.out_proj."),
            (r"^decoder\.upscale_conv1\.", "decoder.output_upscaling.0."),
            (r"^decoder\.upscale_layer_norm\.", "decoder.output_upscaling.1."),
            (r"^decoder\.upscale_conv2\.", "decoder.output_upscaling.3."),
            (r"^decoder\.", f"{sam}sam_mask_decoder."),
            (r"^vision\.", f"clip_vision_encoder.{inner}model."),
            (r"^(logit_\w+)$", rf"clip_text_encoder.{inner}\1"),
            (r"^text\.", f"clip_text_encoder.{inner}model."),
        ),
        adapted=re.compile(
            r"^trunk\.blocks\.\d+\.attn\.(qkv|proj)$|^neck\.\d\.conv$"
            r"|^vision\..*\.(q|k|v|out)_proj$|^vision\.head\.mlp\.fc[12]$"
            r"|^text\.encoder\..*\.(q|k|v|out)_proj$|^text\.head$"
        ),
        rank=int(sizes["lora"]["r"]),
        alpha=float(sizes["lora"]["alpha"]),
        unused={
            **{
                f"{sam}sam_prompt_encoder.{name}.weight": (1, width)
                for name in (*points, "not_a_point_embed", "no_mask_embed")
            },
            **{f"decode_head.logit_{name}": () for name in ("scale1", "scale2", "bias1", "bias2")},  # of the loss
        },
    )
