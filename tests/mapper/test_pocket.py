"""pocket: what the shipped weights can do, and what never changes whatever weights are shipped."""

from __future__ import annotations

import datetime
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from benchmarks.pocket.thesaurus import CONCEPTS, HELD_BACK, HELD_BACK_TEMPLATES
from catalogs.synthetic import CLASSES, Scene, World
from mapper.errors import ModelError
from mapper.models import pocket
from mapper.models.pocket import Pocket, grams, load, tokens, word_hash
from mapper.segmenter import Segmenter

DUBAI = Path(__file__).parents[3] / "shared" / "data" / "dubai" / "tile8"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Pocket:
    return load()


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A village, a lake, woods and fields of the demo's world, which training never drew."""
    return _scene(33, 500_000, 5_400_000, datetime.date(2020, 5, 10))


def _scene(zone: int, left: int, top: int, date: datetime.date) -> Scene:
    transform = Affine(1, 0, left, 0, -1, top)
    return World(7).draw(crs=f"EPSG:326{zone}", transform=transform, shape=(768, 1024), date=date)


def _said(model: Pocket, pixels: NDArray[np.uint8], *expressions: str) -> NDArray[np.bool_]:
    """Where each expression is said to be: ``(prompt, y, x)``."""
    return np.asarray(model.logits(pixels[None], model.encode_text(expressions))[0] >= 0)


def _iou(answer: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((answer & truth).sum() / max(1, (answer | truth).sum()))


def _noise(count: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (count, 3, height, width), np.uint8)


# ── what it can do ──────────────────────────────────────────────────────────────────────────────────────────


def test_finds_the_classes_of_an_unseen_world_with_a_mean_iou_of_at_least_060(model: Pocket, scene: Scene) -> None:
    scenes = [
        scene,  # these four corners and dates are those of benchmarks.pocket.score
        _scene(33, 460_000, 5_350_000, datetime.date(2021, 8, 1)),
        _scene(32, 520_000, 5_800_000, datetime.date(2022, 10, 15)),
        _scene(14, 480_000, 4_700_000, datetime.date(2023, 2, 20)),
    ]
    said = np.concatenate([_said(model, one.pixels, *CLASSES[1:]) for one in scenes], axis=1)
    truth = np.concatenate([one.truth for one in scenes])
    found = {name: _iou(mask, truth == CLASSES.index(name)) for name, mask in zip(CLASSES[1:], said, strict=True)}
    assert np.mean(list(found.values())) >= 0.60, found


@pytest.mark.parametrize(
    ("kind", "share"),
    [("taught", 0.85), ("never taught", 0.5), ("in sentences never taught", 0.75)],
)
def test_what_another_word_for_a_thing_costs(model: Pocket, scene: Scene, kind: str, share: float) -> None:
    costs: dict[str, float] = {}
    for name in CLASSES[1:]:
        first, *others = CONCEPTS[name]
        asked = {
            "taught": others,
            "never taught": HELD_BACK[name],
            "in sentences never taught": [template.format(first) for template in HELD_BACK_TEMPLATES],
        }[kind]
        there = scene.truth == CLASSES.index(name)
        best, *found = (_iou(mask, there) for mask in _said(model, scene.pixels, first, *asked))
        costs |= {phrase: best - iou for phrase, iou in zip(asked, found, strict=True)}
    dear = {phrase: round(cost, 3) for phrase, cost in costs.items() if cost > 0.03}
    assert np.median(list(costs.values())) <= 0.03
    assert len(dear) <= (1 - share) * len(costs), dear


def test_what_is_not_there_is_not_found(model: Pocket, scene: Scene) -> None:
    absent = ["an airplane", "an erupting volcano", "xqzv blorp", "whales", "the microscope", "philosophy"]
    shares = _said(model, scene.pixels, *absent).mean((1, 2))
    assert (shares < 0.01).all(), dict(zip(absent, shares, strict=True))


def test_on_a_part_of_dubai_it_never_saw_it_beats_chance_clearly(model: Pocket) -> None:
    if not DUBAI.exists():
        pytest.skip("the labelled pictures of shared/data are not on this machine")
    part = np.s_[:1024, 300:1324]
    pixels = np.array(Image.open(DUBAI / "images/image_part_001.jpg").convert("RGB"))[part]
    colours = np.array(Image.open(DUBAI / "masks/image_part_001.png").convert("RGB"))[part]
    asked = {"the buildings": (60, 16, 152), "roads": (110, 193, 228), "vegetation": (254, 221, 58)}
    said = _said(model, np.moveaxis(pixels, -1, 0), *asked)
    for (words, colour), mask in zip(asked.items(), said, strict=True):
        truth = (colours == colour).all(-1)
        by_chance = truth.mean() / (2 - truth.mean())  # yes as often as it is so, anywhere
        assert _iou(mask, truth) > 1.5 * by_chance, words


# ── one answer ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_window_has_the_same_logits_to_the_bit_in_any_batch(model: Pocket) -> None:
    windows, text = _noise(4, 128, 160), model.encode_text(["the houses", "water"])
    together = model.logits(windows, text)
    alone = np.concatenate([model.logits(windows[n : n + 1], text) for n in range(4)])
    assert together.tobytes() == alone.tobytes()


def test_a_sentence_has_the_same_logits_to_the_bit_in_any_company(model: Pocket) -> None:
    windows = _noise(1, 128, 128)
    alone = model.logits(windows, model.encode_text(["the houses"]))
    among = model.logits(windows, model.encode_text(["a very long sentence about all of the water", "the houses", "x"]))
    assert among[:, 1:2].tobytes() == alone.tobytes()


def test_two_loads_give_the_same_logits_to_the_bit(model: Pocket) -> None:
    windows = _noise(1, 96, 64)
    again = load()
    first, second = (m.logits(windows, m.encode_text(["woods"])) for m in (model, again))
    assert first.tobytes() == second.tobytes()
    assert model.fingerprint == again.fingerprint


def test_its_logits_are_the_dot_product_of_sentence_and_pixel_that_the_network_was_trained_with(
    model: Pocket, scene: Scene
) -> None:
    tensors = load_file(pocket.WEIGHTS)
    net = pocket.Net(vocabulary=len(tensors["words.keys"]))
    net.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in tensors.items()})
    net = pocket.folded(net.eval())
    pixels = np.ascontiguousarray(scene.pixels[None, :, :128, :160])
    with torch.inference_mode():
        code = net.words([tokens("the houses")])[0]
        vectors = net.pixels(pocket.standardised(torch.from_numpy(pixels)))
        evidence = (vectors * code[:-1, None, None]).sum(1, keepdim=True) + code[-1]
        expected = pocket.upsampled(evidence).numpy()
    np.testing.assert_allclose(model.logits(pixels, model.encode_text(["the houses"])), expected, atol=1e-3)


def test_half_precision_gives_the_mask_of_full_precision_under_another_fingerprint(model: Pocket, scene: Scene) -> None:
    half = load(precision="bf16")
    assert half.fingerprint != model.fingerprint
    pictures = [np.ascontiguousarray(scene.pixels[:, :640, :640])]
    if DUBAI.exists():
        paths = sorted((DUBAI / "images").glob("*.jpg"))
        pictures += [np.moveaxis(np.array(Image.open(path).convert("RGB")), -1, 0)[:, :640, :640] for path in paths]
    words = ("the buildings", "roads", "water", "vegetation", "bare land", "fields")
    for pixels in pictures:
        assert _iou(_said(half, pixels, *words), _said(model, pixels, *words)) >= 0.995


# ── the contract ────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_a_segmenter(model: Pocket) -> None:
    segmenter: Segmenter = model
    logits = segmenter.logits(_noise(2, 64, 96), segmenter.encode_text(["roads", "", "Häuser 房子"]))
    assert logits.shape == (2, 3, 64, 96)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert (segmenter.name, segmenter.window_px, segmenter.band_names) == (
        "pocket",
        640,
        ("red", "green", "blue"),
    )


def test_no_windows_and_no_sentences_are_answered_with_nothing(model: Pocket) -> None:
    assert model.logits(_noise(0, 64, 64), model.encode_text(["roads"])).shape == (0, 1, 64, 64)
    assert model.logits(_noise(2, 64, 64), model.encode_text([])).shape == (2, 0, 64, 64)


@pytest.mark.parametrize("shape", [(1, 3, 100, 64), (1, 4, 64, 64), (3, 64, 64)])
def test_pixels_of_the_wrong_shape_are_refused_with_a_remedy(model: Pocket, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        model.logits(np.zeros(shape, np.uint8), model.encode_text(["roads"]))
    assert caught.value.fix


def test_words_are_read_the_same_on_every_machine() -> None:
    assert tokens("Show me ALL the houses, (please)!") == ["show", "me", "all", "the", "houses", "please"]
    assert word_hash("lake") == word_hash("lake") < 2**62
    assert grams("sea")[:3] == [878, 2564, 311]


def test_a_word_without_a_meaning_is_read_as_the_two_words_it_is_written_of() -> None:
    known = ["lake", "shore", "buildings", "build", "ings"]
    words = pocket.WordNet(vocabulary=len(known))
    words.keys.copy_(torch.tensor(sorted(word_hash(word) for word in known)))
    assert words.parts("lakeshore") == ("lake", "shore")
    assert words.parts("buildings") == ("buildings",)
    assert words.parts("lakeblorp") == ("lakeblorp",)


def test_the_weights_fit_in_12_megabytes_and_are_the_ones_recorded(model: Pocket) -> None:
    assert pocket.WEIGHTS.stat().st_size <= 12e6
    assert json.loads(pocket.WEIGHTS.with_suffix(".json").read_text())["sha256"] in model.fingerprint


def test_weights_that_were_changed_are_refused_with_a_remedy(tmp_path: Path) -> None:
    content = bytearray(pocket.WEIGHTS.read_bytes())
    content[-1] ^= 1
    changed = tmp_path / pocket.WEIGHTS.name
    changed.write_bytes(content)
    (tmp_path / "pocket.json").write_text(pocket.WEIGHTS.with_suffix(".json").read_text())
    with pytest.raises(ModelError, match="not the ones recorded") as caught:
        load(changed)
    assert "reinstall" in caught.value.fix
    assert caught.value.where["weights"] == changed
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x80\x04pickled"])
def test_a_file_of_something_else_is_refused_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load(other)
    assert caught.value.fix
    with pytest.raises(ModelError):
        load(tmp_path / "absent.safetensors")
