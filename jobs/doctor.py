"""What this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from jobs.settings import registry_url
from mapper.errors import MapperError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at."""

    what: str
    state: Literal["good", "note", "bad"]
    """``note`` is worth knowing; ``bad`` keeps resmap from working."""

    says: str
    fix: str = ""


def examine() -> list[Finding]:
    """Every finding, in the order in which one would look."""
    packages = [_package(name) for name in ("torch", "ray", "zarr", "xarray", "rasterio", "s3fs")]
    looks: list[Callable[[], Finding]] = [_python, *packages, _gpu, _drivers, _model, _memory, _disk, _registry]
    return [look() for look in looks]


def _python() -> Finding:
    return Finding(what="Python", state="good", says=".".join(map(str, sys.version_info[:3])))


def _package(name: str) -> Callable[[], Finding]:
    def look() -> Finding:
        try:
            importlib.import_module(name)
            return Finding(what=name, state="good", says=version(name))
        except PackageNotFoundError:
            return Finding(what=name, state="bad", says="not installed", fix="run `make setup`")
        except Exception as error:  # whatever breaks an import is the finding
            return Finding(
                what=name,
                state="bad",
                says=f"does not import: {error}",
                fix="run `make setup` in a new .venv",
            )

    return look


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count()))
        return Finding(what="GPU", state="good", says=names)
    built = torch.version.cuda
    if built is None:
        return Finding(
            what="GPU",
            state="note",
            says="none: torch is built for the CPU; `pocket` runs there, the large models crawl",
        )
    return Finding(
        what="GPU", state="note", says=f"none seen by torch (built for CUDA {built})", fix="check nvidia-smi"
    )


def _drivers() -> Finding:
    import rasterio

    from mapper.raster import DRIVERS

    with rasterio.Env() as env:
        missing = [name for name in DRIVERS if name not in env.drivers()]
    says = f"{rasterio.__gdal_version__}, reads {', '.join(name for name in DRIVERS if name not in missing)}"
    if "GTiff" in missing:
        return Finding(what="GDAL", state="bad", says=says, fix="install rasterio's wheel")
    return Finding(what="GDAL", state="note" if missing else "good", says=says)


def _model() -> Finding:
    from mapper import models

    try:
        net = models.load("pocket", device="cpu")
    except MapperError as error:
        return Finding(what="pocket", state="bad", says=error.what, fix=error.fix)
    return Finding(what="pocket", state="good", says=f"weights {net.fingerprint[:12]}…")


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    says = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free, {os.cpu_count()} cores"
    if memory.available < 2 * 2**30:
        return Finding(what="memory", state="note", says=says, fix="lower grid.shard_px")
    return Finding(what="memory", state="good", says=says)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    says = f"{free / 2**30:.1f} GiB free here"
    return Finding(what="disk", state="good" if free > 2**30 else "note", says=says)


def _registry() -> Finding:
    from jobs.registry import Registry

    try:
        count = len(Registry().runs())
    except MapperError as error:
        return Finding(what="registry", state="note", says=f"{error.what}; runs go on without it", fix=error.fix)
    return Finding(what="registry", state="good", says=f"{count} runs in {registry_url().split('@')[-1]}")
