"""What people should know of a model before they use it."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A model's facts, shown by ``resmap models list`` and ``show``. An empty string is: not known."""

    name: str
    title: str
    """One line: what it is and what it is good at."""

    paper: str = ""
    source: str = ""
    """Where its weights are published: an address, or a hub id."""

    file: str = ""
    """The published file, as its publisher names it."""

    tokenizer: str = ""
    """Hub id of the repository that has its tokenizer."""

    licence: str = "not stated"
    """SPDX identifier of the weights' licence, or ``not stated``."""

    terms: str = ""
    """What a user must know of the licence, in a sentence."""

    prompts: str = ""
    """How it likes its sentences, with an example."""

    ships: bool = False
    """Whether the weights come with resmap."""

    @property
    def url(self) -> str:
        """Where its weights are published, for a browser; empty where they are not, or not at an address."""
        if self._on_hub:
            return f"https://huggingface.co/{self.source}"
        return self.source if re.fullmatch(r"https?://\S+", self.source) else ""

    @property
    def convert_command(self) -> str:
        """What makes a weights file of the published one, or of one's own; empty where there is none to convert."""
        if not self.file and not self.tokenizer:
            return ""
        source = f"hf://{self.source}@main/{self.file}" if self._on_hub else self.file or "CHECKPOINT"
        tokenizer = f" --tokenizer {self.tokenizer}" if self.tokenizer else ""
        return f"resmap models convert {self.name} {source}{tokenizer} --out {self.name}.safetensors"

    @property
    def _on_hub(self) -> bool:
        return re.fullmatch(r"[\w.-]+/[\w.-]+", self.source) is not None


def stated(source: str) -> dict[str, Any]:
    """``WINDOW_PX`` and ``CARD`` of a model's module, as far as its text gives them as plain values.

    Nothing is imported: torch and the networks of transformers take five seconds, this takes five milliseconds.
    """
    found: dict[str, Any] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, node.value
            with suppress(ValueError, TypeError):  # computed: only an import tells
                if name == "WINDOW_PX":
                    found[name] = int(ast.literal_eval(value))
                elif name == "CARD" and isinstance(value, ast.Call):
                    found[name] = Card(**{str(word.arg): ast.literal_eval(word.value) for word in value.keywords})
    return found
