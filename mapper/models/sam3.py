"""SAM 3: every object that a short phrase names, and the surface it names (Carion et al. 2025, arXiv 2511.16719).

    pixels ──► vision encoder ──► maps at /3.5, /7, /14 ──┬───────────────────────────────┐
                                                          ▼                               ▼
    phrase ──► text encoder ──► tokens ──► encoder, decoder of 200 queries ──► masks of objects, one surface
                                                     │                                    │
                                      is it there? which query is one? ──────────► one logit a pixel

The network is transformers' own, under its own keys. Meta gives the weights to those who accept its licence.

SAM 3 answers thrice: whether the phrase is there at all (presence), up to 200 objects (each a score and a mask), and
one surface. A pixel is evident if presence and surface say so, or if some object does and the pixel is in its mask:

    logit = max(min(presence, surface), max over objects of min(object, mask))

with an object's logit that of presence × query, which is SAM 3's own score of it. Above one half these are the objects
SAM 3 reports at its own threshold of one half, and its surface where the phrase is present; below and above nothing
is cut off, so windows blend and a prompt's threshold means something. To take both heads, and the surface only where
the phrase is present, is from SegEarth-OV3 (Li et al. 2025, arXiv 2512.08730), which tried it on many sets of aerial
and satellite pictures; it multiplies where this takes the lesser, and that would move the decision at one half.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.configuration_sam3 import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model, Sam3VisionEncoderOutput

from mapper.errors import ModelError
from mapper.models.card import Card
from mapper.models.twin import Twin, check_vocabulary, stored_weights
from mapper.models.weights import check_shapes
from mapper.segmenter import Precision

WINDOW_PX = 1008

CARD = Card(
    name="sam3",
    title="SAM 3: all objects and surfaces that a short phrase names, in any picture",
    paper="https://arxiv.org/abs/2511.16719",
    source="facebook/sam3",
    file="model.safetensors",
    tokenizer="facebook/sam3",
    licence="LicenseRef-SAM-License",
    terms="Meta's SAM License: ask for access at the hub and accept it there, then fetch the weights yourself.",
    prompts="A short noun phrase, not a sentence: white car, greenhouse, solar panel. It knows no left and right.",
)

_MISSING = (
    "Meta gives them to those who accept the SAM License: ask at https://huggingface.co/facebook/sam3, log in "
    f"with hf auth login, then run: {CARD.convert_command}"
)

_PREFIX = "detector_model."
_TRACKER = ("tracker_model.", "tracker_neck.")
"""The published file holds the tracker of videos too."""


class Image(NamedTuple):
    """What a window is, whatever is asked of it: maps ``(n, c, y, x)`` at three sizes, the finest first."""

    fine: Tensor
    middle: Tensor
    coarse: Tensor


class Text(NamedTuple):
    """What a phrase asks, wherever it is asked."""

    tokens: Tensor
    """``(n, longest, c)``, zeros after the end."""

    real: Tensor
    """bool ``(n, longest)``, False after the end."""


class Sam3(Twin):
    """A ``Segmenter`` of SAM 3."""

    name = "sam3"

    def written(self, expression: str) -> str:
        """As it stands: the tokenizer itself lowers the case."""
        return expression

    def _read(self, expression: str) -> Text:
        ids = list(self._tokenizer.encode(self.written(expression)).ids)
        if len(ids) > self._net.longest:  # as SAM 3 was trained: the mark of the end stays
            ids = [*ids[: self._net.longest - 1], ids[-1]]
        with torch.inference_mode():
            return Text(*self._net.text(torch.tensor([ids], device=self.device)))


def load(weights: Path | None = None, *, device: str = "cpu", precision: Precision = "fp32") -> Sam3:
    """The model, ready to answer.

    Args:
        weights: a weights file with a tokenizer in it, see ``mapper.models.weights``.
        device: as torch names it.
        precision: bf16 is used in the vision encoder; phrases, positions and masks stay float32.

    Raises:
        ModelError: the file is missing, damaged or another model's, or has no tokenizer.
    """
    stored, tokenizer = stored_weights("sam3", weights, precision=precision, missing=_MISSING)
    net = Net(from_upstream(stored.tensors, stored.config))
    check_vocabulary(net, tokenizer, model="sam3")
    return Sam3(net, tokenizer, fingerprint=f"{stored.sha256}/{precision}", device=device, precision=precision)


def from_upstream(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Sam3Model:
    """The bare network of a checkpoint, transformers' own, in float32.

    Args:
        state_dict: the tensors under transformers' names, with or without the ``detector_model.`` that the published
            file puts before them; its tracker of videos is left out. Those in float32 are shared.
        config: of the network or of the published file, as their ``config.json``; None is the published size.

    Raises:
        ModelError: the configuration makes no network, or a key is missing, unknown or of another shape.
    """
    sizes = dict({} if config is None else config)
    sizes = sizes.get("detector_config") or sizes
    try:
        with no_init_weights():  # 840 million random numbers that nobody would see
            net = Sam3Model(Sam3Config.from_dict(sizes))
    except Exception as error:  # transformers and its checks of a configuration share no narrower class
        raise ModelError(
            "this configuration makes no sam3",
            fix="give that of the checkpoint, or None for the published size",
            reason=f"{type(error).__name__}: {error}"[:200],
        ) from error
    tensors = {key.removeprefix(_PREFIX): t for key, t in state_dict.items() if not key.startswith(_TRACKER)}
    check_shapes({key: tensor.shape for key, tensor in net.state_dict().items()}, tensors, model="sam3")
    net.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, strict=True, assign=True)
    net.requires_grad_(False)
    net.train(False)
    return net


def fused(surface: Tensor, masks: Tensor, queries: Tensor, presence: Tensor) -> Tensor:
    """One logit a pixel from SAM 3's answers, all of them logits.

    Args:
        surface: ``(n, 1, y, x)``: the pixel is of the surface, where the phrase is present.
        masks: ``(n, query, y, x)``: the pixel is of the query's object, where the query is one.
        queries: ``(n, query)``: the query is an object of the phrase, where the phrase is present.
        presence: ``(n, 1)``: the phrase is present.

    Returns:
        ``(n, 1, y, x)``, finite.
    """
    sure = F.logsigmoid(presence) + F.logsigmoid(queries)  # log of presence × query
    objects = sure - torch.log(-torch.expm1(sure))  # and its logit
    by_objects = torch.minimum(masks, objects[..., None, None]).amax(1, keepdim=True)
    return torch.maximum(torch.minimum(surface, presence[..., None, None]), by_objects)


class Net(nn.Module):
    """SAM 3 in the parts that ``Twin`` asks for."""

    def __init__(self, sam: Sam3Model) -> None:
        super().__init__()
        self.sam = sam
        words = sam.text_encoder.text_model.embeddings
        self.longest, self.vocabulary = words.position_embedding.num_embeddings, words.token_embedding.num_embeddings
        size = sam.config.image_size
        self.image_px = int(size if isinstance(size, int) else size[0])

    def image(self, pixels: Tensor) -> Image:
        """What a window is, whatever is asked of it; pixels 0–1 ``(n, 3, y, x)``."""
        seen = self.sam.get_vision_features(pixel_values=pixels * 2 - 1)
        return Image(*seen.fpn_hidden_states[:3])

    def text(self, ids: Tensor) -> Text:
        """What a phrase asks, wherever it is asked; token ids ``(n, token)``."""
        tokens = self.sam.get_text_features(input_ids=ids).pooler_output
        spare = self.longest - ids.shape[1]
        real = torch.ones_like(ids, dtype=torch.bool)
        return Text(tokens=F.pad(tokens, (0, 0, 0, spare)), real=F.pad(real, (0, spare)))

    def answer(self, image: Image, text: Text) -> Tensor:
        """float32 logits ``(pair, 1, y, x)``, smaller than the pixels."""
        place = self.sam.vision_encoder.neck.position_encoding
        maps = (*image, image.coarse)  # the network looks at all but the last
        said = self.sam(
            vision_embeds=Sam3VisionEncoderOutput(
                fpn_hidden_states=maps,
                fpn_position_encoding=tuple(place(one.shape, one.device, one.dtype) for one in maps),
            ),
            text_embeds=BaseModelOutputWithPooling(pooler_output=text.tokens),
            attention_mask=text.real,
        )
        return fused(said.semantic_seg, said.pred_masks, said.pred_logits, said.presence_logits)

    def narrow(self, dtype: torch.dtype) -> None:
        """Compute the vision encoder in this dtype: its weights only, since its positions need all their digits."""
        for parameter in self.sam.vision_encoder.backbone.parameters():
            parameter.data = parameter.data.to(dtype)

    def encoders(self) -> tuple[nn.Module, ...]:
        """The vision encoder."""
        return (self.sam.vision_encoder.backbone,)
