"""The host that the data lie on: ``python -m tests.fleet.data_host ADDRESS``, until stdin closes.

Ceph's radosgw holds the pictures, which everybody may read over HTTP, and the mosaics; pgstac the items. Questions
about mosaics come on stdin and are answered on stdout, a line of JSON each: what asks lives on another network.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import rasterio.shutil

from tests.faults.radosgw import radosgw
from tests.pgstac import PgStac, pgstac
from tests.stories.world import World, collection_of, write_world
from tests.undisturbed import Undisturbed, by_worker, recorded

PICTURES = "pictures"


def main() -> None:
    """Begin the servers, say where they are, answer."""
    address = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder, radosgw(host=address, under="/run") as store:
        world = write_world(Path(folder))
        names = sorted({item["collection"] for item in world.items})
        with pgstac([collection_of(name) for name in names], host=address) as api:
            _publish(world, store, api)
            _say({"store": store, "stac": api.url})
            _answer_all()


def _publish(world: World, store: str, api: PgStac) -> None:
    """Put the pictures into a bucket as COGs, and post their items."""
    bucket = fsspec.filesystem("s3", endpoint_url=store)
    bucket.mkdir(PICTURES, acl="public-read")
    for item in world.items:
        assets = {}
        for key, asset in item["assets"].items():
            file = Path(asset["href"])
            cog = file.with_suffix(".cog.tif")
            rasterio.shutil.copy(file, cog, driver="COG", blocksize=128, compress="deflate")
            bucket.put_file(str(cog), f"{PICTURES}/{file.name}", ACL="public-read")
            assets[key] = {**asset, "href": f"{store}/{PICTURES}/{file.name}"}
        api.post({**item, "assets": assets})


def _answer_all() -> None:
    undisturbed: Undisturbed | None = None
    for line in sys.stdin:
        match json.loads(line):
            case {"recorded": mosaic}:
                _say(recorded(mosaic))
            case {"workers": mosaic}:
                _say(by_worker(mosaic))
            case {"undisturbed": mosaic}:
                undisturbed = Undisturbed.of(mosaic)
                _say(undisturbed.tiles)
            case {"complaints": mosaic}:
                assert undisturbed is not None
                _say(undisturbed.complaints(mosaic))


def _say(what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
