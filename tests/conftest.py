"""What all tests share: a home of their own, the plug-in model on every path, a local Ray, the real data."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "tests" / "plugins"
DATA = ROOT.parent / "shared" / "data"

# Before anything imports ray: its workers and our subprocesses inherit the environment of this moment. Ray writes
# a token to ~/.ray, and the registry of runs is the user's own: tests keep out of both.
_HOME = tempfile.mkdtemp(prefix="resmap-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ |= {
    "HOME": _HOME,
    "RESMAP_REGISTRY": f"sqlite:///{_HOME}/registry.sqlite",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(PLUGINS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RESMAP_SPOT": "off",  # no cloud is asked whether it takes this machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # today's behaviour without Ray's warning that it will change
}
# Where bytecode is not kept, every process that a test starts would compile the project anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
for path in (PLUGINS, ROOT):
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))

# A shell starts what runs in its background with Ctrl-C ignored, and everything that starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: the machine is shared, and a slow example is no wrong one. Nothing random between two runs of CI; more is
# looked at with --hypothesis-profile=thorough.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("resmap", _PATIENT, derandomize=True, max_examples=25)
settings.register_profile("thorough", _PATIENT, max_examples=400)
settings.load_profile("resmap")


LONG = frozenset(("browser", "chaos", "cluster", "faults", "stories"))
"""Folders of few tests that take long: begun last, one of their files would keep one process busy after all others."""


def pytest_configure(config: pytest.Config) -> None:
    """Of several processes each takes files in the order of the collection, and not those of many tests first."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first."""
    items.sort(key=lambda item: not LONG & set(item.path.relative_to(ROOT).parts[:2]))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real rasters, labels and catalogs; the test is skipped where it is not."""
    if not DATA.is_dir():
        pytest.skip("the real data lie beside the repository, in ../shared/data, and are not here")
    return DATA


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A Ray of this machine with three logical GPUs. Pools use a Ray that is already there."""
    import ray

    ray.init(
        address="local",  # also where another cluster was started on this machine
        num_cpus=4, num_gpus=3, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket of a real S3 server on this machine; one for all, because s3fs keeps its connections by name."""
    from tests.servers import s3_bucket

    with s3_bucket() as url:
        yield url
