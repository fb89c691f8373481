"""A process that reads strangers' files for another: ``python -m tests.hostile.raster_child``.

A request a line on stdin, an answer a line on stdout, both JSON. Whatever a file does to this process, the one that
asked sees it: no answer in time, or no process.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mapper.errors import MapperError
from mapper.imagery import Placement
from mapper.raster import GDAL_OPTIONS
from mapper.read import RasterReader
from tests.hostile.rasters import COARSE, COARSE_FRAME, FRAME, UTM45
from tests.mapper.rasters import item_of, placed

ADDRESS_SPACE = 8 * 1024**3
"""Bytes; what a runaway allocation meets here instead of the machine's end."""


def main() -> None:
    """Answer until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    GDAL_OPTIONS["GDAL_HTTP_RETRY_DELAY"] = 0.01  # the files wait for nobody
    print(json.dumps({"ready": peak_bytes()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """What came of one file: ``pixels`` (put where ``into`` says) or an error of ours; any other error is a bug."""
    placement = Placement(crs=UTM45.crs, transform=UTM45.transform(FRAME), shape=FRAME.shape)
    item = item_of(asked["href"], bands=asked["bands"], placement=placement if asked["placed"] else None)
    lattice, frame = (COARSE, COARSE_FRAME) if asked["coarse"] else (UTM45, FRAME)
    stretch = tuple(asked["stretch"]) if asked["stretch"] else None
    reader = RasterReader(bands=asked["bands"], stretch=stretch, threads=2)
    try:
        view = reader.read([placed(item)], lattice, frame)
    except MapperError as error:
        said = {"kind": type(error).__name__, "said": error.what, "where": error.where, "again": error.retryable}
    except BaseException as error:
        said = {"kind": "bug", "said": f"{type(error).__name__}: {error}", "where": {}, "again": False}
    else:
        np.savez(Path(asked["into"]), pixels=view.pixels, valid=view.valid)
        said = {"kind": "pixels", "said": "", "where": {}, "again": False}
    return said | {"peak": peak_bytes()}


def peak_bytes() -> int:
    """The most memory this process ever held."""
    # Not ru_maxrss: that of a process begins with what its parent held.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0]) * 1024


if __name__ == "__main__":
    main()
