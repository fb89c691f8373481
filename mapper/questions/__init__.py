"""How much, how many, where, and what changed: a mosaic, asked."""

from __future__ import annotations

from mapper.questions.answers import (
    ALLOWED_GAPS,
    Answer,
    AreaRow,
    ChangeRow,
    CountRow,
    area,
    change,
    count,
    where,
)

__all__ = ["ALLOWED_GAPS", "Answer", "AreaRow", "ChangeRow", "CountRow", "area", "change", "count", "where"]
