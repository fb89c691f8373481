"""The objects of a whole mosaic, exact across its shards."""

from __future__ import annotations

from mapper.outlines.walk import ObjectBatch, ShardsSeen, map_objects

__all__ = ["ObjectBatch", "ShardsSeen", "map_objects"]
