"""A whole run in a bucket is a whole run in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

from jobs.job import Job
from jobs.run import start
from jobs.verify import verify
from mapper.errors import MosaicError
from tests.stories.world import World, mapped

SHARDS = {"shard_px": 512, "chunk_px": 128}
COLD = {"name": "cold", "expression": "what is blue"}


def test_a_run_in_a_bucket_maps_grows_and_verifies_as_in_a_folder(world: World, bucket: str, tmp_path: Path) -> None:
    there, here = f"{bucket}/area/map.zarr", tmp_path / "map.zarr"
    for mosaic in (there, here):
        mapped(world.job(mosaic, grid=SHARDS))
    prompts = [*world.job(there)["prompts"], COLD]
    mapped(world.job(there, prompts=prompts, grid=SHARDS))
    mapped(world.job(here, prompts=prompts, grid=SHARDS))
    assert start(Job.from_dict(world.job(there, prompts=prompts, grid=SHARDS)), local=True).wait().worked_tiles == 0
    assert verify(there, full=True).bad == ()
    with xr.open_zarr(there, group="0") as one, xr.open_zarr(str(here), group="0") as other:
        xr.testing.assert_equal(one[["mask", "score", "source"]].load(), other[["mask", "score", "source"]].load())


def test_a_bucket_that_is_not_there_is_said_before_anything_is_read(world: World, bucket: str) -> None:
    job = Job.from_dict(world.job(f"{bucket}-of-nobody/map.zarr"))
    with pytest.raises(MosaicError) as caught:
        start(job, local=True).wait()
    assert caught.value.what == "the bucket does not exist"
    assert caught.value.fix
