"""A mosaic → a static STAC catalog: every link relative, so the folder may be put on any server or bucket.

    <out>/catalog.json
          <collection>/collection.json      one a mosaic
                       items.parquet        the imagery it was made of (stac-geoparquet)
                       <run>.json           how it was made
                       <item>/<item>.json   one a time step and zone
          <model>/<model>.json              the model, by the Machine Learning Model extension
          building-…_20240620T103000Z.tif   exports that lie here become assets

The same mosaic gives the same ids and the same files.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pystac

from jobs.exports import Format, Progress, Written, export_cog, export_pmtiles, export_png, export_vectors, make_folder
from jobs.mapped import Known, known_of
from jobs.stac.fields import PARQUET_TYPE
from jobs.stac.items import add_map_link, collection_of, describe_file, item_of
from jobs.stac.model import ModelFound, model_of
from jobs.stac.provenance import told, told_items
from mapper.errors import MosaicError, QuestionError
from mapper.mosaic import Mosaic

FORMATS: tuple[Format, ...] = ("cog", "png", "vectors", "pmtiles")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What was published."""

    catalog: Path
    collection: str
    items: int
    written: tuple[Written, ...] = ()
    """Exports that were made for it."""

    notes: tuple[str, ...] = field(default=())
    """What the catalog lacks, and why."""

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def formats_of(text: str) -> tuple[Format, ...]:
    """The formats named in a list with commas.

    Raises:
        QuestionError: one of them is none.
    """
    named = [word.strip() for word in text.split(",") if word.strip()]
    for word in named:
        if word not in FORMATS:
            raise QuestionError(f"{word!r} is not a format to export", fix=f"use some of {', '.join(FORMATS)}")
    return tuple(known for known in FORMATS if known in named)


def publish(
    mosaic_url: str,
    out: Path,
    *,
    formats: Sequence[Format] = (),
    xyz: str | None = None,
    licence: str = "other",
    force: bool = False,
    progress: Progress = lambda name, done, total: None,
) -> Published:
    """Write a STAC catalog of a mosaic.

    Args:
        mosaic_url: path or URL of the mosaic; items refer to it by a relative path where it lies in ``out``.
        out: folder of the catalog, made where it is not there.
        formats: exports to write into it as well.
        xyz: address of a tile server's map of the mosaic, with ``{z}``, ``{x}`` and ``{y}``.
        licence: of the map: an SPDX identifier, or ``other``.
        force: replace the catalog of this mosaic that is there, and exports.
        progress: is told the file, how much of it is done, and how much there is.

    Raises:
        MosaicError: no mosaic there, another catalog is in the folder, or it cannot be written.
        QuestionError: ``xyz`` is no address of tiles.
        StoreError: the mosaic could not be read.
    """
    if xyz is not None and not all(part in xyz for part in ("{z}", "{x}", "{y}")):
        raise QuestionError("an address of tiles has {z}, {x} and {y} in it", fix="correct --xyz", xyz=xyz)
    known = known_of(Mosaic.open(mosaic_url, writable=False))
    if not known.parts:
        raise MosaicError("no imagery stands in this mosaic any more", fix="publish it when there is some",
                          mosaic=mosaic_url)  # fmt: skip
    _refuse_other(out, known.id, force=force)
    make_folder(out)
    written = _exported(mosaic_url, out, formats, force=force, progress=progress)
    desk = out / f".catalog-{uuid.uuid4().hex[:12]}"  # no dot in it: pystac would take it for a file
    try:
        desk.mkdir()
        model = model_of(known)
        catalog = _catalog(known, out, desk, model, xyz=xyz, licence=licence)
        catalog.save(pystac.CatalogType.SELF_CONTAINED)
        _move(desk, out)
    except OSError as error:
        raise MosaicError(
            f"the catalog cannot be written here: {error}", fix="choose another --out", out=out
        ) from error
    finally:
        shutil.rmtree(desk, ignore_errors=True)
    return Published(
        catalog=out / "catalog.json",
        collection=known.id,
        items=len(known.parts),
        written=tuple(written),
        notes=(model,) if isinstance(model, str) else (),
    )


def _refuse_other(out: Path, collection: str, *, force: bool) -> None:
    """Whether the catalog may be written here: nothing of anybody else's is replaced."""
    there = out / "catalog.json"
    if out.exists() and not out.is_dir():
        raise MosaicError("a file is where the catalog's folder should be", fix="choose another --out", out=out)
    if not there.exists():
        return
    if not force:
        raise MosaicError("there is a catalog already", fix="choose another --out, or add --force", out=there)
    if not (out / collection / "collection.json").exists():
        raise MosaicError("the catalog there is of something else", fix="choose another --out", out=there)


def _exported(
    mosaic_url: str, out: Path, formats: Iterable[Format], *, force: bool, progress: Progress
) -> list[Written]:
    """The exports asked for, in the catalog's folder."""
    exporters: dict[Format, Callable[..., list[Written]]] = {
        "cog": export_cog,
        "png": export_png,
        "vectors": export_vectors,
        "pmtiles": export_pmtiles,
    }
    return [written for kind in formats for written in exporters[kind](mosaic_url, out, force=force, progress=progress)]


def _catalog(
    known: Known, out: Path, desk: Path, model: ModelFound | str, *, xyz: str | None, licence: str
) -> pystac.Catalog:
    """The catalog on the desk, its files beside it, its documents not saved yet."""
    catalog = pystac.Catalog(
        id=f"catalog-{known.id}",
        title=known.title,
        description=f"{known.title}: what was looked for, where and when, and with what.",
    )
    items = [item_of(known, part, out) for part in known.parts]
    collection = collection_of(known, items, out, licence=licence)
    catalog.add_child(collection)
    collection.add_items(items)
    catalog.normalize_hrefs(str(desk))
    _put_provenance(known, collection, items, desk / known.id)
    if isinstance(model, ModelFound):
        _put_model(catalog, [collection, *items], model, desk)
    if xyz is not None:
        add_map_link(collection, pystac.Link(rel="xyz", target=xyz, media_type="image/png", title=known.title))
    return catalog


def _put_provenance(known: Known, collection: pystac.Collection, items: Sequence[pystac.Item], folder: Path) -> None:
    """Beside the collection: how each run went, and the imagery they all were made of."""
    folder.mkdir()
    for run in known.runs:
        path = folder / f"{run.run}.json"
        path.write_text(json.dumps(told(run), indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        asset = pystac.Asset(
            f"./{path.name}", title=f"How run {run.run} went", media_type=pystac.MediaType.JSON, roles=["metadata"]
        )
        collection.add_asset("provenance" if run is known.runs[-1] else f"provenance-{run.run}", asset)
        describe_file(asset, path)
    if known.runs:
        table = folder / "items.parquet"
        table.write_bytes(told_items(known.mosaic.url))
        asset = pystac.Asset(
            "./items.parquet",
            title="The imagery: row n is source n",
            media_type=PARQUET_TYPE,
            roles=["metadata", "source"],
        )
        collection.add_asset("items", asset)
        describe_file(asset, table)
        for where, href in ((collection, "./items.parquet"), *((item, "../items.parquet") for item in items)):
            where.add_link(pystac.Link("derived_from", href, PARQUET_TYPE, "The imagery it was made of"))


def _put_model(
    catalog: pystac.Catalog, made_with_it: Sequence[pystac.Item | pystac.Collection], model: ModelFound, desk: Path
) -> None:
    """The model's item beside the collection, and from all that was made with it a link there."""
    item = pystac.Item.from_dict(model.document)
    catalog.add_item(item)
    folder = desk / item.id
    item.set_self_href(str(folder / f"{item.id}.json"))
    folder.mkdir()
    if model.goes_along:
        shutil.copyfile(model.weights, folder / model.weights.name)
    for where in made_with_it:
        where.add_link(
            pystac.Link("derived_from", item, pystac.MediaType.GEOJSON, f"The model: {item.properties['title']}")
        )


def _move(desk: Path, out: Path) -> None:
    """What lies on the desk, into the catalog's folder: the door to it last."""
    fallen = desk / ".old"
    fallen.mkdir()
    for entry in sorted(desk.iterdir(), key=lambda path: path.name == "catalog.json"):
        if entry == fallen:
            continue
        there = out / entry.name
        if not there.is_dir():
            entry.rename(there)
            continue
        there.rename(fallen / entry.name)
        try:
            entry.rename(there)
        except OSError:
            (fallen / entry.name).rename(there)
            raise
