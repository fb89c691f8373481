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
├── AssetError               imagery arrived and is bad: give the tile up
├── StoreError               the mosaic could not be written this time: try the tile again
├── ResourceError            memory ran out: try the tile again, later
├── WorkerLostError          the process on the GPU is gone: try the tile elsewhere
├── BusyError                another process is running this mosaic
├── VerifyError              the mosaic is not what the ledger says: exit status 7
├── QuestionError            the question cannot be asked of this mosaic: exit status 2
└── GapError                 more of the place asked about was never seen than is allowed: exit status 8
"""

from __future__ import annotations

from typing import ClassVar


class MapperError(Exception):
    """What happened (``args[0]``), what to do about it (``fix``), and where (``where``)."""

    retryable: ClassVar[bool] = False
    exit_status: ClassVar[int] = 1

    def __init__(self, what: str, *, fix: str = "", **where: object) -> None:
        super().__init__(what)  # args stays (what,), so the error survives the trip between processes
        self.fix = fix
        self.where = where

    @property
    def what(self) -> str:
        """The sentence that says what happened."""
        return str(self.args[0])

    def __str__(self) -> str:
        place = ", ".join(f"{key} {value}" for key, value in self.where.items() if value not in (None, ""))
        return self.what + (f" ({place})" if place else "") + (f"; {self.fix}" if self.fix else "")


class SpecError(MapperError):
    """The job asks for something that cannot be; the user must change it."""

    exit_status = 3


class GridError(SpecError):
    """The grid asked for cannot be laid over this imagery."""


class EmptySearchError(SpecError):
    """No imagery answers the search."""


class ModelError(SpecError):
    """No such model, or its weights are not what they should be."""


class MosaicError(SpecError):
    """The output is another job's, half made, of a later version, or no mosaic at all."""


class CredentialsError(MapperError):
    """A store or catalog refuses us; someone must log in."""

    exit_status = 5


class CatalogError(MapperError):
    """The catalog is down, or what it answers is not STAC."""


class MissingError(CatalogError):
    """The catalog has nothing at this address."""


class ReadError(MapperError):
    """Imagery did not arrive this time."""

    retryable = True


class AssetError(MapperError):
    """Imagery arrived and is bad: corrupt, unplaced, or not what the catalog says."""


class StoreError(MapperError):
    """The mosaic could not be written this time."""

    retryable = True


class ResourceError(MapperError):
    """Memory of the GPU or the machine ran out."""

    retryable = True


class WorkerLostError(MapperError):
    """The process that owned a GPU is gone."""

    retryable = True


class BusyError(MapperError):
    """Another process is running this mosaic now."""


class VerifyError(MapperError):
    """The mosaic is not what the ledger says."""

    exit_status = 7


class QuestionError(MapperError):
    """The question cannot be asked of this mosaic: no such prompt, date or place, or a file that holds no polygons."""

    exit_status = 2


class GapError(MapperError):
    """More of the place asked about was never seen than the one who asks allows."""

    exit_status = 8
