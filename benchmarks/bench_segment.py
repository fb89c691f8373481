"""How fast each model answers, against the obvious loop in the same run: ``python -m benchmarks.bench_segment``.

The obvious loop is the same network as one would write it down: float32, a window and a sentence a forward, the
sentence encoded each time, memory laid out as torch does by default. Ours is the ``Segmenter`` that a worker holds. The
published checkpoints are not here, and speed does not depend on what the numbers are: but for pocket all weights are
made up, from ``../shared/reference/fill.py``, and what counts as said in comparing their masks is what lies above the
middle of their logits. A loop over n sentences is n equal forwards, so it is timed for one and multiplied.

Writes ``results/segment_<device>.json``; models already measured there are kept, so they can be run one at a time.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record import RESULTS, record
from mapper import models
from mapper.models import pocket, rsrefseg2
from mapper.models.weights import token_ids, write_weights
from mapper.segmenter import Segmenter

SHARED = Path(__file__).parents[2] / "shared"
PROMPTS = (1, 4, 16)
THINGS = (
    "the buildings", "all the roads", "water", "the trees", "a bridge", "the ships in the harbour", "storage tanks",
    "an airplane on the runway", "the stadium", "bare land", "tennis courts", "the dam", "a roundabout", "vehicles",
    "the golf course", "the chimney on the left",
)  # fmt: skip

Loop = Callable[[NDArray[np.uint8], str], object]
"""One window ``(3, y, x)`` and one sentence, answered the obvious way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model in one size."""

    name: str
    model: str
    loop: Callable[[Path | None, str], Loop]
    """Weights file and device → the obvious loop."""

    made_up: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any] | None]] | None
    """Tensors and configuration; None where the weights ship."""

    vocabulary: int = 0
    ends: tuple[int, ...] = ()
    """Ids of the tokens a sentence is given: before it and after it, or after it alone."""


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=[case.name for case in CASES], help="which; all where left out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--windows", type=int, help="in a batch; 1 on a CPU, 16 on a GPU where left out")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    path = RESULTS / f"segment_{asked.device}.json"
    found = json.loads(path.read_text())["models"] if path.exists() else {}
    for case in CASES:
        if case.name in asked.cases:
            windows = asked.windows or (1 if asked.device == "cpu" else 16)
            found[case.name] = measured(case, device=asked.device, repeats=asked.repeats, windows=windows)
            print(case.name, json.dumps(found[case.name], indent=1), flush=True)
            device = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
            record(f"segment_{asked.device}", {"device": device, "models": found})


def measured(case: Case, *, device: str, repeats: int, windows: int) -> dict[str, Any]:
    """Seconds and ratios of one case."""
    with weights_of(case) as path:
        side = models.window_px(case.model)
        pixels = picture(side)
        loop_s = _loop_s(case.loop(path, device), pixels, repeats)
        gc.collect()
        out: dict[str, Any] = {
            "window_px": side,
            "loop_s_per_window_and_prompt": loop_s,
            "windows_in_a_batch": windows,
            "threads": torch.get_num_threads(),
        }
        said = {}
        for precision in ("fp32", "bf16"):
            net = models.load(
                case.model, weights=None if path is None else str(path), device=device, precision=precision
            )
            out[precision], said[precision] = _ours(net, pixels, repeats, windows, loop_s)
            del net
            gc.collect()
        middle = 0.0 if case.made_up is None else np.median(said["fp32"], (2, 3), keepdims=True)
        one, other = said["fp32"] > middle, said["bf16"] > middle
        return out | {"mask_iou_bf16_fp32": round(float((one & other).sum() / max(1, (one | other).sum())), 5)}


def _loop_s(loop: Loop, pixels: NDArray[np.uint8], repeats: int) -> float:
    loop(pixels, THINGS[0])  # to warm up
    return seconds(lambda: loop(pixels, THINGS[0]), repeats)


def _ours(
    net: Segmenter, pixels: NDArray[np.uint8], repeats: int, windows: int, loop_s: float
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    batch = np.repeat(pixels[None], windows, axis=0)
    out: dict[str, Any] = {}
    net.logits(batch, net.encode_text(THINGS[:1]))  # to warm up
    for count in PROMPTS:
        text = net.encode_text(THINGS[:count])
        spent = seconds(lambda text=text: net.logits(batch, text), repeats) / windows  # type: ignore[misc]
        out[f"{count} prompts"] = {
            "s_per_window": round(spent, 4),
            "windows_per_s": round(1 / spent, 3),
            "times_the_loop": round(count * loop_s / spent, 2),
        }
    out["16 prompts cost, in times of 1"] = round(
        out["16 prompts"]["s_per_window"] / out["1 prompts"]["s_per_window"], 2
    )
    return out, net.logits(batch[:1], net.encode_text(THINGS[:4]))


def seconds(act: Callable[[], object], repeats: int) -> float:
    """Median of so many runs."""
    times = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.perf_counter()
        act()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return round(statistics.median(times), 5)


def picture(side: int) -> NDArray[np.uint8]:
    """A square ``(3, y, x)`` of Dubai, or noise where that is not there."""
    path = SHARED / "data/dubai/tile8/images/image_part_002.jpg"
    if not path.exists():
        return np.random.default_rng(0).integers(0, 255, (3, side, side), np.uint8)
    image = Image.open(path).convert("RGB").crop((0, 0, side, side))
    return np.ascontiguousarray(np.moveaxis(np.asarray(image), -1, 0))


@contextmanager
def weights_of(case: Case) -> Iterator[Path | None]:
    """A weights file of the case with a tokenizer of our few words; None where the weights ship."""
    if case.made_up is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{case.name}.safetensors"
        tensors, config = case.made_up()
        tokenizer = _tokenizer(case).to_str().encode()
        write_weights(path, model=case.model, tensors=tensors, config=config, tokenizer=tokenizer)
        yield path


def _tokenizer(case: Case) -> Tokenizer:
    words = sorted({word for thing in THINGS for word in thing.split()})
    first = max((*case.ends, 3)) + 1
    ids = {f"<{end}>": end for end in case.ends} | {"<unk>": 3} | {word: first + n for n, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    specials = [(f"<{end}>", end) for end in case.ends]
    single = f"{specials[0][0]} $A {specials[1][0]}" if len(specials) == 2 else f"$A {specials[0][0]}"
    tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=specials)
    return tokenizer


def made_up(shapes: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of these names and shapes, as the reference fixtures fill them; tables of places are computed."""
    spec = importlib.util.spec_from_file_location("fill", SHARED / "reference/fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    wanted = {key: shape for key, shape in shapes.items() if not key.endswith("relative_position_index")}
    return {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(wanted).items()}


def _manifest(model: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SHARED / f"reference/{model}/state_dict.json").read_text())
    return found


def _stored(path: Path | None) -> dict[str, Tensor]:
    assert path is not None
    return {key: value for key, value in load_file(path).items() if key != "tokenizer.json"}


def pocket_loop(_: Path | None, device: str) -> Loop:
    """Both branches as trained, batch norms and all."""
    tensors = load_file(pocket.WEIGHTS)
    net = pocket.Net(vocabulary=len(tensors["words.keys"]))
    net.load_state_dict({key: t.float() if t.is_floating_point() else t for key, t in tensors.items()})
    net.eval().requires_grad_(False)
    net.pixels.to(device)

    def answer(pixels: NDArray[np.uint8], sentence: str) -> object:
        code = net.words([pocket.tokens(sentence)])[0].to(device)
        vectors = net.pixels((torch.from_numpy(pixels)[None].to(device).float() - 110.0) / 60.0)
        evidence = (vectors * code[:-1, None, None]).sum(1, keepdim=True) + code[-1]
        return F.interpolate(evidence, scale_factor=2, mode="bilinear", align_corners=False).cpu().numpy()

    return answer


def remotesam_loop(path: Path | None, device: str) -> Loop:
    """Tokenize, normalise, the whole network, upsampled."""
    from mapper.models import remotesam

    net = models.from_upstream("remotesam", _stored(path)).to(device)
    tokenizer = _tokenizer(CASES[1])

    def answer(pixels: NDArray[np.uint8], sentence: str) -> object:
        ids, mask = remotesam.padded(token_ids(tokenizer, sentence, longest=20), device)
        with torch.inference_mode():
            x = remotesam.standardised(torch.from_numpy(pixels)[None].to(device))
            return net(x, ids, mask).cpu().numpy()

    return answer


def twin_loop(model: str, config: Mapping[str, Any] | None) -> Callable[[Path | None, str], Loop]:
    """RSRefSeg 1 and 2: picture and ids in, logits out."""

    def loop(path: Path | None, device: str) -> Loop:
        net = models.from_upstream(model, _stored(path), config).to(device)
        tokenizer = _tokenizer(next(case for case in CASES if case.model == model))

        def answer(pixels: NDArray[np.uint8], sentence: str) -> object:
            ids = torch.tensor([token_ids(tokenizer, sentence, longest=64)], device=device)
            with torch.inference_mode():
                return net(torch.from_numpy(pixels)[None].to(device).float() / 255.0, ids).cpu().numpy()

        return answer

    return loop


def _rsrefseg2(trunk: str) -> Case:
    config = rsrefseg2.config(trunk)
    return Case(
        name=f"rsrefseg2 {trunk}",
        model="rsrefseg2",
        loop=twin_loop("rsrefseg2", config),
        made_up=lambda: (made_up(rsrefseg2.upstream_shapes(config)), config),
        ends=(1,),
    )


CASES = (
    Case(name="pocket", model="pocket", loop=pocket_loop, made_up=None),
    Case(
        name="remotesam",
        model="remotesam",
        loop=remotesam_loop,
        made_up=lambda: (made_up(_manifest("remotesam")), None),
        ends=(101, 102),
    ),
    Case(
        name="rsrefseg base",
        model="rsrefseg",
        loop=twin_loop("rsrefseg", None),
        made_up=lambda: (made_up(_manifest("rsrefseg")), None),
        ends=(1,),
    ),
    _rsrefseg2("tiny"),
    _rsrefseg2("base_plus"),
    _rsrefseg2("large"),
)


if __name__ == "__main__":
    main()
