"""A mosaic in an icechunk repository: nothing is seen before it is committed, and every commit can be seen again.

A worker puts chunks through a fork of a session, whose changes, some kilobytes, are the receipt. They do not depend
on the state they began from, so a worker may hold an old one for as long as it lives, whatever is committed
meanwhile. Receipts are merged into a session that the one who commits has held since its last commit: if anybody
else has committed the same chunks since, that is a conflict and not a loss. Of two receipts for one chunk the later
one in the list counts; by the promise of one answer they are the same.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import zarr
from zarr.errors import GroupNotFoundError

from mapper.engines import Snapshot, Tree
from mapper.errors import BusyError, MosaicError, QuestionError
from mapper.failpoints import reach
from mapper.icechunk_storage import FIRST_SNAPSHOT, icechunk, make_repository, open_repository
from mapper.patience import BRIEF, HASTY, PATIENT, Done, Patience, patiently
from mapper.shards import Shard
from mapper.storage import EngineName, is_local, store_failure

if TYPE_CHECKING:
    from icechunk import ForkSession, Repository, Session

_MARK = "__resmap_commit"
"""Key in a commit's metadata under which it says which commit it is. Keys of icechunk's own begin so, too."""

_NOT_THERE = ("invalid snapshot id", "not found", "NoSuchKey")
"""How icechunk, which has one class for most errors, and the stores beneath it say that there is no such thing."""


@dataclass(frozen=True, slots=True)
class _Seen:
    snapshot: str
    tree: Tree | None
    """None where that snapshot has no root group."""


@dataclass(frozen=True, slots=True)
class _Fork:
    """A session in which one thread at a time writes. Kept, because each has connections and a cache of its own."""

    session: ForkSession
    tree: Tree


class IcechunkEngine:
    """An icechunk repository, at the tip of its branch ``main`` or at one snapshot."""

    name: EngineName = "icechunk"

    def __init__(self, url: str, repository: Repository, seen: _Seen, *, writable: bool) -> None:
        self._url = url
        self._repository = repository
        self._seen = seen
        self._writable = writable
        self._lock = threading.Lock()
        self._held: Session | None = repository.writable_session("main") if writable else None
        self._forks: deque[_Fork] = deque()

    @classmethod
    def open(cls, url: str, *, writable: bool, at: str | None = None) -> IcechunkEngine | None:
        """The repository that is there, or None."""

        def found() -> IcechunkEngine | None:
            repository = open_repository(url)
            if repository is None:
                return None
            seen = _see(repository, url) if at is None else _see_at(repository, at, url)
            return cls(url, repository, seen, writable=writable and at is None)

        return _asking(found, url, "opened")

    @classmethod
    def make(cls, url: str) -> IcechunkEngine:
        """A repository without nodes, or the one that a killed ``create`` has left."""

        def made() -> IcechunkEngine:
            there = cls.open(url, writable=True)
            if there is None:
                repository = make_repository(url)
                return cls(url, repository, _Seen(FIRST_SNAPSHOT, None), writable=True)
            if there.half_made():
                return there  # a try before this one may have made it
            raise FileExistsError(url)

        return _asking(made, url, "made", PATIENT)

    def half_made(self) -> bool:
        """Whether nothing was ever committed to it, nor branched or tagged."""
        return self._seen.snapshot == FIRST_SNAPSHOT and _asking(self._untouched, self._url, "opened")

    def _untouched(self) -> bool:
        return self._repository.list_branches() == {"main"} and not self._repository.list_tags()

    def reading(self) -> Tree:
        """As in ``Engine``: one small request where it is open for writing, none where it stays at one snapshot."""
        seen = _asking(self._latest, self._url, "read") if self._writable else self._seen
        if seen.tree is None:
            raise MosaicError(
                "this icechunk repository is not a resmap mosaic", fix="choose another output.mosaic", mosaic=self._url
            )
        return seen.tree

    def _latest(self) -> _Seen:
        seen, tip = self._seen, self._repository.lookup_branch("main")
        if tip != seen.snapshot:
            seen = self._seen = _see(self._repository, self._url, tip)
        return seen

    def put(self, shards: Sequence[Shard]) -> bytes:
        """As in ``Engine``. A fork in which a shard has failed is not used again: half a tile is in it."""
        try:
            fork = self._forks.pop()
        except IndexError:
            fork = self._fork()
        fork.tree.put(shards)
        receipt = pickle.dumps(fork.session)
        fork.session.discard_changes()
        self._forks.append(fork)
        return receipt

    def change(self, act: Callable[[zarr.Group], None], message: str) -> None:
        """As in ``Engine``: one commit."""
        with self._lock:
            session, self._held = self._patiently(self._session, "changed"), None
            act(_root(self._repository, session, "a"))
            snapshot = self._settle(session, message, {})
            self._forks.clear()  # they know the old shapes
            self._seen = _asking(lambda: _see(self._repository, self._url, snapshot), self._url, "read")

    def commit(self, receipts: Sequence[bytes], message: str, metadata: Mapping[str, Any]) -> str | None:
        """As in ``Engine``. None where there was nothing to commit.

        Raises:
            BusyError: another process has committed the same chunks, or has grown the mosaic, since this engine
                was opened or last committed. Nothing is committed then.
        """
        with self._lock:
            session, self._held = self._held or self._patiently(self._session, "committed"), None
            reach("before-commit")
            session.merge(*(_fork_in(receipt) for receipt in receipts))
            reach("mid-commit")
            if session.has_uncommitted_changes:
                return self._settle(session, message, metadata)
            self._held = session
            return None

    def tag(self, name: str) -> str:
        """As in ``Engine``. A tag never moves: where the name stands for something older, a number is added to it."""
        return self._patiently(lambda: self._tag(name), "tagged")

    def _tag(self, name: str) -> str:
        tip, tags = self._repository.lookup_branch("main"), self._repository.list_tags()
        if (last := _newest(tags, name)) is not None:
            if self._repository.lookup_tag(last) == tip:
                return last  # a try before this one may have made it
            name = f"{name}.{_number(last, name) + 1}"
        self._repository.create_tag(name, tip)
        return name

    def snapshots(self) -> list[Snapshot]:
        """As in ``Engine``: one small request a commit."""
        return _asking(self._history, self._url, "read")

    def _history(self) -> list[Snapshot]:
        tags = {tag: self._repository.lookup_tag(tag) for tag in sorted(self._repository.list_tags())}
        until = {"branch": "main"} if self._writable else {"snapshot_id": self._seen.snapshot}
        return [
            Snapshot(
                id=info.id,
                time=info.written_at,
                message=info.message,
                metadata={key: value for key, value in info.metadata.items() if not key.startswith("__")},
                tags=tuple(tag for tag, snapshot in tags.items() if snapshot == info.id),
            )
            for info in self._repository.ancestry(**until)
            if info.id != FIRST_SNAPSHOT
        ]

    def _session(self) -> Session:
        return self._repository.writable_session("main")

    def _fork(self) -> _Fork:
        session = self._repository.writable_session("main").fork()
        return _Fork(session, Tree(_root(self._repository, session, "r+"), url=self._url))

    def _settle(self, session: Session, message: str, metadata: Mapping[str, Any]) -> str:
        """Commit, and be sure of it. A store that is away is waited for, with all that was merged into the session."""
        base, mark, tried = session.snapshot_id, uuid.uuid4().hex, False

        def commit() -> str:
            nonlocal tried
            there = self._marked(mark, base) if tried else None
            tried = True
            return there or self._commit(session, message, {**metadata, _MARK: mark}, base)

        snapshot = self._patiently(commit, "committed")
        with contextlib.suppress(Exception):  # what is committed is committed; asked for again when it is needed
            self._held = self._repository.writable_session("main")
        return snapshot

    def _commit(self, session: Session, message: str, metadata: Mapping[str, Any], base: str) -> str:
        """One try. An answer that was lost looks like a conflict, or like a failure, and is looked up in the history.

        Raises:
            BusyError: it is a conflict.
        """
        ice = icechunk()
        try:
            snapshot = session.commit(message, dict(metadata), rebase_with=ice.ConflictDetector())
            reach("commit-before-answer")
        except Exception as error:  # icechunk has one class for most of its errors, and others for conflicts
            if (there := self._marked(metadata[_MARK], base)) is not None:
                return there
            if isinstance(error, ice.ConflictError | ice.RebaseFailedError):
                raise BusyError(
                    "another process has written the same part of this mosaic",
                    fix="see that one run at a time writes it, and run the job again",
                    mosaic=self._url,
                ) from error
            raise
        return snapshot

    def _marked(self, mark: str, base: str) -> str | None:
        """The snapshot since ``base`` that bears this mark; None where there is none."""
        for info in self._repository.ancestry(branch="main"):
            if info.metadata.get(_MARK) == mark:
                return info.id
            if info.id == base:
                break
        return None

    def _patiently(self, act: Callable[[], Done], said: str) -> Done:
        return _asking(act, self._url, said, PATIENT)


class _IcechunkTree(Tree):
    """Asks again where icechunk gives up at once."""

    def __init__(self, url: str, root: zarr.Group, *, snapshot: str) -> None:
        super().__init__(root, url=url, snapshot=snapshot)
        self._url = url

    def get(self, shards: Sequence[Shard]) -> None:
        _asking(lambda: super(_IcechunkTree, self).get(shards), self._url, "read")


def _asking(act: Callable[[], Done], url: str, said: str, patience: Patience = BRIEF) -> Done:
    """What an act returns, once the store lets it; on a disk of this machine, at once or never.

    What is not there, and what is there and damaged, does not get better: such errors rise as they are.
    """

    def told() -> Done:
        try:
            return act()
        except icechunk().IcechunkError as error:
            if any(sentence in str(error) for sentence in _NOT_THERE):
                raise
            raise store_failure(error, url, said) from error

    return patiently(told, HASTY if is_local(url) else patience)


def _root(repository: Repository, session: Session | ForkSession, mode: Literal["r", "r+", "a"]) -> zarr.Group:
    """The root group.

    Of a snapshot that could not be fetched, icechunk says that it holds no such node; with mode ``a`` zarr would then
    make an empty one. So it is fetched before, where a failure is an error, and icechunk keeps it.
    """
    repository.lookup_snapshot(session.snapshot_id)
    return zarr.open_group(session.store, mode=mode, zarr_format=3, use_consolidated=False)


def _see(repository: Repository, url: str, snapshot: str | None = None) -> _Seen:
    """One snapshot, or the tip of the branch ``main``."""
    session = repository.readonly_session("main" if snapshot is None else None, snapshot_id=snapshot)
    try:
        root = _root(repository, session, "r")
    except GroupNotFoundError:
        return _Seen(session.snapshot_id, None)
    return _Seen(session.snapshot_id, _IcechunkTree(url, root, snapshot=session.snapshot_id))


def _fork_in(receipt: bytes) -> ForkSession:
    session: ForkSession = pickle.loads(receipt)
    return session


def _see_at(repository: Repository, at: str, url: str) -> _Seen:
    """What a tag, a run (``run-<id>`` is its tag) or a snapshot stands for."""
    tags = repository.list_tags()
    found = next(filter(None, (_newest(tags, name) for name in (at, f"run-{at}"))), None)
    known = ", ".join(sorted(tags)) or "no tags yet"
    unknown = QuestionError(
        "this mosaic has no such version", fix=f"it has {known}; or give the id of a snapshot", mosaic=url, at=at
    )
    try:
        snapshot = at if found is None else repository.lookup_tag(found)
        repository.lookup_snapshot(snapshot)
    except Exception as error:
        if found is None and any(sentence in str(error) for sentence in _NOT_THERE):
            raise unknown from error
        raise
    seen = _see(repository, url, snapshot)
    if seen.tree is None:  # before it was a mosaic
        raise unknown
    return seen


def _newest(tags: set[str], name: str) -> str | None:
    """Of the tags ``name``, ``name.2``, ``name.3`` … the last."""
    return max((tag for tag in tags if _number(tag, name)), key=lambda tag: _number(tag, name), default=None)


def _number(tag: str, name: str) -> int:
    if tag == name:
        return 1
    number = tag.removeprefix(f"{name}.")
    return int(number) if number != tag and number.isdecimal() else 0
