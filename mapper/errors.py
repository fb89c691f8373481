"""Everything that can go wrong, by what the one who catches it would do.

MapperError                  what happened, where, and what to do about it
├── SpecError                the user must change the job: exit status 3
│   ├── GridError            the grid asked for cannot be laid
│   ├── EmptySearchError     no imagery answers the search
│   ├── ModelError           no such model, or its weights are not what they should be
│   └── MosaicError          the output is another job's, half made, or not a mosaic
├── CredentialsError         someone must log in: exit status 5
├── CatalogError             the catalog is down or answers nonsense: exit status 1
│   └── MissingError         the catalog has nothing at this address
├── ReadError                imagery did not arrive this time: try the tile again
│   └── BrokenReadError      or arrived broken, on the way or where it lies: the same, but no sign of an outage
├── AssetError               imagery arrived and is bad: give the tile up
├── StoreError               the mosaic could not be written this time: try the tile again
├── ResourceError            memory ran out: try the tile again, later
├── WorkerLostError          the process on the GPU is gone: try the tile elsewhere
├── HandedBackError          its machine leaves, and the tile was given back: the same, at once, and nothing counts
├── BusyError                another process is running this mosaic
├── AwayError                a resmap server does not answer now: ask it again, later
├── DeliveryError            an alert did not reach whom it is for: send it again, later
│   └── SinkGoneError        or whoever it is for wants no more of them: give it up
├── VerifyError              the mosaic is not what the ledger says: exit status 7
├── QuestionError            the question cannot be asked of this mosaic: exit status 2
└── GapError                 more of the place asked about was never seen than is allowed: exit status 8

Each has a ``cause``: whose matter it is, and so what a run does about it. ``cluster/retries.py`` has the numbers.

| cause       | errors                              | whose matter                    | what a run does              |
|-------------|-------------------------------------|---------------------------------|------------------------------|
| transient   | Read, BrokenRead, Store, Catalog,   | nobody's: it passes             | waits, and tries again       |
|             | Away, Delivery                      |                                 |                              |
| resource    | Resource                            | the machine's                   | waits longer, tries again    |
| worker      | WorkerLost                          | the machine's, or the tile's    | tries alone, on another      |
| returned    | HandedBack                          | nobody's: a machine leaves      | tries elsewhere at once      |
| credentials | Credentials                         | of whoever holds the keys       | tries again, then stops      |
| input       | Asset, Missing, SinkGone            | of whoever published it         | gives the tile up            |
| model       | Model                               | of whoever chose the weights    | stops                        |
| job         | Spec, Grid, EmptySearch, Mosaic,    | of whoever asked                | stops                        |
|             | Busy, Question, Gap                 |                                 |                              |
| bug         | Mapper, Verify                      | ours: it should not be possible | gives the tile up            |
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

Cause: TypeAlias = Literal["transient", "resource", "worker", "returned", "credentials", "input", "model", "job", "bug"]
"""Whose matter an error is."""

PASSING: frozenset[Cause] = frozenset(("transient", "resource", "worker", "returned"))
"""Causes that may be gone at the next try, though nobody did anything about them."""


class MapperError(Exception):
    """What happened (``args[0]``), what to do about it (``fix``), and where (``where``)."""

    cause: ClassVar[Cause] = "bug"
    exit_status: ClassVar[int] = 1

    def __init__(self, what: str, *, fix: str = "", **where: object) -> None:
        super().__init__(what)  # args stays (what,), so the error survives the trip between processes
        self.fix = fix
        said = where.pop("wait_s", None)
        self.wait_s = float(said) if isinstance(said, int | float) else None
        """How long whoever refused asks us to wait, as a server does with Retry-After; None where nothing was said."""

        self.where = where

    @property
    def retryable(self) -> bool:
        """Whether the same may go well at the next try."""
        return self.cause in PASSING

    @property
    def what(self) -> str:
        """The sentence that says what happened."""
        return str(self.args[0])

    def __str__(self) -> str:
        return (
            told(self.what, 2000)
            + (f" ({place})" if (place := self.place) else "")
            + (f"; {self.fix}" if self.fix else "")
        )

    @property
    def place(self) -> str:
        """Where it happened, in words."""
        known = {key: str(value) for key, value in self.where.items() if value not in (None, "")}
        return ", ".join(f"{key} {told(value, 300)}" for key, value in known.items())


def told(text: str, most: int) -> str:
    """Text of strangers as it may stand in a sentence: no control characters, and no longer than people read."""
    text = "".join(mark if mark.isprintable() or mark == "\n" else "\N{REPLACEMENT CHARACTER}" for mark in text)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


class SpecError(MapperError):
    """The job asks for something that cannot be; the user must change it."""

    cause: ClassVar[Cause] = "job"
    exit_status = 3


class GridError(SpecError):
    """The grid asked for cannot be laid over this imagery."""


class EmptySearchError(SpecError):
    """No imagery answers the search."""


class ModelError(SpecError):
    """No such model, or its weights are not what they should be."""

    cause: ClassVar[Cause] = "model"


class MosaicError(SpecError):
    """The output is another job's, half made, of a later version, or no mosaic at all."""


class CredentialsError(MapperError):
    """A store or catalog refuses us; someone must log in."""

    cause: ClassVar[Cause] = "credentials"
    exit_status = 5


class CatalogError(MapperError):
    """The catalog is down, or what it answers is not STAC."""

    cause: ClassVar[Cause] = "transient"


class MissingError(CatalogError):
    """The catalog has nothing at this address."""

    cause: ClassVar[Cause] = "input"


class ReadError(MapperError):
    """Imagery did not arrive this time."""

    cause: ClassVar[Cause] = "transient"


class BrokenReadError(ReadError):
    """Imagery arrived that cannot be decoded: it was cut off on the way, or is broken where it lies."""


class AssetError(MapperError):
    """Imagery arrived and is bad: corrupt, unplaced, or not what the catalog says."""

    cause: ClassVar[Cause] = "input"


class StoreError(MapperError):
    """The mosaic could not be written this time."""

    cause: ClassVar[Cause] = "transient"


class ResourceError(MapperError):
    """Memory of the GPU or the machine ran out."""

    cause: ClassVar[Cause] = "resource"


class WorkerLostError(MapperError):
    """The process that owned a GPU is gone."""

    cause: ClassVar[Cause] = "worker"


class HandedBackError(MapperError):
    """A worker whose machine leaves gives a tile back that it has not finished."""

    cause: ClassVar[Cause] = "returned"


class BusyError(MapperError):
    """Another process is running this mosaic now."""

    cause: ClassVar[Cause] = "job"


class AwayError(MapperError):
    """A resmap server does not answer now."""

    cause: ClassVar[Cause] = "transient"


class DeliveryError(MapperError):
    """An alert did not reach whom it is for this time."""

    cause: ClassVar[Cause] = "transient"


class SinkGoneError(DeliveryError):
    """Whoever alerts were for wants no more of them."""

    cause: ClassVar[Cause] = "input"


class VerifyError(MapperError):
    """The mosaic is not what the ledger says."""

    exit_status = 7


class QuestionError(MapperError):
    """The question cannot be asked of this mosaic: no such prompt, date or place, or a file that holds no polygons."""

    cause: ClassVar[Cause] = "job"
    exit_status = 2


class GapError(MapperError):
    """More of the place asked about was never seen than the one who asks allows."""

    cause: ClassVar[Cause] = "job"
    exit_status = 8
