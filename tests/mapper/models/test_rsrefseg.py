"""RSRefSeg: the reference's numbers, adapters merged, one answer whatever the company, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapper import models
from mapper.errors import ModelError
from mapper.models import rsrefseg
from mapper.models.rsrefseg import Net, RsRefSeg, from_upstream, load, upstream_shapes
from mapper.models.twin import EOS, ended_ids, sam_input, siglip_input
from mapper.models.weights import write_weights
from mapper.segmenter import Segmenter
from tests.mapper.models.twins import (
    EXPRESSIONS,
    arrays,
    crops,
    filled,
    inputs,
    iou,
    manifest,
    steps_through,
    word_tokenizer,
)

MODEL = "rsrefseg"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network gains nothing from two
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return manifest(MODEL, "tiny_config.json")


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return filled(manifest(MODEL, "tiny_state_dict.json"))


@pytest.fixture(scope="module")
def net(tensors: dict[str, Tensor], config: dict[str, Any]) -> Net:
    return from_upstream(tensors, config)


@pytest.fixture
def model(tensors: dict[str, Tensor], config: dict[str, Any]) -> RsRefSeg:
    return RsRefSeg(
        from_upstream(tensors, config), word_tokenizer(), fingerprint="tiny", device="cpu", precision="fp32"
    )


@pytest.fixture
def stored(tensors: dict[str, Tensor], config: dict[str, Any], tmp_path: Path) -> Path:
    file = tmp_path / "tiny.safetensors"
    words = word_tokenizer().to_str().encode()
    write_weights(file, model=MODEL, tensors=tensors, config=config, tokenizer=words)
    return file


def answers(net: Net, case: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Every number that the reference has of a case, by the reference's name."""
    pixels, ids = inputs(case)
    with torch.inference_mode():
        image, text = net.image(pixels), net.text(ids)
        by_token, whole = net.likeness(image, text)
        fused = net.fused(image, text, by_token, whole)
        sparse, dense = net.sparse(fused), net.dense(whole)
        low, expected_iou = net.decoded(image.sam, sparse, dense)
        read, pooled = net.text_tower(ids)
        side = (net.vision.grid, net.vision.grid)
        size = tuple(case["in_ori_hw"].tolist()) if "in_ori_hw" in case else None
        original = net(pixels, ids, size)
        return {
            "x_sam": sam_input(pixels),
            "x_clip": siglip_input(pixels, net.vision.image_px),
            "sam_feat": image.sam,
            "clip_vis_tokens": net.vision(siglip_input(pixels, net.vision.image_px)),
            "text_tokens": read,
            "text_pooled": pooled,
            "local_act": by_token[:, : ids.shape[1]].reshape(*ids.shape, *side),
            "global_logit": whole.reshape(-1, *side),
            "prompter_down_channel_out": fused,
            "prompter_down_spatial_out": sparse,
            "image_pe": net.image_code,
            "mask_prompt": net.mask_prompt(whole),
            "dense": dense,
            "sparse": sparse.flatten(2).transpose(1, 2)[:, None],
            "low_res_masks": low,
            "iou_pred": expected_iou,
            "logits": net(pixels, ids),
            "ori_logits": original,
        }


STEPS = [
    "x_clip",
    "sam_feat",
    "clip_vis_tokens",
    "text_tokens",
    "text_pooled",
    "local_act",
    "global_logit",
    "prompter_down_channel_out",
    "prompter_down_spatial_out",
    "image_pe",
    "mask_prompt",
    "dense",
    "sparse",
    "low_res_masks",
    "iou_pred",
    "logits",
]


# ── the reference ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tiny(net: Net) -> Callable[[str], tuple[dict[str, NDArray[Any]], dict[str, Tensor]]]:
    cases = {name: arrays(MODEL, name) for name in ("tiny_single", "tiny_batch2_pad")}
    found = {name: (case, answers(net, case)) for name, case in cases.items()}
    return found.__getitem__


@pytest.mark.parametrize("step", [*STEPS, "ori_logits"])
def test_every_step_of_one_sentence_is_the_references(tiny: Any, step: str) -> None:
    case, found = tiny("tiny_single")
    np.testing.assert_allclose(found[step].numpy(), case[f"out_{step}"], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_a_padded_pair_is_the_references(tiny: Any, step: str) -> None:
    case, found = tiny("tiny_batch2_pad")
    np.testing.assert_allclose(found[step].numpy(), case[f"out_{step}"], atol=2e-4, rtol=1e-4)


def test_the_mask_at_the_pictures_size_is_the_references(tiny: Any) -> None:
    case, found = tiny("tiny_single")
    assert ((found["ori_logits"].numpy() > 0) == case["out_ori_mask"]).mean() >= 0.9999


THINNED: dict[str, tuple[slice, ...]] = {
    "x_sam": (slice(None, None, 64),) * 2,
    "x_clip": (slice(None, None, 16),) * 2,
    "sam_feat": (slice(None, None, 16), slice(None, None, 4), slice(None, None, 4)),
    "clip_vis_tokens": (slice(None, None, 9), slice(None, None, 16)),
    "text_tokens": (slice(None, None, 4),),
    "prompter_down_channel_out": (slice(None, None, 8), slice(None, None, 3), slice(None, None, 3)),
    "image_pe": (slice(None, None, 8),) * 3,
    "dense": (slice(None, None, 8), slice(None, None, 4), slice(None, None, 4)),
    "mask_prompt": (slice(None, None, 8),) * 2,
    "low_res_masks": (slice(None, None, 2),) * 2,
    "logits": (slice(None, None, 8),) * 2,
    "ori_logits": (slice(None, None, 8),) * 2,
}
"""Which of the last axes' elements the reference keeps of the published size."""


@pytest.mark.slow
def test_the_published_size_gives_the_references_numbers() -> None:
    case = arrays(MODEL, "base_1024")
    found = answers(from_upstream(filled(manifest(MODEL))), case)
    for step in (*STEPS, "x_sam", "ori_logits"):
        whole: Any = found[step].numpy()
        kept = whole[(..., *THINNED.get(step, ()))]
        np.testing.assert_allclose(kept, case[f"out_{step}"], atol=2e-4, rtol=1e-4, err_msg=step)
    assert ((found["ori_logits"].numpy() > 0) == case["out_ori_mask"]).mean() >= 0.9999


# ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_published_size_has_the_published_names_and_shapes() -> None:
    assert upstream_shapes() == {key: tuple(one["shape"]) for key, one in manifest(MODEL).items()}


@pytest.mark.parametrize(
    ("sam", "parameters"), [("base", 984_280_674), ("large", 1_206_824_290), ("huge", 1_539_770_466)]
)
def test_each_size_of_sam_has_its_known_number_of_parameters(sam: str, parameters: int) -> None:
    computed = ("running_mean", "running_var", "num_batches_tracked", "positional_embedding")
    shapes = upstream_shapes(rsrefseg.config(sam)).items()
    assert sum(int(np.prod(shape)) for key, shape in shapes if not key.endswith(computed)) == parameters


def answer(tensors: dict[str, Tensor], config: dict[str, Any]) -> NDArray[np.float32]:
    with torch.inference_mode():
        answer: NDArray[np.float32] = from_upstream(tensors, config)(*inputs(arrays(MODEL, "tiny_single"))).numpy()
    return answer


@pytest.mark.parametrize(
    "part", ["backbone.", "neck.conv2.", "clip_vision_encoder.base_model.model.model.encoder.", "clip_text_"]
)
def test_adapters_of_every_part_change_the_answer(
    tensors: dict[str, Tensor], config: dict[str, Any], part: str
) -> None:
    without = {key: torch.zeros_like(one) if part in key and ".lora_B." in key else one for key, one in tensors.items()}
    assert np.abs(answer(without, config) - answer(tensors, config)).max() > 1e-3


def test_an_adapter_is_worth_the_sum_it_stands_for(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    summed = dict(tensors)
    for key in [key for key in tensors if ".lora_A." in key]:
        base, b = key.replace("lora_A.default", "base_layer"), key.replace("lora_A", "lora_B")
        a, down = tensors[key], tensors[b]
        delta = torch.tensordot(down.flatten(1), a, dims=1) * config["lora"]["alpha"] / config["lora"]["r"]
        summed |= {base: tensors[base] + delta, b: torch.zeros_like(down)}
    np.testing.assert_allclose(answer(summed, config), answer(tensors, config), atol=1e-5)


def test_alpha_scales_the_adapters(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    doubled = {key: 2 * one if ".lora_B." in key else one for key, one in tensors.items()}
    twice = {**config, "lora": {"r": 4, "alpha": 8}}
    np.testing.assert_array_equal(answer(tensors, twice), answer(doubled, config))


def test_a_missing_tensor_is_named(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    key = "clip_vision_encoder.base_model.model.model.head.probe"  # even one that no answer depends on
    with pytest.raises(ModelError, match="1 keys are missing") as caught:
        from_upstream({name: one for name, one in tensors.items() if name != key}, config)
    assert caught.value.where["missing"] == key


def test_an_unknown_tensor_is_named(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="1 unknown") as caught:
        from_upstream({**tensors, "decode_head.extra": torch.zeros(1)}, config)
    assert caught.value.where["unknown"] == "decode_head.extra"


@pytest.mark.parametrize(
    "key", ["sam_prompt_encoder.model.point_embed.2.weight", "sam_mask_decoder.model.iou_token.weight"]
)
def test_a_tensor_of_another_shape_is_named(tensors: dict[str, Tensor], config: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelError, match="1 of another shape") as caught:
        from_upstream({**tensors, key: torch.zeros(3)}, config)
    assert key in str(caught.value.where["shapes"])


def test_a_configuration_that_makes_no_network_is_refused(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="makes no rsrefseg") as caught:
        from_upstream(tensors, {key: part for key, part in config.items() if key != "clip"})
    assert caught.value.fix


def test_weights_in_half_precision_are_computed_with_in_single(
    tensors: dict[str, Tensor], config: dict[str, Any]
) -> None:
    half = {key: one.half() if one.is_floating_point() else one for key, one in tensors.items()}
    net = from_upstream(half, config)
    assert {one.dtype for one in net.parameters()} == {torch.float32}
    single = {key: one.float() if one.is_floating_point() else one for key, one in half.items()}
    np.testing.assert_array_equal(answer(half, config), answer(single, config))


def test_what_needs_no_change_is_not_copied(tensors: dict[str, Tensor], net: Net) -> None:
    table = tensors["clip_text_encoder.base_model.model.model.embeddings.token_embedding.weight"]
    assert net.text_tower.embeddings.token_embedding.weight.data_ptr() == table.data_ptr()


def test_without_the_dense_prompt_sam_is_told_that_there_is_no_mask(
    tensors: dict[str, Tensor], config: dict[str, Any]
) -> None:
    bare = from_upstream(tensors, {**config, "with_dense_feat": False})
    dense = bare.dense(torch.randn(1, bare.vision.grid**2))
    assert (dense[0, :, 0, 0] == tensors["sam_prompt_encoder.model.no_mask_embed.weight"][0]).all()
    assert dense.shape == (1, 32, 8, 8)


@pytest.mark.parametrize(
    ("shape", "tokens"),
    [((1, 3, 64, 64), 4), ((1, 4, 128, 128), 4), ((2, 3, 128, 128), 4), ((1, 3, 128, 128), 17)],
)
def test_the_bare_network_refuses_other_sizes(net: Net, shape: tuple[int, ...], tokens: int) -> None:
    with pytest.raises(ModelError) as caught:
        net(torch.zeros(shape), torch.zeros(1, tokens, dtype=torch.long))
    assert caught.value.fix


# ── one answer ──────────────────────────────────────────────────────────────────────────────────────────────


def noise(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (count, 3, 128, 128), np.uint8)


def test_a_window_has_the_same_logits_to_the_bit_in_any_batch(model: RsRefSeg) -> None:
    windows, text = noise(3), model.encode_text(EXPRESSIONS[:2])
    together = model.logits(windows, text)
    alone = np.concatenate([model.logits(windows[n : n + 1], text) for n in range(3)])
    assert together.tobytes() == alone.tobytes()


def test_a_sentence_has_the_same_logits_to_the_bit_in_any_company(model: RsRefSeg) -> None:
    windows = noise(1)
    among = model.logits(windows, model.encode_text(EXPRESSIONS))
    for at, expression in enumerate(EXPRESSIONS):
        alone = model.logits(windows, model.encode_text([expression]))
        assert among[:, at].tobytes() == alone.tobytes()


def test_a_segmenter_answers_as_the_bare_network_does_without_pads(model: RsRefSeg, net: Net) -> None:
    windows = noise(1)
    ids = torch.tensor([ended_ids(word_tokenizer(), EXPRESSIONS[0], longest=net.longest)])
    with torch.inference_mode():
        expected = net(torch.from_numpy(windows).float() / 255, ids)
    assert model.logits(windows, model.encode_text(EXPRESSIONS[:1])).tobytes() == expected.numpy().tobytes()


def test_pads_are_read_as_words(net: Net) -> None:
    ids = torch.tensor([[3, 4, EOS]])
    padded = torch.tensor([[3, 4, EOS, EOS, EOS, EOS, EOS]])
    with torch.inference_mode():
        pixels = torch.from_numpy(noise(1)).float() / 255
        assert (net(pixels, ids) - net(pixels, padded)).abs().max() > 0.01


def test_pixels_are_encoded_once_however_many_sentences(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    net = from_upstream(tensors, config)
    model = RsRefSeg(net, word_tokenizer(), fingerprint="", device="cpu", precision="fp32")
    text, ran = model.encode_text(EXPRESSIONS), steps_through(net)
    model.logits(noise(2), text)
    assert ran == ["vision", "sam"] * 2


def test_a_sentence_is_read_once(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    net = from_upstream(tensors, config)
    model = RsRefSeg(net, word_tokenizer(), fingerprint="", device="cpu", precision="fp32")
    ran = steps_through(net)
    text = model.encode_text(["roads", "the water", "roads"])
    model.encode_text(["the water"])
    assert ran == ["text_tower"] * 2
    assert text.features[0] is text.features[2]


def test_bf16_draws_nearly_the_same_masks_of_a_real_picture(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    windows = crops(128, 6)
    single, half = (
        RsRefSeg(from_upstream(tensors, config), word_tokenizer(), fingerprint="", device="cpu", precision=precision)
        for precision in ("fp32", "bf16")
    )
    one, other = (model.logits(windows, model.encode_text(EXPRESSIONS)) for model in (single, half))
    assert one.tobytes() != other.tobytes()
    assert iou(one, other) >= 0.995


@pytest.mark.slow
def test_compiled_it_draws_the_same_masks_under_another_fingerprint(model: RsRefSeg) -> None:
    windows, text = crops(128, 2), model.encode_text(EXPRESSIONS)
    before, fingerprint = model.logits(windows, text), model.fingerprint
    model.compile()
    assert iou(before, model.logits(windows, text)) >= 0.995
    assert model.fingerprint == f"{fingerprint}/compiled"


# ── sentences ───────────────────────────────────────────────────────────────────────────────────────────────


def test_case_punctuation_and_spaces_are_not_read(model: RsRefSeg) -> None:
    assert model.written("  The LARGE\tfield, (on the left)!  ") == "the large field on the left"
    plain, loud = model.encode_text(["the roads"]).features[0], model.encode_text(["The  roads!"]).features[0]
    assert all(torch.equal(a, b) for a, b in zip(plain, loud, strict=True))


@pytest.mark.parametrize("ends", [True, False])
def test_a_sentence_ends_once(ends: bool) -> None:
    ids = ended_ids(word_tokenizer(ends=ends), "the large field", longest=64)
    assert ids.count(EOS) == 1
    assert ids[-1] == EOS


def test_a_sentence_that_is_too_long_keeps_its_end(model: RsRefSeg, net: Net) -> None:
    ids = ended_ids(word_tokenizer(), "roads " * 100, longest=net.longest)
    assert len(ids) == net.longest
    assert ids[-1] == EOS
    assert np.isfinite(model.logits(noise(1), model.encode_text(["roads " * 100]))).all()


@pytest.mark.parametrize("expression", ["", "  ", "?!"])
def test_a_sentence_without_words_is_refused(model: RsRefSeg, expression: str) -> None:
    with pytest.raises(ModelError, match="no words") as caught:
        model.encode_text([expression])
    assert caught.value.fix


# ── the contract ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_weights_file_is_all_it_takes(stored: Path, net: Net) -> None:
    segmenter: Segmenter = models.load(MODEL, weights=str(stored), device="cpu")
    assert (segmenter.name, segmenter.window_px, segmenter.band_names) == (MODEL, 128, ("red", "green", "blue"))
    logits = segmenter.logits(noise(2), segmenter.encode_text(EXPRESSIONS))
    assert logits.shape == (2, 4, 128, 128)
    assert logits.dtype == np.float32
    assert logits.std() > 0


def test_the_fingerprint_names_weights_and_precision(stored: Path) -> None:
    single, half = load(stored), load(stored, precision="bf16")
    assert single.fingerprint.endswith("/fp32")
    assert single.fingerprint.removesuffix("fp32") == half.fingerprint.removesuffix("bf16")


def test_without_weights_it_says_how_to_get_them() -> None:
    with pytest.raises(ModelError, match="do not ship") as caught:
        models.load(MODEL)
    assert "resmap models show rsrefseg" in caught.value.fix


def test_weights_without_a_tokenizer_are_refused(
    tensors: dict[str, Tensor], config: dict[str, Any], tmp_path: Path
) -> None:
    write_weights(tmp_path / "w.safetensors", model=MODEL, tensors=tensors, config=config)
    with pytest.raises(ModelError, match="no tokenizer"):
        load(tmp_path / "w.safetensors")


def test_a_tokenizer_with_more_words_than_the_network_is_refused(
    tensors: dict[str, Tensor], config: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens([f"word{n}" for n in range(64)])
    words = tokenizer.to_str().encode()
    write_weights(tmp_path / "w.safetensors", model=MODEL, tensors=tensors, config=config, tokenizer=words)
    with pytest.raises(ModelError, match="the network 64"):
        load(tmp_path / "w.safetensors")


def test_an_unknown_precision_is_refused(stored: Path) -> None:
    with pytest.raises(ModelError, match="no precision 'fp8'"):
        load(stored, precision="fp8")  # type: ignore[arg-type]  # what a job file may say


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 4, 128, 128), (3, 128, 128)])
def test_windows_of_another_size_are_refused_with_a_remedy(model: RsRefSeg, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        model.logits(np.zeros(shape, np.uint8), model.encode_text(["roads"]))
    assert "128" in caught.value.fix


def test_no_windows_and_no_sentences_are_answered_with_nothing(model: RsRefSeg) -> None:
    assert model.logits(noise(0), model.encode_text(["roads"])).shape == (0, 1, 128, 128)
    assert model.logits(noise(2), model.encode_text([])).shape == (2, 0, 128, 128)


def test_the_card_says_that_nothing_is_published() -> None:
    card = models.card(MODEL)
    assert card.source.startswith("no trained checkpoint is published")
    assert card.tokenizer == "google/siglip-so400m-patch14-384"
    assert not card.ships
