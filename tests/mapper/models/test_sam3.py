"""SAM 3: that it says what transformers' own network says, and how its three answers become one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer, Sam3Config, Sam3Model, Sam3VideoConfig

import mapper
from mapper import models
from mapper.errors import ModelError
from mapper.models import sam3
from mapper.models.sam3 import Sam3, fused
from mapper.models.weights import write_weights
from mapper.segmenter import Segmenter

SIDE = 112
PHRASES = ["White car", "x", "a solar panel on a roof"]
LONGEST = 24


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ── a small SAM 3 ───────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def words() -> Any:
    """CLIP's tokenizer with single letters for words."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(vocabulary)}, merges=[])


def sizes() -> Sam3Config:
    tower: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    layers = {**tower, "num_layers": 2}
    backbone = {
        **tower,
        "model_type": "sam3_vit_model",
        "num_hidden_layers": 2,
        "image_size": SIDE,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    text = {
        **tower,
        "model_type": "clip_text_model",
        "num_hidden_layers": 2,
        "hidden_act": "gelu",
        "projection_dim": 16,
        "max_position_embeddings": LONGEST,
        "vocab_size": 514,
        "bos_token_id": 512,
        "eos_token_id": 513,
    }
    feature_sizes = [[32, 32], [16, 16], [8, 8]]
    return Sam3Config(
        vision_config={"backbone_config": backbone, "fpn_hidden_size": 32, "backbone_feature_sizes": feature_sizes},
        text_config=text,
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )


@pytest.fixture(scope="module")
def original() -> Sam3Model:
    """Transformers' network with random weights, such that all three answers matter somewhere."""
    torch.manual_seed(3)
    net = Sam3Model(sizes())
    net.requires_grad_(False)
    net.train(False)
    random = torch.Generator().manual_seed(7)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=random) / parameter[0].numel() ** 0.5)
    biases = dict(net.named_parameters())
    biases["detr_decoder.presence_head.layer3.bias"].fill_(2.0)
    biases["mask_decoder.semantic_projection.bias"].fill_(-0.6)
    return net


@pytest.fixture(scope="module")
def weights(original: Sam3Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam3") / "sam3.safetensors"
    _write(path, original.state_dict())
    return path


def _write(path: Path, tensors: dict[str, Tensor], **other: Any) -> None:
    given = {"config": sizes().to_dict(), "tokenizer": words().backend_tokenizer.to_str().encode(), **other}
    write_weights(path, model="sam3", tensors=tensors, **given)


@pytest.fixture(scope="module")
def model(weights: Path) -> Segmenter:
    return models.load("sam3", weights=str(weights), device="cpu")


def _noise(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (count, 3, SIDE, SIDE), np.uint8)


# ── transformers' own answers ───────────────────────────────────────────────────────────────────────────────


def test_a_pixel_has_the_logit_that_transformers_answers_make(original: Sam3Model, model: Segmenter) -> None:
    pixels = _noise(2)
    logits = model.logits(pixels, model.encode_text(PHRASES))
    for number, phrase in enumerate(PHRASES):
        asked = words()(phrase, padding="max_length", max_length=LONGEST, return_tensors="pt")
        said = original(
            pixel_values=(torch.from_numpy(pixels).float() - 127.5) / 127.5,
            input_ids=asked.input_ids.expand(2, -1),
            attention_mask=asked.attention_mask.expand(2, -1),
        )
        score = said.presence_logits.double().sigmoid() * said.pred_logits.double().sigmoid()
        objects = torch.minimum(said.pred_masks.double().sigmoid(), score[..., None, None]).amax(1)
        there = said.presence_logits.double().sigmoid()[..., None]
        surface = torch.minimum(said.semantic_seg.double().sigmoid()[:, 0], there)
        one = torch.logit(torch.maximum(objects, surface))[:, None]
        expected = F.interpolate(one, (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
        np.testing.assert_allclose(logits[:, number], expected.numpy(), atol=2e-4, rtol=1e-4)
    assert logits.std() > 0.1


def test_the_small_network_answers_by_objects_here_and_by_the_surface_there(original: Sam3Model) -> None:
    asked = words()(PHRASES[0], return_tensors="pt")
    said = original(pixel_values=torch.from_numpy(_noise(1)).float() / 127.5 - 1, input_ids=asked.input_ids)
    one = fused(said.semantic_seg, said.pred_masks, said.pred_logits, said.presence_logits)
    surface = torch.minimum(said.semantic_seg, said.presence_logits[..., None, None])
    share = float((one == surface).float().mean())
    assert 0.02 < share < 0.98


def test_the_bare_network_is_transformers_to_the_bit(original: Sam3Model) -> None:
    net = models.from_upstream("sam3", original.state_dict(), sizes().to_dict())
    pixels, ids = torch.from_numpy(_noise(1)).float() / 127.5 - 1, torch.tensor([[512, 4, 5, 513]])
    one, other = (each(pixel_values=pixels, input_ids=ids) for each in (original, net))
    for name in ("semantic_seg", "pred_masks", "pred_logits", "presence_logits", "pred_boxes"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert not net.training


def test_the_published_file_may_name_the_detector_and_hold_a_tracker(original: Sam3Model) -> None:
    published = {f"detector_model.{key}": tensor for key, tensor in original.state_dict().items()}
    published |= {"tracker_model.memory.weight": torch.zeros(3), "tracker_neck.fpn_layers.0.proj1.bias": torch.zeros(3)}
    config = {**Sam3VideoConfig().to_dict(), "detector_config": sizes().to_dict()}
    net = models.from_upstream("sam3", published, config)
    assert all(torch.equal(tensor, net.state_dict()[key]) for key, tensor in original.state_dict().items())


# ── three answers, one logit ────────────────────────────────────────────────────────────────────────────────

logits_of_one = st.floats(-12, 12, width=32)


@given(logits_of_one, st.lists(st.tuples(logits_of_one, logits_of_one), min_size=1, max_size=4), logits_of_one)
def test_above_one_half_a_pixel_is_the_surfaces_or_an_objects(
    surface: float, objects: list[tuple[float, float]], presence: float
) -> None:
    there = _probability(presence)
    scores = [there * _probability(query) for _, query in objects]
    if any(abs(score - 0.5) < 1e-6 for score in scores):
        return  # rounding may decide
    expected = min(surface, presence) > 0 or any(
        score > 0.5 and mask > 0 for score, (mask, _) in zip(scores, objects, strict=True)
    )
    assert (_fused_pixel(surface, objects, presence) > 0) == expected


@given(logits_of_one, st.lists(st.tuples(logits_of_one, logits_of_one), min_size=1, max_size=4))
def test_where_the_phrase_is_not_present_nothing_is(surface: float, objects: list[tuple[float, float]]) -> None:
    assert _fused_pixel(surface, objects, -1.0) <= -1.0 + 1e-6


@given(logits_of_one, st.tuples(logits_of_one, logits_of_one), logits_of_one)
def test_more_evidence_is_never_less(surface: float, one: tuple[float, float], presence: float) -> None:
    before = _fused_pixel(surface, [one], presence)
    assert _fused_pixel(surface + 1, [one], presence) >= before
    assert _fused_pixel(surface, [(one[0] + 1, one[1] + 1)], presence) >= before
    assert _fused_pixel(surface, [one], presence + 1) >= before


@pytest.mark.parametrize("query", [-12.0, 12.0])
@pytest.mark.parametrize("presence", [-10.0, 10.0])
def test_the_surest_answers_are_finite(query: float, presence: float) -> None:
    for mask in (-1e4, 1e4):
        assert abs(_fused_pixel(mask, [(mask, query)], presence)) <= 1e4


def _fused_pixel(surface: float, objects: list[tuple[float, float]], presence: float) -> float:
    masks = torch.tensor([mask for mask, _ in objects]).view(1, -1, 1, 1)
    queries = torch.tensor([[query for _, query in objects]])
    return float(fused(torch.full((1, 1, 1, 1), surface), masks, queries, torch.tensor([[presence]])))


def _probability(logit: float) -> float:
    return float(1 / (1 + np.exp(-np.float64(logit))))


# ── one answer ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_window_has_the_same_logits_to_the_bit_in_any_batch(model: Segmenter) -> None:
    windows, text = _noise(3), model.encode_text(PHRASES[:2])
    alone = np.concatenate([model.logits(windows[n : n + 1], text) for n in range(3)])
    assert model.logits(windows, text).tobytes() == alone.tobytes()


def test_a_phrase_has_the_same_logits_to_the_bit_in_any_company(model: Segmenter) -> None:
    windows = _noise(1)
    alone = model.logits(windows, model.encode_text(["White car"]))
    among = model.logits(windows, model.encode_text(["a solar panel on a roof", "White car", "x", "White car"]))
    assert among[:, 1:2].tobytes() == among[:, 3:4].tobytes() == alone.tobytes()


def test_two_loads_give_the_same_logits_to_the_bit(model: Segmenter, weights: Path) -> None:
    again = sam3.load(weights)
    first, second = (each.logits(_noise(1), each.encode_text(["car"])) for each in (model, again))
    assert first.tobytes() == second.tobytes()
    assert model.fingerprint == again.fingerprint


def test_half_precision_says_nearly_the_same_under_another_fingerprint(model: Segmenter, weights: Path) -> None:
    half = models.load("sam3", weights=str(weights), device="cpu", precision="bf16")
    one, other = (each.logits(_noise(1), each.encode_text(["car"])) for each in (model, half))
    assert 0 < np.abs(one - other).mean() < 0.1 * one.std()
    assert other.dtype == np.float32
    assert half.fingerprint != model.fingerprint


def test_in_half_precision_positions_keep_all_their_digits(weights: Path) -> None:
    net = sam3.load(weights, precision="bf16")._net
    buffers = {name: b for name, b in net.named_buffers() if name.endswith("inv_freq")}  # type: ignore[attr-defined]
    assert buffers
    assert {buffer.dtype for buffer in buffers.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, while it compiles
def test_compiled_it_says_nearly_the_same_under_another_fingerprint(model: Segmenter, weights: Path) -> None:
    quick = models.load("sam3", weights=str(weights), device="cpu", compiled=True)
    one, other = (each.logits(_noise(1), each.encode_text(["car"])) for each in (model, quick))
    np.testing.assert_allclose(one, other, atol=1e-3)
    assert quick.fingerprint != model.fingerprint


# ── phrases ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_a_phrase_too_long_the_beginning_is_read_and_the_end_is_marked(model: Segmenter) -> None:
    windows, long = _noise(1), "abcdefghijk " * 10
    fits = "abcdefghijk abcdefghijk"  # a token a letter, none for the space, and both ends
    one, other = (model.logits(windows, model.encode_text([phrase])) for phrase in (long, fits))
    assert one.tobytes() == other.tobytes()


def test_case_is_not_read(model: Segmenter) -> None:
    windows = _noise(1)
    one, other = (model.logits(windows, model.encode_text([phrase])) for phrase in ("White Car", "white car"))
    assert one.tobytes() == other.tobytes()


# ── the contract ────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_a_segmenter_of_the_size_it_was_trained_at(model: Segmenter) -> None:
    assert isinstance(model, Sam3)
    assert (model.name, model.window_px, model.band_names) == ("sam3", SIDE, ("red", "green", "blue"))
    assert models.window_px("sam3") == Sam3Config().image_size == 1008


def test_no_windows_and_no_phrases_are_answered_with_nothing(model: Segmenter) -> None:
    assert model.logits(_noise(0), model.encode_text(["car"])).shape == (0, 1, SIDE, SIDE)
    assert model.logits(_noise(2), model.encode_text([])).shape == (2, 0, SIDE, SIDE)


def test_a_picture_of_any_size_can_be_segmented(model: Segmenter) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (130, 90, 3), np.uint8)
    score = mapper.segment(picture, ["car", "roof"], model=model)
    assert score.shape == (2, 130, 90)
    assert ((score >= 0) & (score <= 1)).all()


def test_pixels_of_the_wrong_shape_are_refused_with_a_remedy(model: Segmenter) -> None:
    with pytest.raises(ModelError) as caught:
        model.logits(np.zeros((1, 3, 96, 96), np.uint8), model.encode_text(["car"]))
    assert str(SIDE) in caught.value.fix


def test_without_weights_it_says_who_gives_them_and_how_to_make_them_ready() -> None:
    with pytest.raises(ModelError, match="do not ship") as caught:
        models.load("sam3")
    assert "https://huggingface.co/facebook/sam3" in caught.value.fix
    assert "resmap models convert sam3 hf://facebook/sam3@main/model.safetensors --tokenizer" in caught.value.fix


def test_its_card_says_whose_licence_it_is() -> None:
    card = models.card("sam3")
    assert "SAM License" in card.terms
    assert not card.ships


WRONG: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "a key missing": lambda tensors: {"tensors": dict(list(tensors.items())[1:])},
    "a key too many": lambda tensors: {"tensors": {**tensors, "another.weight": torch.zeros(1)}},
    "another shape": lambda tensors: {"tensors": {**tensors, "text_projection.bias": torch.zeros(3)}},
    "no tokenizer": lambda tensors: {"tensors": tensors, "tokenizer": None},
    "a configuration of words": lambda tensors: {
        "tensors": tensors, "config": {"vision_config": {"fpn_hidden_size": "x"}},
    },
    "a configuration that cannot be": lambda tensors: {
        "tensors": tensors, "config": {**sizes().to_dict(), "text_config": {"model_type": "no such model"}},
    },
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_weights_that_are_not_sam3s_are_refused_with_a_remedy(
    original: Sam3Model, tmp_path: Path, wrong: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    path = tmp_path / "w.safetensors"
    _write(path, **wrong(original.state_dict()))
    with pytest.raises(ModelError) as caught:
        models.load("sam3", weights=str(path), device="cpu")
    assert caught.value.fix


def test_a_tokenizer_with_more_words_than_the_network_is_refused(original: Sam3Model, tmp_path: Path) -> None:
    config, tensors = sizes().to_dict(), original.state_dict()
    key = "text_encoder.text_model.embeddings.token_embedding.weight"
    config["text_config"] |= {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1}
    _write(tmp_path / "w.safetensors", {**tensors, key: tensors[key][:100]}, config=config)
    with pytest.raises(ModelError, match="514 tokens"):
        models.load("sam3", weights=str(tmp_path / "w.safetensors"), device="cpu")
