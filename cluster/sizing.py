"""How many threads read and write for one GPU, how many tiles it holds, how many windows it takes at once: rules only.

    held ─► waiting ─► reading ─► ready ─► on the model ─► unwritten ─► writing
                       readers     └── two of them: the model never waits ──┘  writers

A worker begins with few threads and adds one where a queue says that the model will wait, so that what is near needs
few and what is far gets many. Nothing here sleeps or counts time: a size follows from the queues alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

WANTED_READY = 2
"""Tiles read and not yet blended: one the model is busy with, one behind it."""

SPARE_READY = 5
"""With more than so many a reader is one too many. Taken away at two or three, the model starves now and then:
simulated, imagery of six times the model's time kept it busy for 0.82 of the time, and for 0.98 with this."""

CALM_BATCHES = 64
"""Batches without an error before the model is given more windows again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of one worker."""

    readers: int = 2
    writers: int = 1

    @property
    def holds(self) -> int:
        """Tiles to have in hand: one a thread, those that wait for the model, and one to begin at once."""
        return self.readers + WANTED_READY + self.writers + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a worker may grow to."""

    readers: int = 8
    writers: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """Tiles of one worker by what they are at."""

    waiting: int
    """For a reader."""

    reading: int
    ready: int
    """Read; with the model, or about to be."""

    unwritten: int
    """Waiting for a writer."""

    writing: int


def sized(sizes: Sizes, seen: Queues, limits: Limits) -> Sizes:
    """The sizes to have now; asked each time a tile leaves the model.

    Twice the readers while the model has nothing to do and all readers are at work; one more while it has no tile
    behind the one it is busy with; one fewer when more than a few wait for it. One writer more while a tile waits for
    one; one fewer when two idle.
    """
    readers, writers = sizes.readers, sizes.writers
    if seen.ready < WANTED_READY and seen.reading >= readers:
        readers = min(readers + 1 if seen.ready else 2 * readers, limits.readers)
    elif seen.ready > SPARE_READY:
        readers = max(readers - 1, 1)
    if seen.unwritten > 0 and seen.writing >= writers:
        writers = min(writers + 1, limits.writers)
    elif seen.unwritten == 0 and seen.writing < writers - 1:
        writers = max(writers - 1, 1)
    return replace(sizes, readers=readers, writers=writers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """How many windows the model is given at once."""

    size: int
    most: int
    least: int
    """Below this an answer could change; see ``mapper.look.GPU_LAUNCH``."""

    calm: int = 0
    """Batches in a row that went well."""

    def after(self, *, out_of_memory: bool) -> Batch | None:
        """What to give it next: half after memory ran out, twice as many after a calm time; None where even the
        least did not fit."""
        if out_of_memory:
            if self.size <= self.least:
                return None
            return replace(self, size=max(self.least, self.size // 2), calm=0)
        if self.size < self.most and self.calm + 1 >= CALM_BATCHES:
            return replace(self, size=min(self.most, 2 * self.size), calm=0)
        return replace(self, calm=self.calm + 1)
