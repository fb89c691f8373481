"""A published checkpoint → one weights file and a STAC item that describes it.

    RemoteSAMv1.pth ─┐  unpickled under an allow-list                  ┌→ remotesam.safetensors
    tokenizer.json ──┼→ tensors ─→ from_upstream: every key fits ─→ ──┤
    config.json ─────┘  (not a bit of them is changed)                 └→ remotesam.json

Pickles are read by torch's restricted unpickler and by nothing else: what it refuses is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor

from mapper import models
from mapper.errors import ModelError
from mapper.models.fetch import HubFile, from_hub, hub_file, is_pickle, sha256_of
from mapper.models.mlm import Description, model_item
from mapper.models.weights import TOKENIZER_KEY, write_weights

ALLOWED: Mapping[str, tuple[type, ...]] = {"remotesam": (argparse.Namespace,)}
"""Classes a checkpoint may hold beside tensors and plain values: RemoteSAM's holds the arguments of its training."""

LAYOUTS = ("state_dict", "model", "module")
"""Where training tools put the tensors: mmengine, plain torch, DeepSpeed. Without one of them they lie bare."""

PICKLED = (".pth", ".pt", ".bin")

LARGEST_TEXT_BYTES = 128 * 2**20
"""Of a tokenizer or a configuration; the largest tokenizer published with a model has 34 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a conversion wrote."""

    model: str
    weights: Path
    item: Path
    sha256: str
    """Of the weights file: what ``model.sha256`` of a job should say."""

    size_bytes: int
    tensors: int
    parameters: int
    source_sha256: Mapping[str, str]
    """Of each file read, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What lies at the place that was given."""

    files: tuple[Path, ...]
    """That hold tensors."""

    tokenizer: Path | None = None
    config: Path | None = None


def convert(
    name: str,
    source: str | Path,
    out: Path,
    *,
    tokenizer: str | None = None,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
    force: bool = False,
) -> Converted:
    """Read a published checkpoint, see that it fits the model, and write it as a weights file.

    Args:
        name: of the model.
        source: a ``.pth``, ``.pt`` or ``.bin`` of torch, a safetensors file, ``hf://owner/name@revision/file`` for one
            of the model hub, or a folder that has one, or shards with their index; a folder may have
            ``config.json`` and ``tokenizer.json`` beside them.
        out: the weights file to write, or a folder for it; the STAC item lies beside it, as ``.json``.
        tokenizer: path of a ``tokenizer.json`` or a folder that has one, or ``owner/name[@revision]`` on the model
            hub; None takes the one in the source's folder.
        config: sizes of the network; None takes the source's ``config.json``, else the published sizes.
        revision: of the publisher's repository that the source is from, for the record; the hub tells its own.
        force: write over what is there.

    Raises:
        ModelError: the source would run code, is damaged, no checkpoint, or another model's; there is no tokenizer;
            the output is there already or cannot be written. Nothing is written then.
        CredentialsError: the hub gives the source only to those who log in.
    """
    card = models.card(name)
    weights = _target(name, Path(source), out)
    item = weights.with_suffix(".json")
    for path in (weights, item):
        if path.exists() and not force:
            raise ModelError("there is a file already", fix="choose another --out, or add --force", file=path)
    source, revision = _at_hand(source, revision)
    found = _look(source)
    if config is None and found.config is not None:
        config = read_config(found.config)
    words, words_source = _tokenizer(tokenizer, found.tokenizer, wanted=card.tokenizer, model=name)
    tensors = _tensors(found.files, model=name)
    parameters, memory_bytes = _checked(name, tensors, config)
    digests = {path.name: sha256_of(path) for path in found.files}
    about = {
        "source": card.source or source.name,
        "revision": revision,
        "licence": card.licence,
        "sha256": digests,
        "tokenizer": words_source,
    }
    _make_folder(weights.parent)
    sha256 = write_weights(weights, model=name, tensors=tensors, config=config, tokenizer=words, about=about)
    description = Description(
        card=card,
        window_px=models.window_px(name),
        file=weights.name,
        size_bytes=weights.stat().st_size,
        sha256=sha256,
        parameters=parameters,
        memory_bytes=memory_bytes,
        about=about,
    )
    _write_text(item, json.dumps(model_item(description), indent=2, ensure_ascii=False) + "\n")
    return Converted(
        model=name,
        weights=weights,
        item=item,
        sha256=sha256,
        size_bytes=description.size_bytes,
        tensors=len(tensors),
        parameters=parameters,
        source_sha256=digests,
    )


def read_tensors(path: Path, *, model: str) -> dict[str, Tensor]:
    """The tensors of one checkpoint file, under their own names, in the precision they are stored in.

    Raises:
        ModelError: the file would run code, is damaged, or holds no tensors.
    """
    try:
        pickled = is_pickle(path)
    except OSError as error:
        raise ModelError(f"the checkpoint cannot be read: {error.strerror}", fix="check its path", file=path) from error
    tensors = _unpickled(path, model) if pickled else _stored(path)
    if not tensors:
        raise ModelError("the checkpoint holds no tensors", fix="check that it is the right file", file=path)
    return tensors


def read_config(text_or_path: str | Path) -> dict[str, Any]:
    """A configuration from JSON text (it begins with a brace) or from a file of it.

    Raises:
        ModelError: it cannot be read, or is no JSON object.
    """
    given = str(text_or_path).strip()
    place = {} if given.startswith("{") else {"file": given}
    try:
        text = given if given.startswith("{") else _read_text(Path(given).expanduser()).decode()
        document = json.loads(text)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the configuration cannot be read: {error}", fix="give a JSON file, or JSON text", **place
        ) from error
    if not isinstance(document, dict):
        raise ModelError("the configuration is no JSON object", fix="give the model's config.json", **place)
    return document


def _target(name: str, source: Path, out: Path) -> Path:
    """The file to write; a folder gets one named for the model and the source."""
    if not out.is_dir() and out.suffix == ".safetensors":
        return out
    if not out.is_dir() and out.suffix:
        raise ModelError("a weights file ends in .safetensors", fix="rename --out, or name a folder", out=out)
    stem = name if source.is_dir() else re.sub(r"[^a-z0-9]+", "-", source.stem.lower()).strip("-")
    return out / f"{stem if stem.startswith(name) else f'{name}-{stem}'}.safetensors"


def _at_hand(source: str | Path, revision: str | None) -> tuple[Path, str | None]:
    """The source on this machine, and the commit it is of, where the hub tells it."""
    if not str(source).startswith("hf://"):
        return Path(source).expanduser(), revision
    path = from_hub(hub_file(str(source)))
    commit = next((part for part in path.parts if re.fullmatch(r"[0-9a-f]{40}", part)), None)
    return path, commit or revision


def _look(source: Path) -> _Source:
    """The files of a source.

    Raises:
        ModelError: there is none, or more than one and nothing says which.
    """
    if source.is_file():
        return _Source(files=(source,))
    if not source.is_dir():
        raise ModelError("there is no such checkpoint", fix="check the path", source=source)
    tokenizer, config = _beside(source, "tokenizer.json"), _beside(source, "config.json")
    index = _beside(source, "model.safetensors.index.json")
    if index is not None:
        return _Source(files=_shards(index), tokenizer=tokenizer, config=config)
    stored = sorted(source.glob("*.safetensors"))
    pickled = sorted(path for path in source.iterdir() if path.suffix in PICKLED)
    if len(stored) == 1:
        return _Source(files=(stored[0],), tokenizer=tokenizer, config=config)
    if not stored and len(pickled) == 1:
        return _Source(files=(pickled[0],), tokenizer=tokenizer)
    names = ", ".join(path.name for path in (stored or pickled)[:5])
    raise ModelError(
        f"the folder has several checkpoints: {names}" if names else "the folder has no checkpoint",
        fix="name the one that is meant" if names else "give one with a .safetensors, .pth, .pt or .bin file",
        source=source,
    )


def _beside(folder: Path, name: str) -> Path | None:
    path = folder / name
    return path if path.is_file() else None


def _shards(index: Path) -> tuple[Path, ...]:
    """The files an index names, all in its own folder."""
    try:
        names = sorted(set(json.loads(_read_text(index))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the index of the shards cannot be read: {error}", fix="download the model again", file=index
        ) from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (index.parent / name).is_file():
            raise ModelError(
                f"the index names a shard that is not beside it: {str(name)[:100]}",
                fix="download the whole model",
                file=index,
            )
    return tuple(index.parent / name for name in names)


def _tensors(files: tuple[Path, ...], *, model: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in files:
        shard = read_tensors(path, model=model)
        twice = tensors.keys() & shard.keys()
        if twice:
            raise ModelError(f"two shards hold {min(twice)}", fix="download the model again", file=path)
        tensors |= shard
    return tensors


def _stored(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            "this is no checkpoint of torch and no safetensors file, or it is damaged",
            fix="check that it is the right file, and whole",
            file=path,
            reason=_brief(error),
        ) from error
    tensors.pop(TOKENIZER_KEY, None)  # a weights file of ours, converted once more
    return _unprefixed(tensors)


def _unpickled(path: Path, model: str) -> dict[str, Tensor]:
    """The tensors of a pickle, read by the unpickler that builds tensors and plain values and nothing else."""
    with _allowed(model):
        try:
            try:
                document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                document = torch.load(path, map_location="cpu", weights_only=True)  # the format before 2020
        except Exception as error:  # bytes of strangers make the unpickler raise anything
            raise _refused(error, path) from error
    return _unprefixed(_unwrapped(document, path))


@contextmanager
def _allowed(model: str) -> Iterator[None]:
    """The classes of this model's checkpoints, and none that some library has allowed before."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(ALLOWED.get(model, ())))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _refused(error: Exception, path: Path) -> ModelError:
    """Why a pickle was not read: what it wanted to use, or what is wrong with it."""
    wanted = re.search(r"GLOBAL ([\w.<>]+)", str(error))
    if wanted:
        return ModelError(
            f"the checkpoint is refused: it would use {wanted[1]}, which no weights need. Nothing of it was run",
            fix="a stranger's: open it with no other tool either. Your own: save the network's state_dict() alone",
            file=path,
        )
    return ModelError(
        "the checkpoint is damaged, or holds more than tensors and plain values",
        fix="download it again, and compare its size and sha256 with the publisher's",
        file=path,
        reason=_brief(error),
    )


def _unwrapped(document: object, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors in what a training tool saved."""
    inner = document
    if isinstance(document, Mapping):
        inner = next((document[key] for key in LAYOUTS if isinstance(document.get(key), Mapping)), document)
    if not isinstance(inner, Mapping):
        raise ModelError(
            f"the file holds a {type(inner).__name__}, not a mapping of names to tensors",
            fix="give a checkpoint",
            file=path,
        )
    others = [str(key) for key, value in inner.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if others:
        raise ModelError(
            f"beside tensors the checkpoint holds {', '.join(others[:3])}",
            fix=f"give a bare state dict, or one under {', '.join(LAYOUTS)}",
            file=path,
        )
    return {key: value.detach() for key, value in inner.items()}


def _unprefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the ``module.`` that training on several GPUs puts before every name."""
    if tensors and all(key.startswith("module.") for key in tensors):
        return {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    return tensors


def _checked(name: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> tuple[int, int]:
    """Parameters of the network with these tensors in it, and its bytes in float32: the proof that they fit."""
    try:
        net = models.from_upstream(name, tensors, config)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"these tensors and this configuration make no {name}: {type(error).__name__}: {_brief(error)}",
            fix="check that checkpoint and configuration belong together",
        ) from error
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return parameters, 4 * (parameters + sum(buffer.numel() for buffer in net.buffers()))


def _tokenizer(given: str | None, found: Path | None, *, wanted: str, model: str) -> tuple[bytes | None, str | None]:
    """The tokenizer's text, and where it is from; None where the model has none."""
    if given is None and found is None:
        if wanted:
            raise ModelError(
                f"{model} needs its tokenizer",
                fix=f"add --tokenizer {wanted}, or the path of its tokenizer.json",
            )
        return None, None
    path, said = (found, "tokenizer.json beside the source") if given is None else _tokenizer_file(given)
    assert path is not None  # one of the two was given
    try:
        content = _read_text(path)
        Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(
            f"the tokenizer cannot be read: {_brief(error)}", fix="give a tokenizer.json", file=path
        ) from error
    return content, f"{said}, sha256 {hashlib.sha256(content).hexdigest()}"


def _tokenizer_file(given: str) -> tuple[Path, str]:
    """A path, or a repository of the model hub."""
    path = Path(given).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
    if path.exists():
        return path, path.name
    repo, _, revision = given.removeprefix("hf://").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or repo.endswith(".json"):
        raise ModelError(
            "there is no such tokenizer", fix="give a tokenizer.json, or owner/name on the model hub", tokenizer=given
        )
    return from_hub(HubFile(repo=repo, revision=revision or "main", file="tokenizer.json")), given


def _read_text(path: Path) -> bytes:
    if path.stat().st_size > LARGEST_TEXT_BYTES:
        raise ValueError(f"it has more than {LARGEST_TEXT_BYTES // 2**20} MB")
    return path.read_bytes()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"the folder cannot be made: {error.strerror}", fix="choose another --out", folder=folder
        ) from error


def _write_text(path: Path, text: str) -> None:
    half = path.with_name(f".{path.name}.half")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise ModelError(
            f"the weights are written, their description is not: {error.strerror}", fix="make room", file=path
        ) from error
    finally:
        half.unlink(missing_ok=True)


def _brief(error: Exception) -> str:
    """The first line of an error, without what it advises: some advise to load the file unsafely."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
