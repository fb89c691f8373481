"""Files that are not what their names say, and files that would have another one read."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from tests.hostile import tiff_bytes as t
from tests.hostile.rasters import FRAME, Case, geotiff, picture, truth
from tests.hostile.rasters_announced import BLOCK, SOUND, tiff

CANARY = 222
"""The value of every pixel of the files that nobody may read. No case asks for a pixel of it."""


def disguised(folder: str, url: str) -> Iterator[Case]:
    """All of them, naming the canaries in a folder and on a server."""
    for name, content in _disguises(folder, url).items():
        yield Case(name=f"disguise-{name}", content=content, must="refused", bands=1)
        yield Case(name=f"disguise-{name}-placed", content=content, must="refused", bands=1, placed=True)
    yield from _overviews_elsewhere(folder, url)
    yield from _sidecars(folder)


def _disguises(folder: str, url: str) -> dict[str, bytes]:
    canary = f"{folder}/canary.tif"
    vrts = {
        "vrt": virtual(canary), "vrt-http": virtual(f"/vsicurl/{url}/canary.tif"),
        "vrt-relative": virtual("canary.tif"),
        "vrt-inline": virtual(escape(virtual(canary).decode())), "vrt-spaces": b" \n\t" + virtual(canary),
        "vrt-bom": b"\xef\xbb\xbf" + virtual(canary), "vrt-scheme": f"vrt://{canary}".encode(),
        "vrt-raw": virtual(canary).replace(b'band="1"', b'band="1" subClass="VRTRawRasterBand"'),
        "vrt-python": virtual(canary).replace(
            b'band="1"', b'band="1" subClass="VRTDerivedRasterBand"'
        ).replace(b"<SimpleSource>", b"<PixelFunctionLanguage>Python</PixelFunctionLanguage><SimpleSource>"),
        "vrt-warped": f'<VRTDataset subClass="VRTWarpedDataset" rasterXSize="64" rasterYSize="64"><GDALWarpOptions>'
                      f"<SourceDataset>{canary}</SourceDataset></GDALWarpOptions></VRTDataset>".encode(),
    }  # fmt: skip
    return vrts | {
        "gti": f"<GDALTileIndexDataset><IndexDataset>{canary}</IndexDataset></GDALTileIndexDataset>".encode(),
        "wms": f'<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/canary.tif</ServerUrl></Service></GDAL_WMS>'.encode(),
        "wcs": f"<WCS_GDAL><ServiceURL>{url}/canary.tif?</ServiceURL></WCS_GDAL>".encode(),
        "wmts": f"<GDAL_WMTS><GetCapabilitiesUrl>{url}/canary.tif</GetCapabilitiesUrl></GDAL_WMTS>".encode(),
        "mrf": f"<MRF_META><CachedSource><Source>{canary}</Source></CachedSource><Raster><Size x='64' y='64'/>"
               "</Raster></MRF_META>".encode(),
        "stac": json.dumps({"stac_version": "1.0.0", "type": "FeatureCollection", "features": [
            {"assets": {"a": {"href": canary}}}]}).encode(),
        "html": b"<!DOCTYPE html><html><body>Please log in.</body></html>",
        "json": b'{"code": "NotFound"}', "empty": b"", "one-byte": b"I", "nul": bytes(100_000),
        "noise": random.Random(7).randbytes(50_000), "text": b"ncols 4\nnrows 4\nxllcorner 0\nyllcorner 0\ncellsize 1\n"
                                                             + b"1 2 3 4\n" * 4,
        "zip": _zip(geotiff()), "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(2000), "netcdf": b"CDF\1" + bytes(2000),
        "gif": b"GIF89a" + bytes(2000), "bmp": b"BM" + bytes(2000), "pdf": b"%PDF-1.7\n" + bytes(2000),
        "webp": b"RIFF\x20\0\0\0WEBPVP8 " + bytes(2000), "gpkg": b"SQLite format 3\0" + bytes(4000),
        "jp2-head-only": picture("JP2OpenJPEG", crs="EPSG:32645")[:100], "png-head-only": picture("PNG")[:40],
        "jpg-head-only": picture("JPEG")[:30], "dimap": b"<Dimap_Document><Data_Access/></Dimap_Document>",
        "nitf": b"NITF02.10" + bytes(2000), "envi": b"ENVI\nsamples = 64\nlines = 64\nbands = 1\n",
        "sentinel": b"<n1:Level-1C_User_Product/>", "kml": b"<kml><Document/></kml>",
    }  # fmt: skip


def _overviews_elsewhere(folder: str, url: str) -> Iterator[Case]:
    """GDAL's tags may name a file as the overviews of this one: any file that any driver of it can open."""
    half = f"{folder}/canary_half.tif"
    targets = {
        "file": half, "base": ":::BASE:::canary_half.tif", "http": f"/vsicurl/{url}/canary_half.tif",
        "vrt": virtual(half).decode(), "vrt-http": virtual(f"/vsicurl/{url}/canary_half.tif").decode(),
        "scheme": f"vrt://{half}", "wms": f"WMS:{url}/canary.tif", "missing": "/no/such/file.tif", "empty": "",
    }  # fmt: skip
    for name, target in targets.items():
        for coarse in (False, True):
            tags = {"OVERVIEWS": {"OVERVIEW_FILE": target}} if target else {}
            content = geotiff(tags=tags) if target else tiff({t.METADATA: _item("OVERVIEW_FILE", "OVERVIEWS", "")})
            yield Case(name=f"overviews-in-{name}{'-coarse' * coarse}", content=content, coarse=coarse,
                       must="refused" if target else "any", bands=3 if target else 1)  # fmt: skip
    below = {**SOUND, 254: 1, t.WIDTH: 32, t.HEIGHT: 32, t.METADATA: _item("OVERVIEW_FILE", "OVERVIEWS", half)}
    mask = {**SOUND, 254: 4, t.METADATA: _item("OVERVIEW_FILE", "OVERVIEWS", half)}
    for name, second in {"overview": below, "mask": mask}.items():
        content = t.Tiff(directories=[SOUND, second], data=BLOCK).written()
        for coarse in (False, True):
            yield Case(name=f"overviews-of-its-{name}-elsewhere{'-coarse' * coarse}", content=content, must="any",
                       bands=1, coarse=coarse)  # fmt: skip
    inside = picture("JP2OpenJPEG", quality=100, reversible="yes", crs="EPSG:32645")
    items = f"<GDALMultiDomainMetadata>{_metadata('OVERVIEWS', half)}</GDALMultiDomainMetadata>"
    box = items.encode() + b"\0"
    box = (len(box) + 8).to_bytes(4, "big") + b"xml " + box
    at = inside.index(b"jp2c") - 4
    for coarse in (False, True):
        yield Case(name=f"overviews-of-a-jp2-elsewhere{'-coarse' * coarse}", content=inside[:at] + box + inside[at:],
                   must="refused", coarse=coarse, suffix=".jp2")  # fmt: skip
    for item in ("ProxyOverviewRequest", "MASK_FILE", "IMD", "RPC", "xml:VRT", "DERIVED_SUBDATASETS", "SUBDATASETS"):
        content = tiff({t.METADATA: _item("SUBDATASET_1_NAME", item, half)})
        yield Case(name=f"metadata-domain-{item.replace(':', '-')}", content=content, must="any", bands=1, coarse=True)


def _sidecars(folder: str) -> Iterator[Case]:
    """What lies beside a file changes nothing of it."""
    canary = geotiff(np.full((3, *FRAME.shape), CANARY, np.uint8))
    half = geotiff(np.full((3, FRAME.height // 2, FRAME.width // 2), CANARY, np.uint8))
    flags: Any = {None: {"INTERNAL_MASK_FLAGS_1": "2"}}  # of the whole file, and not of one band
    unseen = geotiff(np.zeros((1, *FRAME.shape), np.uint8), tags=flags)
    aux = f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{folder}/canary_half.tif</MDI></Metadata>'
    aux += '<PAMRasterBand band="1"><NoDataValue>5</NoDataValue></PAMRasterBand></PAMDataset>'
    world = b"0.5\n0\n0\n-0.5\n700000\n3000000\n"
    beside = {
        "ovr": {"*.ovr": half}, "msk": {"*.msk": unseen}, "aux": {"*.aux.xml": aux.encode()},
        "rrd": {"?.aux": canary, "?.rrd": canary}, "tfw": {"?.tfw": world, "?.tifw": world, "?.wld": world},
        "tab": {"?.tab": b"!table\n"}, "prj": {"?.prj": b'LOCAL_CS["x"]'}, "rpc": {"?_RPC.TXT": b"LINE_OFF: 1\n"},
        "xml": {"?.xml": b"<metadata/>"},
    }  # fmt: skip
    for name, files in beside.items():
        yield Case(name=f"beside-{name}", content=geotiff(), must="exact", beside=files)
        yield Case(name=f"beside-{name}-coarse", content=geotiff(), must="any", beside=files, coarse=True)
    for name in ("tfw", "tab", "aux"):
        yield Case(name=f"placed-by-{name}", content=geotiff(crs=None, transform=None), must="refused",
                   beside=beside[name])  # fmt: skip


def virtual(source: str) -> bytes:
    """A file that is made of another (VRT)."""
    height, width = FRAME.shape
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>EPSG:32645</SRS>'
        "<GeoTransform>334025, 0.5, 0, 3060050, 0, -0.5</GeoTransform>"
        + "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename>{source}</SourceFilename>'
            f"<SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
            for band in range(1, 1 + len(truth()))
        )
        + "</VRTDataset>"
    ).encode()


def _item(name: str, domain: str, value: str) -> str:
    return f'<GDALMetadata><Item name="{name}" domain="{domain}">{escape(value)}</Item></GDALMetadata>'


def _metadata(domain: str, target: str) -> str:
    return f'<Metadata domain="{domain}"><MDI key="OVERVIEW_FILE">{escape(target)}</MDI></Metadata>'


def _zip(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.tif", content)
    return file.getvalue()
