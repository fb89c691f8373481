"""Packages made on the spot that bring models, laid out as pip installs them: a module and its metadata."""

from __future__ import annotations

from pathlib import Path

LINES = '''
"""A model of one matrix, which says yes where a pixel is bright."""
import numpy as np
import torch
from torch import nn

from mapper.models import Card
from mapper.models.weights import fit, read_weights

WINDOW_PX = 32
CARD = Card(name="lines", title="Lines: a test", source="someone/lines", file="lines.pth", licence="MIT"{extra})


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(3, width)
        self.second = nn.Linear(width, 1)


def from_upstream(state_dict, config):
    net = Net((config or {{"width": 4}})["width"])
    fit(net, state_dict, model="lines")
    return net


class Lines:
    name, window_px, band_names, device = "lines", WINDOW_PX, ("red", "green", "blue"), "cpu"

    def __init__(self, net, fingerprint, tokenizer):
        self.net, self.fingerprint, self.tokenizer = net, fingerprint, tokenizer

    def encode_text(self, expressions):
        return len(expressions)

    def logits(self, pixels, text):
        answer = self.net.second(self.net.first(torch.tensor(pixels).float().movedim(1, -1))).detach().numpy()
        return np.repeat(answer[..., 0][:, None], text, axis=1)


def load(weights, *, device, precision):
    read = read_weights(weights, model="lines")
    return Lines(from_upstream(read.tensors, read.config), f"{{read.sha256}}/{{precision}}", read.tokenizer)
'''


def plug_in(folder: Path, name: str, source: str, *, package: str = "", version: str = "1.0") -> Path:
    """A folder for ``sys.path`` where a package of this name brings the model that the source is."""
    package = package or f"resmap-{name}"
    module = package.replace("-", "_")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(source)
    about = folder / f"{module}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (about / "entry_points.txt").write_text(f"[resmap.models]\n{name} = {module}\n")
    return folder


def lines(folder: Path, *, tokenizer: str = "") -> Path:
    """The package of the model ``lines``, for ``sys.path``."""
    extra = f', tokenizer="{tokenizer}"' if tokenizer else ""
    return plug_in(folder, "lines", LINES.format(extra=extra))
