"""The objects of a whole mosaic, exact across its shards."""

from __future__ import annotations

from mapper.outlines.closed import ObjectBatch
from mapper.outlines.walk import ShardsSeen, map_objects

__all__ = ["ObjectBatch", "ShardsSeen", "map_objects"]
