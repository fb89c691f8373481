"""What people should know of a model before they use it."""

from __future__ import annotations

from dataclasses import dataclass


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
