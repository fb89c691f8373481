"""All that a driver imports, imported once in the process that drivers are forked from. None of it starts a thread."""

import importlib
import os

# Arrow's allocator would: a process that is forked beside a thread has what it has locked, and not the thread.
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"

for name in (
    "cluster.local",
    "icechunk",
    "jobs.budget",
    "jobs.cli",
    "jobs.progress",
    "jobs.quicklook",
    "jobs.run",
    "jobs.tables",
    "mapper.icechunk_engine",
    "mapper.models",
    "pyarrow.parquet",
    "rasterio.features",
    "resmap_colour",
    "sqlalchemy.dialects.sqlite",
    "torch",
):
    importlib.import_module(name)
