"""What changed from one time step of a mosaic to the next: kept beside it, exact, and made again from it at any time.

<mosaic without .zarr or .icechunk>.changes/
  change.zarr/     change, state, since, seen (prompt, time, y, x), see mapper/changes/raster.py
  polygons/        what appeared, vanished and stayed, a GeoParquet file a zone and step
  pending.json     what is left to do, so that whoever is killed is taken up
"""

from __future__ import annotations

from mapper.changes.find import Renewed, StepChanges, changes_told, find_changes
from mapper.changes.opened import changed_places, open_changes
from mapper.changes.raster import changes_folder
from mapper.changes.rule import ChangeRule

__all__ = [
    "ChangeRule",
    "Renewed",
    "StepChanges",
    "changed_places",
    "changes_folder",
    "changes_told",
    "find_changes",
    "open_changes",
]
