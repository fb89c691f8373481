"""All that a driver imports, imported once in the process that drivers are forked from. None of it starts a thread."""

import importlib

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
    "transformers",
):
    importlib.import_module(name)
