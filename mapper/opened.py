"""A mosaic as xarray knows it: lazy, in chunks of one shard, with the views people ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mapper.errors import MosaicError
from mapper.masks import SCORE_ONE, UNOBSERVED
from mapper.mosaic import Mosaic
from mapper.storage import open_store

if TYPE_CHECKING:
    import xarray as xr


def open_mosaic(url: str, *, tree: str | None = None) -> xr.Dataset:
    """The mosaic as a lazy Dataset with chunks of one shard.

    Beyond what is stored, ``observed`` is a bool view of ``mask`` (False in both kinds of gap), and ``score`` is
    float32, 0 to 1, NaN in gaps.

    Args:
        url: path or URL of the mosaic.
        tree: which zone, such as ``utm33n``, where it has several.

    Raises:
        MosaicError: no mosaic there, or several zones and none chosen.
    """
    import rioxarray  # noqa: F401  # gives the Dataset its .rio
    import xarray as xr

    mosaic = Mosaic.open(url, writable=False)
    names = [grid.name for grid in mosaic.grids]
    if tree is None and len(names) > 1:
        raise MosaicError(
            f"this mosaic has {len(names)} zones",
            fix=f"choose one with tree=: {', '.join(names)}",
            mosaic=url,
        )
    name = names[0] if tree is None else tree
    if name not in names:
        raise MosaicError(f"this mosaic has no zone {name}", fix=f"it has {', '.join(names)}", mosaic=url)
    grid = mosaic.grids[names.index(name)]
    chunks = {"prompt": 1, "time": 1, "y": grid.shard_px, "x": grid.shard_px}
    store = open_store(url, mode="r")
    stored = xr.open_zarr(store, group=f"{name}/0".lstrip("/"), chunks=chunks, mask_and_scale=False)
    observed = stored["mask"] < UNOBSERVED
    score = (stored["score"].astype("float32") / SCORE_ONE).where(stored["score"] <= SCORE_ONE)
    score.attrs = {
        "long_name": "probability that the prompt is here",
        "units": "1",
        "grid_mapping": "spatial_ref",
    }
    opened: xr.Dataset = stored.assign(score=score, observed=observed)
    opened.attrs |= {"mosaic": url, "prompts": {prompt.name: prompt.expression for prompt in mosaic.prompts}}
    return opened
