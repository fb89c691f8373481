"""The bytes of a job file → plain values, within limits: YAML can say in a hundred characters what fills a machine."""

from __future__ import annotations

import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mapper.errors import SpecError

LARGEST_FILE_BYTES = 4 * 1024 * 1024
MOST_VALUES = 100_000
"""Keys, texts and lists, each counted as often as aliases repeat it."""

DEEPEST = 32
"""Lists in lists. A job has four."""

_STRING = "tag:yaml.org,2002:str"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"


def read_document(path: Path) -> object:
    """What a job file says.

    Raises:
        SpecError: it is missing, no file, too large, not UTF-8, or not the YAML of a job; with the line.
    """
    return document_in(_text(path), source=path)


def document_in(text: str, *, source: Path | str = "job") -> object:
    """What the text of a job file says.

    Args:
        text: as long as it likes; it is read within limits.
        source: where it is from, for errors.

    Raises:
        SpecError: it is too large, or not the YAML of a job; with the line.
    """
    if len(text) > LARGEST_FILE_BYTES:
        raise _too_large(source)
    try:
        _check(text)
        return yaml.load(text, Loader=_Loader)  # safe: it makes no objects but those of JSON
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        said = str(getattr(error, "problem", None) or "")
        raise SpecError(
            f"the job file is not YAML{line}" + (f": {said[:200]}" if said else ""),
            fix="check its indentation and quotes",
            file=source,
        ) from error
    except (ValueError, OverflowError, RecursionError) as error:  # numbers of five thousand digits, and the like
        raise SpecError(
            f"the job file has a value that cannot be read: {str(error)[:120]}", fix="correct it", file=source
        ) from error


def _text(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SpecError("the job file is a folder, a pipe or a device", fix="give a file", file=path)
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
        if len(content) > LARGEST_FILE_BYTES:
            raise _too_large(path)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError("the job file is not UTF-8 text", fix="save it as UTF-8", file=path) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        said = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"the job file cannot be read: {said}", fix="check its path", file=path) from error


def _too_large(source: Path | str) -> SpecError:
    return SpecError(
        f"the job file has more than {LARGEST_FILE_BYTES // 2**20} MB",
        fix="put areas into a file of their own",
        file=source,
    )


def _check(text: str) -> None:
    """Whether the text says no more than a job may; looked at word by word, so nothing is made of a bomb first."""
    sizes: dict[str, int | None] = {}  # of what an anchor names; None while it is being read
    held: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=_Loader):
        size = 0
        if isinstance(event, yaml.AliasEvent):
            known = sizes.get(str(event.anchor), 1)
            if known is None:
                raise _refused("an alias lies within what it stands for", event)
            size = known
        elif isinstance(event, yaml.NodeEvent):
            if event.tag not in (None, "!", _STRING):  # type: ignore[attr-defined]
                raise _refused(f"a tag, {str(event.tag)[:60]}, means nothing here", event)  # type: ignore[attr-defined]
            size = 1
        if isinstance(event, yaml.CollectionStartEvent):
            held.append((event.anchor, size))
            if event.anchor:
                sizes[event.anchor] = None
            size = 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = held.pop()
            if anchor:
                sizes[anchor] = size
        elif isinstance(event, yaml.ScalarEvent) and event.anchor:
            sizes[event.anchor] = 1
        held[-1] = (held[-1][0], held[-1][1] + size)
        if held[-1][1] > MOST_VALUES:
            raise _refused(f"there are more than {MOST_VALUES} values, aliases counted", event)
        if len(held) > DEEPEST:
            raise _refused(f"lists and mappings lie more than {DEEPEST - 1} deep", event)


def _refused(why: str, event: yaml.Event) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=why, problem_mark=event.start_mark)  # type: ignore[arg-type]  # either kind


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the fast one where it was built
    """YAML's own safe loader, but that a key may stand once, and a date is the text that was written."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as in the class above
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As above; the second of two equal keys is an error, not the one that counts."""
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in known:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value[:60]!r} is given twice", problem_mark=key.start_mark
                    )
                known.add(key.value)
        return dict(super().construct_mapping(node, deep=deep))
