"""RemoteSAM: the reference's numbers, one answer whatever the company, and what it refuses.

The reference lies beside the repository, in ../shared/reference/remotesam: weights made by a recipe, inputs, and what
the published network makes of them.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from torch import Tensor

from mapper import models
from mapper.errors import ModelError
from mapper.models import remotesam
from mapper.models.remotesam import Net, RemoteSam, from_upstream, lean, padded, turned
from mapper.models.weights import write_weights
from mapper.segmenter import Precision, Segmenter

SHARED = Path(__file__).parents[4] / "shared"
REFERENCE = SHARED / "reference" / "remotesam"

if not REFERENCE.is_dir():
    pytest.skip(
        "the reference outputs lie beside the repository, in ../shared, and are not here", allow_module_level=True
    )

KNOWN = "airplane ship building road water tree in the image on left right of a small large ##s"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *KNOWN.split()]


@pytest.fixture(scope="module")
def recipe() -> Iterator[Any]:
    """The reference's own module: weights, pictures and token ids."""
    folders = [str(REFERENCE), str(REFERENCE.parent)]
    sys.path[:0] = folders
    yield importlib.import_module("recipe")
    for name in ("recipe", "fill"):
        sys.modules.pop(name, None)
    for folder in folders:
        sys.path.remove(folder)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((REFERENCE / "tiny_config.json").read_text())
    return found


@pytest.fixture(scope="module")
def tensors(recipe: Any, config: dict[str, Any]) -> Mapping[str, Tensor]:
    """The tiny configuration's weights."""
    manifest = recipe.load_manifest(REFERENCE / "tiny_state_dict.json")
    arrays = recipe.reference_weights(manifest, overrides=config["weight_overrides"])
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


@pytest.fixture(scope="module")
def tiny(tensors: Mapping[str, Tensor], config: dict[str, Any]) -> Net:
    return from_upstream(tensors, config)


@pytest.fixture(scope="module")
def full(recipe: Any) -> Net:
    """The published size: 970 MB, made once."""
    manifest = recipe.load_manifest(REFERENCE / "state_dict.json")
    return from_upstream({key: torch.from_numpy(a) for key, a in recipe.reference_weights(manifest).items()})


@pytest.fixture(scope="module")
def weights(tensors: Mapping[str, Tensor], config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny configuration as a weights file, with a tokenizer of some twenty words."""
    path = tmp_path_factory.mktemp("remotesam") / "tiny.safetensors"
    write_weights(path, model="remotesam", tensors=tensors, config=config, tokenizer=_tokenizer())
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> RemoteSam:
    return remotesam.load(weights)


def _tokenizer() -> bytes:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer.to_str().encode()


def _noise(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (count, 3, 128, 128), np.uint8)


# ── the network is the published one ────────────────────────────────────────────────────────────────────────


def _as_map(tokens: Tensor, side: int) -> Tensor:
    return torch.unflatten(tokens.transpose(1, 2), 2, (side, side))


def watched(net: Net) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """A dictionary that fills, under the reference's names, while ``net`` runs; and how to stop it."""
    seen: dict[str, Tensor] = {}
    handles = []

    def gives(module: str, *names: str, change: Callable[[Tensor], Tensor] = lambda t: t) -> None:
        def keep(_: object, __: object, output: Any) -> None:
            for name, one in zip(names, output if isinstance(output, list | tuple) else [output], strict=True):
                seen[name] = change(one).clone()

        handles.append(net.get_submodule(module).register_forward_hook(keep))

    def takes(module: str, name: str) -> None:
        def keep(_: object, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0].clone()

        handles.append(net.get_submodule(module).register_forward_pre_hook(keep))

    def wide_of_the_last(_: object, __: object, output: Tensor) -> None:
        last = net.get_submodule("backbone.layers.3.visual_residual")
        seen["stage3_receptive"] = last(output)  # it has no influence, so the forward leaves it out

    gives("text_encoder.embeddings.LayerNorm", "text_embeddings")
    gives("text_encoder", "text_hidden")
    sides = net.sizes.sides
    gives("backbone.patch_embed", "patch_embed", change=lambda t: _as_map(t, sides[0]))
    for at, depth in enumerate(net.sizes.depths):
        layer, side = f"backbone.layers.{at}", sides[at]
        gives(f"{layer}.blocks.0", f"stage{at}_block0")
        gives(f"{layer}.blocks.1", f"stage{at}_block1")
        gives(f"{layer}.blocks.{depth - 1}", f"stage{at}_blocks")
        gives(f"{layer}.fusion.image_lang_att", f"stage{at}_lang")
        gives(f"{layer}.fusion", f"stage{at}_fusion")
        gives(f"backbone.norm{at}", f"stage{at}_out", change=lambda t, s=side: _as_map(t, s))  # type: ignore[misc]
        if at < 3:
            gives(f"{layer}.visual_residual", f"stage{at}_receptive")
            gives(f"{layer}.downsample", f"stage{at}_down")
    last = net.get_submodule(f"backbone.layers.3.blocks.{net.sizes.depths[3] - 1}")
    handles.append(last.register_forward_hook(wide_of_the_last))
    cim = "backbone.cim"
    takes(f"{cim}.down_channel", "cim_pool")
    gives(f"{cim}.down_channel", "cim_down")
    takes(f"{cim}.block.0.csa1.m.attention", "cim_csa1_tokens")
    gives(f"{cim}.block.0.csa1.m.attention", "cim_csa1_attn")
    gives(f"{cim}.block.0.csa1", "cim_csa1")
    gives(f"{cim}.block.0.intra_ff", "cim_intra")
    gives(f"{cim}.block.0.csa2", "cim_csa2")
    gives(f"{cim}.block.0.ff", "cim_ff")
    gives(f"{cim}.up_channel", "cim_up")
    gives(cim, *(f"cim_out{at}" for at in range(4)))
    for step in (4, 3, 2):
        takes(f"classifier.conv2_{step}", f"dec{step}_a")
        gives(f"classifier.conv2_{step}.rounting_func", f"dec{step}_alpha", f"dec{step}_theta")
        gives(f"classifier.bn2_{step}", f"dec{step}_b", change=torch.relu)
    gives("classifier", "logits_low")

    def stop() -> None:
        for handle in handles:
            handle.remove()

    return seen, stop


def _run(net: Net, pixels: NDArray[np.float32], ids: NDArray[np.int64], mask: NDArray[np.int64]) -> dict[str, Tensor]:
    seen, stop = watched(net)
    try:
        with torch.inference_mode():
            seen["logits"] = net(*(torch.from_numpy(array) for array in (pixels, ids, mask)))
    finally:
        stop()
    return seen


def _close(actual: NDArray[Any], expected: NDArray[Any], name: str) -> None:
    np.testing.assert_allclose(actual, expected, atol=2e-4, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("case", "names", "sentences"),
    [
        ("tiny_a", ["tiny_a"], [[101, 7, 8, 9, 10, 102]]),
        ("tiny_batch2", ["tiny_b0", "tiny_b1"], [[101, 55, 102], [101, *range(200, 217), 102, 999]]),
    ],
)
def test_the_small_network_gives_every_array_of_the_reference(
    recipe: Any, tiny: Net, case: str, names: list[str], sentences: list[list[int]]
) -> None:
    expected = np.load(REFERENCE / f"{case}.npz")
    images = [recipe.synthetic_image(name, 128, 128, 12) for name in names]
    assert [hashlib.sha256(image.tobytes()).hexdigest() for image in images] == list(expected["image_sha256"])
    tokens = [recipe.pad_ids(ids) for ids in sentences]
    ids, mask = (np.concatenate(arrays) for arrays in zip(*tokens, strict=True))
    seen = _run(tiny, np.concatenate([recipe.to_input(image) for image in images]), ids, mask)
    given = {"image_sha256", "input_ids", "attention_mask"}
    assert np.array_equal(expected["input_ids"], ids)
    assert np.array_equal(expected["attention_mask"], mask)
    for name in set(expected.files) - given:
        _close(seen[name].numpy(), expected[name], name)


def _stride(array: NDArray[Any]) -> NDArray[Any]:
    """The part of an array that the reference keeps of the published size."""
    if array.ndim == 4:
        step = max(1, array.shape[2] // 7)
        return array[:, :8, ::step, ::step]
    return array[:, :: max(1, array.shape[1] // 49), :8]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["full_a", "full_b"])
def test_the_published_size_gives_every_array_of_the_reference(recipe: Any, full: Net, case: str) -> None:
    expected = np.load(REFERENCE / f"{case}.npz")
    height, width = {"full_a": (896, 896), "full_b": (600, 800)}[case]
    image = recipe.synthetic_image(case, height, width, 24)
    assert hashlib.sha256(image.tobytes()).hexdigest() == str(expected["image_sha256"])
    if case == "full_b":
        image = np.asarray(Image.fromarray(image).resize((896, 896), Image.Resampling.BILINEAR))
        assert np.array_equal(image[::16, ::16], expected["resized_s16"])
        np.testing.assert_allclose(image.mean((0, 1)), expected["resized_mean"], rtol=1e-9)
        _close(recipe.to_input(image)[:, :, ::16, ::16], expected["input_s16"], "input_s16")
    torch.set_num_threads(2)
    seen = _run(full, recipe.to_input(image), expected["input_ids"], expected["attention_mask"])
    arrays = {name: tensor.numpy() for name, tensor in seen.items()}
    for entry in expected.files:
        kind, _, name = entry.rpartition("/")
        if kind == "slice":
            _close(_stride(arrays[name]), expected[entry], entry)
        elif kind == "stat":
            whole = arrays[name].astype(np.float64)
            _close(np.array([whole.mean(), whole.std(), np.abs(whole).max()]), expected[entry], entry)
        elif entry in arrays:
            _close(arrays[entry], expected[entry], entry)
    low, logits = arrays["logits_low"], arrays["logits"]
    _close(low[:, :, ::2, ::2], expected["logits_low_s2"], "logits_low_s2")
    _close(low[:, :, 96:128, 96:128], expected["logits_low_patch"], "logits_low_patch")
    _close(logits[:, :, ::8, ::8], expected["logits_s8"], "logits_s8")
    _close(logits[:, :, 400:448, 400:448], expected["logits_patch"], "logits_patch")
    margin = logits[0, 1] - logits[0, 0]
    assert (margin > 0).sum() == pytest.approx(int(expected["positive_pixels"]), rel=2e-4)
    quantiles = np.quantile(np.abs(margin), [0, 0.001, 0.01, 0.1, 0.5])
    _close(quantiles, expected["min_abs_margin_quantiles"], "margins")
    if case == "full_b":
        score = 1 / (1 + np.exp(-margin.astype(np.float64)))
        rows, columns = (np.arange(size) * 896 // size for size in (height, width))
        back = score[rows][:, columns]
        _close(back[::8, ::8], expected["prob_orig_s8"], "prob_orig_s8")
        assert (back > 0.5).sum() == pytest.approx(int(expected["mask_orig_pixels"]), rel=2e-4)
        assert ((back > 0.5)[::8, ::8] != expected["mask_orig_s8"]).mean() <= 2e-4
        _close(np.array([score.max(), score.mean()]), expected["prob_max_mean"], "prob_max_mean")


@pytest.mark.parametrize(("manifest", "small"), [("tiny_state_dict.json", True), ("state_dict.json", False)])
def test_names_order_shapes_and_dtypes_are_those_of_the_published_checkpoint(
    config: dict[str, Any], manifest: str, small: bool
) -> None:
    with torch.device("meta"):
        net = Net(remotesam.Sizes.of(config if small else None))
    actual = [(key, list(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in net.state_dict().items()]
    entries = json.loads((REFERENCE / manifest).read_text())
    assert actual == [(key, entry["shape"], entry["dtype"]) for key, entry in entries.items()]


def test_a_checkpoint_with_all_its_integers_a_pooler_and_position_ids_is_the_same_network(
    tensors: Mapping[str, Tensor], config: dict[str, Any], tiny: Net
) -> None:
    spare = {
        "text_encoder.pooler.dense.bias": torch.ones(768),
        "text_encoder.embeddings.position_ids": torch.arange(512),
    }
    again = from_upstream({**tiny.state_dict(), **spare}, config)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in tiny.state_dict().items())


BIAS = "classifier.conv1_1.bias"
INDEX = "backbone.layers.1.blocks.0.attn.relative_position_index"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda t: t.pop(BIAS), BIAS),
        (lambda t: t.update({"classifier.extra": torch.ones(1)}), "classifier.extra"),
        (lambda t: t.update({BIAS: torch.ones(3)}), BIAS),
        (lambda t: t.update({INDEX: torch.zeros(9, 9, dtype=torch.int64)}), INDEX),
        (lambda t: t.update({INDEX: torch.zeros(4, 4, dtype=torch.int64)}), INDEX),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_the_key_named(
    tensors: Mapping[str, Tensor], config: dict[str, Any], change: Callable[[dict[str, Tensor]], object], name: str
) -> None:
    changed = dict(tensors)
    change(changed)
    with pytest.raises(ModelError) as caught:
        from_upstream(changed, config)
    assert name in str(caught.value)
    assert caught.value.fix


def test_a_configuration_with_an_entry_missing_is_refused_and_the_entry_named(
    tensors: Mapping[str, Tensor], config: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match="window_size"):
        from_upstream(tensors, {key: value for key, value in config.items() if key != "window_size"})


@pytest.mark.parametrize("size", [(128, 64), (132, 128), (124, 128)])
def test_the_network_refuses_pictures_of_another_size(tiny: Net, size: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match="pixels of shape"):
        tiny(torch.zeros(1, 3, *size), *padded([101, 102]))


def test_a_picture_up_to_three_pixels_short_is_answered_at_its_own_size(tiny: Net) -> None:
    with torch.inference_mode():
        assert tiny(torch.zeros(1, 3, 125, 127), *padded([101, 102])).shape == (1, 2, 125, 127)


def test_a_kernel_turned_by_a_right_angle_is_its_rotation_and_by_none_itself() -> None:
    kernel = torch.arange(9.0)
    assert torch.equal(turned(torch.zeros(1)) @ kernel, kernel)
    quarter = (turned(torch.tensor([torch.pi / 2])) @ kernel).view(3, 3)
    # A place looks for its value a quarter turn further, from right (x) to down (y).
    assert torch.allclose(quarter, torch.rot90(kernel.view(3, 3)), atol=1e-5)


# ── one answer ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_window_has_the_same_logits_to_the_bit_in_any_batch(weights: Path, precision: Precision) -> None:
    model, windows = remotesam.load(weights, precision=precision), _noise(3)
    text = model.encode_text(["airplane in the image"])
    together = model.logits(windows, text)
    alone = np.concatenate([model.logits(windows[n : n + 1], text) for n in range(3)])
    assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_sentence_has_the_same_logits_to_the_bit_in_any_company(weights: Path, precision: Precision) -> None:
    model, windows = remotesam.load(weights, precision=precision), _noise(1)
    alone = model.logits(windows, model.encode_text(["ships"]))
    among = model.logits(
        windows, model.encode_text(["the large building on the left of the road", "ships", "", "ships"])
    )
    assert among[:, 1:2].tobytes() == alone.tobytes() == among[:, 3:].tobytes()
    assert not np.array_equal(among[:, 0], among[:, 1])


def test_windows_taken_together_as_a_gpu_does_are_answered_as_alone(
    weights: Path, model: RemoteSam, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows, text = _noise(3), model.encode_text(["water", "the ships"])
    alone = model.logits(windows, text)
    monkeypatch.setattr(model, "_one_by_one", False)
    np.testing.assert_allclose(model.logits(windows, text), alone, atol=2e-4, rtol=1e-4)
    assert model.logits(windows[:0], text).shape == (0, 2, 128, 128)


def test_two_loads_give_the_same_logits_to_the_bit(weights: Path, model: RemoteSam) -> None:
    again = remotesam.load(weights)
    first, second = (one.logits(_noise(1), one.encode_text(["water"])) for one in (model, again))
    assert first.tobytes() == second.tobytes()
    assert model.fingerprint == again.fingerprint


def test_its_logits_are_the_networks_foreground_less_background(model: RemoteSam, tiny: Net, recipe: Any) -> None:
    image = recipe.synthetic_image("tiny_a", 128, 128, 12)
    actual = model.logits(np.moveaxis(image, -1, 0)[None], model.encode_text(["a small ship"]))
    ids = [WORDS.index(word) for word in ("[CLS]", "a", "small", "ship", "[SEP]")]
    with torch.inference_mode():
        background, foreground = tiny(torch.from_numpy(recipe.to_input(image)), *padded(ids))[0]
    np.testing.assert_allclose(actual[0, 0], (foreground - background).numpy(), atol=2e-4, rtol=1e-4)


def test_a_sentence_is_cut_to_twenty_tokens_and_loses_its_end(model: RemoteSam) -> None:
    start = " ".join(["road"] * 19)  # the first token is [CLS]
    short, long, longer = model.encode_text([" ".join(["road"] * 18), start, f"{start} water"]).words
    assert torch.equal(long, longer)
    assert not torch.equal(short, long)


def test_what_stands_in_the_padding_does_not_matter(tiny: Net, recipe: Any) -> None:
    pixels = torch.from_numpy(recipe.to_input(recipe.synthetic_image("tiny_a", 128, 128, 12)))
    ids, mask = padded([101, 7, 8, 102])
    other = torch.where(mask == 1, ids, 500)
    with torch.inference_mode():
        assert torch.equal(tiny(pixels, ids, mask), tiny(pixels, other, mask))


def _picture(side: int) -> NDArray[np.uint8]:
    """A part of Dubai at half its scale."""
    path = SHARED / "data" / "dubai" / "tile8" / "images" / "image_part_001.jpg"
    if not path.exists():
        pytest.skip("the real pictures lie beside the repository, in ../shared/data, and are not here")
    whole = Image.open(path).convert("RGB").crop((0, 0, 2 * side, 2 * side))
    return np.moveaxis(np.asarray(whole.resize((side, side))), -1, 0)[None]


def _iou(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float(((first > 0) & (second > 0)).sum() / ((first > 0) | (second > 0)).sum())


def test_half_precision_gives_the_mask_of_full_precision_on_a_real_picture_under_another_fingerprint(
    weights: Path, model: RemoteSam
) -> None:
    half = remotesam.load(weights, precision="bf16")
    assert half.fingerprint != model.fingerprint
    picture, sentences = _picture(128), ["the buildings in the image", "road", "a small tree on the left"]
    whole, halved = (one.logits(picture, one.encode_text(sentences)) for one in (model, half))
    assert 0.1 < (whole > 0).mean() < 0.9
    assert _iou(whole, halved) >= 0.995


@pytest.mark.slow
def test_compiled_it_gives_the_same_mask_under_another_fingerprint(weights: Path, model: RemoteSam) -> None:
    compiled = models.load("remotesam", weights=str(weights), device="cpu", compiled=True)
    assert compiled.fingerprint == f"{model.fingerprint}/compiled"
    picture, text = _picture(128), model.encode_text(["the buildings in the image"])
    np.testing.assert_allclose(compiled.logits(picture, text), model.logits(picture, text), atol=2e-4, rtol=1e-4)


# ── the contract ────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_a_segmenter(weights: Path) -> None:
    segmenter: Segmenter = models.load("remotesam", weights=str(weights), device="cpu")
    logits = segmenter.logits(_noise(2), segmenter.encode_text(["roads", "", "Häuser 房子"]))
    assert logits.shape == (2, 3, 128, 128)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert (segmenter.name, segmenter.window_px, segmenter.band_names, segmenter.device) == (
        "remotesam",
        128,
        ("red", "green", "blue"),
        "cpu",
    )
    assert segmenter.fingerprint == f"{hashlib.sha256(weights.read_bytes()).hexdigest()}/fp32"
    assert models.window_px("remotesam") == 896


def test_no_windows_and_no_sentences_are_answered_with_nothing(model: RemoteSam) -> None:
    assert model.logits(_noise(0), model.encode_text(["roads"])).shape == (0, 1, 128, 128)
    assert model.logits(_noise(2), model.encode_text([])).shape == (2, 0, 128, 128)


@pytest.mark.parametrize("shape", [(1, 3, 128, 96), (1, 4, 128, 128), (3, 128, 128), (1, 3, 896, 896)])
def test_windows_of_another_size_are_refused_with_a_remedy(model: RemoteSam, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="was given uint8 pixels") as caught:
        model.logits(np.zeros(shape, np.uint8), model.encode_text(["roads"]))
    assert "128" in caught.value.fix


def test_without_weights_it_says_where_they_are(model: RemoteSam) -> None:
    with pytest.raises(ModelError, match="do not come with resmap") as caught:
        models.load("remotesam")
    assert "resmap models show remotesam" in caught.value.fix
    card = models.card("remotesam")
    assert (card.source, card.file, card.tokenizer) == (
        "1e12Leon/RemoteSAM",
        "RemoteSAMv1.pth",
        "google-bert/bert-base-uncased",
    )
    assert card.licence == "not stated"
    assert not card.ships


def test_a_weights_file_without_a_tokenizer_is_refused_with_a_remedy(
    tensors: Mapping[str, Tensor], config: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "mute.safetensors"
    write_weights(path, model="remotesam", tensors=tensors, config=config)
    with pytest.raises(ModelError, match="no tokenizer") as caught:
        remotesam.load(path)
    assert caught.value.fix


def test_a_precision_it_does_not_have_is_refused(weights: Path) -> None:
    with pytest.raises(ModelError, match="no precision 'int8'"):
        models.load("remotesam", weights=str(weights), precision="int8")  # type: ignore[arg-type]


def test_made_lean_the_network_still_gives_the_same_logits(
    tensors: Mapping[str, Tensor], config: dict[str, Any], tiny: Net
) -> None:
    slim = lean(from_upstream(tensors, config), torch.float32)
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    ids, mask = (torch.cat([one, one]) for one in padded([101, 20, 30, 102]))
    with torch.inference_mode():
        np.testing.assert_allclose(slim(pixels, ids, mask), tiny(pixels, ids, mask), atol=2e-4, rtol=1e-4)
