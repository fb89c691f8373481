"""What the user asks for."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from mapper.errors import SpecError

LONGEST_EXPRESSION = 500
"""Characters. The models read 16 to 77 word pieces; what is longer is a pasted document, not a sentence."""

_JOINERS = "\u200c\u200d"
"""Letters of Persian and of many Indian scripts join or part by these, and emoji do; what else is invisible is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One thing to look for: its name in the mosaic, the sentence for the model, and where its mask begins."""

    name: str
    """Its coordinate along the mosaic's ``prompt`` dimension."""

    expression: str
    """The sentence the model is given."""

    threshold: float = 0.5
    """A pixel is present where its score is at least this; 0 to 1."""

    def __post_init__(self) -> None:
        for field, text in (("name", self.name), ("expression", self.expression)):
            if not text.strip(" " + _JOINERS):
                raise SpecError(f"a prompt's {field} is empty", fix="say what to look for, as in 'the buildings'")
            odd = next((mark for mark in text if not mark.isprintable() and mark not in _JOINERS), None)
            if odd is not None:
                raise SpecError(
                    f"a prompt's {field} has {_said(odd)}",
                    fix="type it anew, on one line",
                    prompt=ascii(text[:40]),
                )
        if len(self.expression) > LONGEST_EXPRESSION:
            raise SpecError(
                f"an expression has {len(self.expression)} characters",
                fix=f"say it in at most {LONGEST_EXPRESSION}",
                prompt=self.name[:40],
            )
        if not 0 < self.threshold <= 1:
            raise SpecError(f"threshold {self.threshold:g} is not in (0, 1]", fix="0.5 is usual", prompt=self.name)


def _said(mark: str) -> str:
    """A character that cannot be printed, in words."""
    if unicodedata.category(mark) == "Cc":
        return "control characters"
    return f"an invisible character, U+{ord(mark):04X} {unicodedata.name(mark, '')}".rstrip()
