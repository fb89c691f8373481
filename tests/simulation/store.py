"""A bucket in memory, through fsspec: what lies beneath the ledger and the lease. Each object is put whole or not."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from fsspec import AbstractFileSystem, register_implementation


class Bucket(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """One bucket for the whole process; ``begin`` empties it and says who is asked before and after each request."""

    protocol = "simulated"
    objects: ClassVar[dict[str, bytes]] = {}
    reading: Any
    putting: Any

    @classmethod
    def begin(cls, reading: Callable[[str], None], putting: Callable[[str, Callable[[], None]], None]) -> None:
        """A new world.

        Args:
            reading: is told the path before anything is read; may raise.
            putting: is given the path and the act that puts it.
        """
        cls.objects = {}
        cls.reading, cls.putting = staticmethod(reading), staticmethod(putting)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
        """An object."""
        self.reading(path)
        try:
            return self.objects[self._strip_protocol(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Put an object."""
        self.putting(path, lambda: self.objects.__setitem__(self._strip_protocol(path), bytes(value)))

    def rm_file(self, path: str) -> None:
        """Take an object away."""
        self.reading(path)
        if self.objects.pop(self._strip_protocol(path), None) is None:
            raise FileNotFoundError(path)

    def glob(self, path: str, maxdepth: Any = None, **kwargs: Any) -> list[str]:
        """Paths that match."""
        self.reading(path)
        pattern = self._strip_protocol(path)
        depth = pattern.count("/")
        return sorted(name for name in list(self.objects) if name.count("/") == depth and fnmatchcase(name, pattern))

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether there is such an object, or any beneath it."""
        self.reading(path)
        name = self._strip_protocol(path)
        return name in self.objects or any(other.startswith(f"{name}/") for other in list(self.objects))


register_implementation("simulated", Bucket, clobber=True)
