"""RSRefSeg 2: the reference's numbers, the cheaper ways that change no answer, and what it refuses.

What both models share (adapters, sentences, the weights file) is tested with RSRefSeg.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase, Replace, Sequence
from torch import Tensor
from torch.nn import functional as F
from transformers import Sam2HieraDetConfig

from mapper import models
from mapper.errors import ModelError
from mapper.models import rsrefseg2
from mapper.models.rsrefseg2 import Attention, Net, RsRefSeg2, from_upstream, load, upstream_shapes, with_case
from mapper.models.twin import ended_ids
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

MODEL = "rsrefseg2"


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
def model(tensors: dict[str, Tensor], config: dict[str, Any]) -> RsRefSeg2:
    return segmenter(from_upstream(tensors, config))


@pytest.fixture
def stored(tensors: dict[str, Tensor], config: dict[str, Any], tmp_path: Path) -> Path:
    return written(tmp_path, tensors, config, word_tokenizer())


def segmenter(net: Net, **settings: Any) -> RsRefSeg2:
    return RsRefSeg2(net, word_tokenizer(), **{"fingerprint": "", "device": "cpu", "precision": "fp32", **settings})


def written(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], tokenizer: Tokenizer) -> Path:
    file = folder / "tiny.safetensors"
    write_weights(file, model=MODEL, tensors=tensors, config=config, tokenizer=tokenizer.to_str().encode())
    return file


def answers(net: Net, case: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Every number that the reference has of a case, by the reference's name."""
    pixels, ids = inputs(case)
    with torch.inference_mode():
        image, text = net.image(pixels), net.text(ids)
        read, pooled = net.text_tower(ids)
        one, two = net.prompter.queries(read)
        found = net.found(image, text)
        placed, sparse = net.prompted(found, text)
        convolved = net.convolved(placed)
        likeness = net.likeness(convolved, text.whole)
        dense = net.mask_embed(likeness)
        low, expected_iou = net.decoded(image, sparse, dense)
        others, others_iou = net.decoded(image, sparse, dense, all_masks=True)
        net.decoder.dynamic_multimask_via_stability = False
        first, first_iou = net.decoded(image, sparse, dense)
        net.decoder.dynamic_multimask_via_stability = True
        return {
            "clip_vis_tokens": image.tokens,
            "text_tokens": read,
            "text_pooled": pooled,
            "text_queries_init": F.adaptive_avg_pool1d(read.transpose(1, 2), 3).transpose(1, 2),
            "text_queries1": one,
            "text_queries2": two,
            "refined_img_stage1": found,
            "refined_img_stage2": placed,
            "refined_text_queries2": text.queries[:, -1],
            "sparse": sparse,
            "dense_conv_out": convolved,
            "dense_logits": likeness,
            "image_embed": image.coarse,
            "high_res_s1": image.middle,
            "high_res_s0": image.fine,
            "dense": dense,
            "all_masks": torch.cat([first, others], 1),
            "all_iou": torch.cat([first_iou, others_iou], 1),
            "low_res_masks": low,
            "iou_pred": expected_iou,
            "logits": net(pixels, ids),
            "ori_logits": net(pixels, ids, tuple(case["in_ori_hw"].tolist())),
        }


STEPS = [
    "clip_vis_tokens",
    "text_tokens",
    "text_pooled",
    "text_queries1",
    "text_queries2",
    "refined_img_stage1",
    "refined_img_stage2",
    "refined_text_queries2",
    "sparse",
    "dense_conv_out",
    "dense_logits",
    "image_embed",
    "high_res_s1",
    "high_res_s0",
    "dense",
    "all_masks",
    "all_iou",
    "low_res_masks",
    "iou_pred",
    "logits",
]


# ── the reference ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tiny(net: Net) -> Any:
    cases = {name: arrays(MODEL, name) for name in ("tiny_single", "tiny_batch2_pad")}
    found = {name: (case, answers(net, case)) for name, case in cases.items()}
    return found.__getitem__


@pytest.mark.parametrize("step", [*STEPS, "ori_logits"])
def test_every_step_of_one_sentence_is_the_references(tiny: Any, step: str) -> None:
    case, found = tiny("tiny_single")
    np.testing.assert_allclose(found[step].numpy(), case[f"out_{step}"], atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_a_padded_pair_is_the_references(tiny: Any, step: str) -> None:
    case, found = tiny("tiny_batch2_pad")
    np.testing.assert_allclose(found[step].numpy(), case[f"out_{step}"], atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["tiny_single", "tiny_batch2_pad"])
def test_the_mask_at_the_pictures_size_is_the_references(tiny: Any, name: str) -> None:
    case, found = tiny(name)
    assert ((found["ori_logits"].numpy() > 0) == case["out_ori_mask"]).mean() >= 0.9999


def test_the_published_size_has_the_published_names_and_shapes() -> None:
    shapes = upstream_shapes()
    assert shapes == {key: tuple(one["shape"]) for key, one in manifest(MODEL).items()}
    counted = {key: shape for key, shape in shapes.items() if "running_" not in key and "batches" not in key}
    frequencies = 2 * 128  # computed, not trained
    assert sum(int(np.prod(shape)) for shape in counted.values()) - frequencies == 1_447_126_199


@pytest.mark.parametrize("trunk", ["tiny", "base_plus", "large"])
def test_each_trunk_is_a_hiera_whose_channels_double_from_stage_to_stage(trunk: str) -> None:
    shapes = upstream_shapes(rsrefseg2.config(trunk))
    neck = "backbone.model.image_encoder.base_model.model.neck.convs"
    widths = [shapes[f"{neck}.{n}.conv.base_layer.weight"][1] for n in (3, 2, 1, 0)]
    assert (
        widths
        == {
            "tiny": [96, 192, 384, 768],
            "base_plus": [112, 224, 448, 896],
            "large": [144, 288, 576, 1152],
        }[trunk]
    )


def test_the_tiny_trunk_is_the_librarys_default() -> None:
    ours, default = rsrefseg2.config("tiny")["sam2"]["trunk"], Sam2HieraDetConfig()
    assert ours["stages"] == default.blocks_per_stage
    assert ours["window_spec"] == default.window_size_per_stage
    assert ours["global_att_blocks"] == default.global_attention_blocks
    assert ours["window_pos_embed_bkg_spatial_size"] == default.window_positional_embedding_background_size


# ── cheaper ways to the same end ────────────────────────────────────────────────────────────────────────────


def test_the_likeness_is_the_cosine_of_the_upsampled_features(net: Net) -> None:
    torch.manual_seed(1)
    features, whole = torch.randn(2, 48, 4, 4), F.normalize(torch.randn(2, 48), dim=1)
    fine = F.normalize(F.interpolate(features, (32, 32), mode="bilinear", align_corners=True), dim=1)
    cosine = torch.einsum("ncyx,nc->nyx", fine, whole)[:, None]
    expected = net.logit_scale.exp() * cosine + net.logit_bias
    np.testing.assert_allclose(net.likeness(features, whole).numpy(), expected.numpy(), atol=1e-5)


def test_few_queries_are_answered_as_any_are() -> None:
    torch.manual_seed(1)
    attention = Attention(32, 48, heads=4, internal=64).requires_grad_(False)
    q, k, v = torch.randn(2, 9, 32), torch.randn(2, 100, 48), torch.randn(2, 100, 48)
    np.testing.assert_allclose(attention.of_few(q, k, v).numpy(), attention(q, k, v).numpy(), atol=1e-5)


# ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────


def answer(tensors: dict[str, Tensor], config: dict[str, Any]) -> NDArray[np.float32]:
    with torch.inference_mode():
        answer: NDArray[np.float32] = from_upstream(tensors, config)(*inputs(arrays(MODEL, "tiny_single"))).numpy()
    return answer


@pytest.mark.parametrize(
    "part", ["trunk.", "neck.", "clip_vision_encoder.base_model.model.model.encoder.", "clip_text_"]
)
def test_adapters_of_every_part_change_the_answer(
    tensors: dict[str, Tensor], config: dict[str, Any], part: str
) -> None:
    without = {key: torch.zeros_like(one) if part in key and ".lora_B." in key else one for key, one in tensors.items()}
    assert np.abs(answer(without, config) - answer(tensors, config)).max() > 1e-2


@pytest.mark.parametrize(
    "key",
    [
        "decode_head.logit_scale1",
        "backbone.model.no_mem_embed",
        "backbone.model.sam_prompt_encoder.no_mask_embed.weight",
        "clip_vision_encoder.base_model.model.model.head.mlp.fc1.lora_A.default.weight",
        "prompter.dense_prompt_conv.1.num_batches_tracked",
    ],
)
def test_a_missing_tensor_is_named(tensors: dict[str, Tensor], config: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelError, match="1 keys are missing") as caught:
        from_upstream({name: one for name, one in tensors.items() if name != key}, config)
    assert caught.value.where["missing"] == key


def test_an_unknown_tensor_is_named(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="1 unknown") as caught:
        from_upstream({**tensors, "backbone.model.memory_encoder.weight": torch.zeros(1)}, config)
    assert caught.value.where["unknown"] == "backbone.model.memory_encoder.weight"


def test_a_tensor_of_another_shape_is_named(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="1 of another shape") as caught:
        from_upstream({**tensors, "prompter.img_pe": torch.zeros(1, 48, 5, 5)}, config)
    assert "prompter.img_pe" in str(caught.value.where["shapes"])


def test_the_scalars_of_the_loss_change_no_answer(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    other = {key: one + 1 if key.startswith("decode_head.") else one for key, one in tensors.items()}
    np.testing.assert_array_equal(answer(other, config), answer(tensors, config))


def test_published_bf16_is_computed_with_in_single_precision(
    tensors: dict[str, Tensor], config: dict[str, Any]
) -> None:
    half = {key: one.bfloat16() if one.is_floating_point() else one for key, one in tensors.items()}
    single = {key: one.float() if one.is_floating_point() else one for key, one in half.items()}
    assert {one.dtype for one in from_upstream(half, config).parameters()} == {torch.float32}
    np.testing.assert_array_equal(answer(half, config), answer(single, config))


# ── one answer ──────────────────────────────────────────────────────────────────────────────────────────────


def noise(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (count, 3, 128, 128), np.uint8)


def test_a_window_has_the_same_logits_to_the_bit_in_any_batch(model: RsRefSeg2) -> None:
    windows, text = noise(3), model.encode_text(EXPRESSIONS[:2])
    together = model.logits(windows, text)
    alone = np.concatenate([model.logits(windows[n : n + 1], text) for n in range(3)])
    assert together.tobytes() == alone.tobytes()


def test_a_sentence_has_the_same_logits_to_the_bit_in_any_company(model: RsRefSeg2) -> None:
    windows = noise(1)
    among = model.logits(windows, model.encode_text(EXPRESSIONS))
    for at, expression in enumerate(EXPRESSIONS):
        alone = model.logits(windows, model.encode_text([expression]))
        assert among[:, at].tobytes() == alone.tobytes()


def test_a_segmenter_answers_as_the_bare_network_does_without_pads(model: RsRefSeg2, net: Net) -> None:
    windows = noise(1)
    ids = torch.tensor([ended_ids(word_tokenizer(), EXPRESSIONS[0], longest=net.longest)])
    with torch.inference_mode():
        expected = net(torch.from_numpy(windows).float() / 255, ids)
    assert model.logits(windows, model.encode_text(EXPRESSIONS[:1])).tobytes() == expected.numpy().tobytes()


def test_pixels_are_encoded_once_however_many_sentences(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    net = from_upstream(tensors, config)
    model = segmenter(net)
    text, ran = model.encode_text(EXPRESSIONS), steps_through(net)
    model.logits(noise(2), text)
    assert ran == ["vision", "sam"] * 2


def test_pairs_answered_together_are_answered_as_alone(net: Net) -> None:
    ids = [torch.tensor([[3, 4, 1]]), torch.tensor([[9, 8, 7, 6, 1]])]
    with torch.inference_mode():
        image = net.image(torch.from_numpy(noise(2)).float() / 255)
        first, second = (net.text(one) for one in ids)
        together = net.answer(image, type(first)(*(torch.cat(pair) for pair in zip(first, second, strict=True))))
        alone = [
            net.answer(type(image)(*(part[n : n + 1] for part in image)), text)
            for n, text in enumerate((first, second))
        ]
    np.testing.assert_allclose(together.numpy(), torch.cat(alone).numpy(), atol=5e-4, rtol=1e-4)


def test_the_first_mask_can_be_asked_for_under_another_fingerprint(stored: Path, tiny: Any) -> None:
    case, _ = tiny("tiny_single")
    model, first = load(stored), load(stored, choose_by_stability=False)
    pixels, ids = inputs(case)
    with torch.inference_mode():
        low = first._net.answer(first._net.image(pixels), first._net.text(ids)).numpy()
    np.testing.assert_allclose(low, case["out_all_masks"][:, :1], atol=5e-4, rtol=1e-4)
    assert first.fingerprint == f"{model.fingerprint}/first"


def test_bf16_draws_nearly_the_same_masks_of_a_real_picture(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    windows, logits = crops(128, 6), []
    for precision in ("fp32", "bf16"):
        net = from_upstream(tensors, config)
        net.decoder.dynamic_multimask_via_stability = False  # which mask is chosen may hang on the last bit
        model = segmenter(net, precision=precision)
        logits.append(model.logits(windows, model.encode_text(EXPRESSIONS)))
    assert logits[0].tobytes() != logits[1].tobytes()
    assert iou(*logits) >= 0.995


@pytest.mark.slow
def test_compiled_it_draws_the_same_masks_under_another_fingerprint(model: RsRefSeg2) -> None:
    windows, text = crops(128, 2), model.encode_text(EXPRESSIONS)
    before, fingerprint = model.logits(windows, text), model.fingerprint
    model.compile()
    assert iou(before, model.logits(windows, text)) >= 0.995
    assert model.fingerprint == f"{fingerprint}/compiled"


# ── sentences ───────────────────────────────────────────────────────────────────────────────────────────────


def test_case_is_read(model: RsRefSeg2) -> None:
    upper, lower = (model.encode_text([words]).features[0].whole for words in ("The water", "the water"))
    assert not torch.equal(upper, lower)


@pytest.mark.parametrize("steps", [Lowercase(), Sequence([Lowercase(), Replace("-", " ")])])
def test_a_tokenizer_that_would_lower_case_is_kept_from_it(
    tensors: dict[str, Tensor], config: dict[str, Any], tmp_path: Path, steps: Any
) -> None:
    lowering = word_tokenizer()
    lowering.normalizer = steps
    model = load(written(tmp_path, tensors, config, lowering))
    expected = segmenter(from_upstream(tensors, config)).encode_text(["The water"]).features[0]
    assert torch.equal(model.encode_text(["The water"]).features[0].whole, expected.whole)


def test_the_other_steps_of_a_tokenizer_stay() -> None:
    tokenizer = word_tokenizer()
    tokenizer.normalizer = Sequence([Lowercase(), Replace("-", " ")])
    assert with_case(tokenizer).encode("The-water").ids == word_tokenizer().encode("The water").ids


# ── the contract ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_weights_file_is_all_it_takes(stored: Path) -> None:
    model: Segmenter = models.load(MODEL, weights=str(stored), device="cpu")
    assert (model.name, model.window_px, model.band_names) == (MODEL, 128, ("red", "green", "blue"))
    logits = model.logits(noise(2), model.encode_text(EXPRESSIONS))
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
    assert "resmap models show rsrefseg2" in caught.value.fix


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 4, 128, 128), (3, 128, 128)])
def test_windows_of_another_size_are_refused_with_a_remedy(model: RsRefSeg2, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        model.logits(np.zeros(shape, np.uint8), model.encode_text(["roads"]))
    assert "128" in caught.value.fix


def test_the_card_names_the_published_file_and_its_licence() -> None:
    card = models.card(MODEL)
    assert (card.source, card.file, card.licence) == ("KyanChen/RSRefSeg2", "rrsisd.pth", "Apache-2.0")
    assert card.tokenizer == "google/siglip2-so400m-patch16-512"
