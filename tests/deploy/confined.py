"""A pod without a cluster: on a host of its own, as the user that its spec names, with no capability, on a root that it
cannot write to but for the volumes of its spec.

Namespaces and mounts are those of ``tests/fleet/hosts.py``. This machine's files stand for the image; a folder that
both pods see stands for the bucket.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.deploy.manifests import Pod, quantity
from tests.fleet.hosts import COMMAND_S, ROOT, SPACES, Host

STORE = "/store"

# The root is laid over this machine's, so that the places of volumes can be made, and then shut. Folders on the way to
# Python may be closed to all but root here; in an image they are not.
_SHUT = """
set -e
mount -t tmpfs -o size=64m tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
way=$1; while [ "$way" != / ]; do chmod o+x "/mnt/root$way"; way=$(dirname "$way"); done
shift
mkdir -p "$@"
mount -t proc proc /mnt/root/proc
mount --rbind /dev /mnt/root/dev
mount -o remount,ro /mnt/root
"""


class Confined:
    """A pod that is up; it does nothing yet."""

    def __init__(self, pod: Pod, host: Host, *, store: Path, config: Path) -> None:
        """Lay its root and volumes.

        Args:
            pod: what it is.
            host: where.
            store: what it sees as ``/store``.
            config: what stands for its ConfigMap or Secret.
        """
        self.host, (self.container,) = host, pod.spec["containers"]
        self._user, self._group = pod.spec["securityContext"]["runAsUser"], pod.spec["securityContext"]["fsGroup"]
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        mounts = {
            mount["mountPath"]: volumes[mount["name"]]
            for container in pod.containers
            for mount in container["volumeMounts"]
        }
        places = [f"/mnt/root{place}" for place in (*mounts, STORE)]
        host.run("bash", "-c", _SHUT, "shut", sys.base_prefix, *places)
        for place, volume in mounts.items():
            if "emptyDir" in volume:
                size = int(quantity(volume["emptyDir"]["sizeLimit"]))
                own = f"size={size},mode=2770,uid=0,gid={self._group}"
                host.run("mount", "-t", "tmpfs", "-o", own, "tmpfs", f"/mnt/root{place}")
            else:
                host.run("mount", "--bind", str(config), f"/mnt/root{place}")
        host.run("mount", "--bind", str(store), f"/mnt/root{STORE}")
        self._env = {entry["name"]: entry["value"] for entry in self.container["env"]}

    def begin(self, *words: str, env: Mapping[str, str], **how: Any) -> subprocess.Popen[Any]:
        """A command in the container, under way: as kubelet starts it, or calls a hook.

        Args:
            words: program and arguments.
            env: what the image, KubeRay and Secrets bring.
            how: as for ``subprocess.Popen``.
        """
        told = [f"{key}={value}" for key, value in {**env, **self._env}.items()]
        who = ["setpriv", f"--reuid={self._user}", f"--regid={self._group}", "--clear-groups", "--no-new-privs",
               "--inh-caps=-all", "--bounding-set=-all"]  # fmt: skip
        inside = ["chroot", "/mnt/root", *who, "env", "-i", "--chdir=/tmp", *told, *words]
        whole = ["nsenter", "--target", str(self.host.pid), *SPACES, "--", *inside]
        return subprocess.Popen(whole, **{"stdin": subprocess.DEVNULL, **how})

    def run(self, *words: str, env: Mapping[str, str], timeout_s: float = COMMAND_S) -> tuple[int, str]:
        """How a command in the container ended, and what it said."""
        how: Mapping[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with self.begin(*words, env=env, **how) as process:
            try:
                said, _ = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return process.returncode, str(said)


def image_env() -> dict[str, str]:
    """What an image says: where its programs are. This environment's stand for them."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'plugins'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RESMAP_SPOT": "off",  # no cloud is asked whether it takes this machine
    }


def ray_start(
    params: Mapping[str, str], limits: Mapping[str, Any], labels: Mapping[str, str], *to: str
) -> Sequence[str]:
    """The command that KubeRay makes of a group: a line for bash.

    Args:
        params: ``rayStartParams``.
        limits: of the container.
        labels: of the group.
        to: ``--head``, or the address of one.
    """
    said = {"block": "", "dashboard-agent-listen-port": "52365", "metrics-export-port": "8080",
            "num-cpus": str(limits["cpu"]), **params}  # fmt: skip
    if "nvidia.com/gpu" in limits:
        said["num-gpus"] = str(limits["nvidia.com/gpu"])
    if labels:
        said["labels"] = shlex.quote(",".join(f"{key}={value}" for key, value in labels.items()))
    line = " ".join([*to, *(f"--{key}={value}" if value else f"--{key}" for key, value in said.items())])
    return ["/bin/bash", "-c", "--", f"ulimit -n 65536; ray start {line}"]
