"""A pool of Ray actors, one a GPU: place them, hand them tasks, replace those that die."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from cluster.pool import Finished, WorkerFacts
from cluster.worker import DEPTH, Worker
from mapper.errors import MapperError, ResourceError, WorkerLostError
from mapper.map_tile import Setup, Task, TileMapper

START_TIMEOUT_S = 300.0
"""How long an actor may take from being asked for to having its model loaded."""


class GpuActor:
    """The Ray actor that owns one GPU and one loaded model. Ray pins the GPU through CUDA_VISIBLE_DEVICES."""

    def __init__(self, name: str, setup: Setup, load: Callable[[Setup], TileMapper]) -> None:
        self._name, self._setup, self._load = name, setup, load
        self._worker: Worker | None = None

    def load(self) -> WorkerFacts | MapperError:
        """Load the model. Apart from ``__init__``, so that what goes wrong comes back as it is."""
        try:
            self._worker = Worker(self._name, self._setup, self._load)
        except MapperError as error:
            return error
        return self._worker.facts()

    def run(self, task: Task) -> Any:
        """As ``Worker.run``."""
        if self._worker is None:  # an actor's calls run in any order when it has threads
            return WorkerLostError("the worker was given a tile before its model", tile=task.name)
        return self._worker.run(task)


class RayPool:
    """Actors on a Ray cluster: an existing one by address, or one of this machine, started and stopped with it."""

    def __init__(
        self,
        setup: Setup,
        *,
        workers: int | None,
        address: str | None = None,
        load: Callable[[Setup], TileMapper] = TileMapper.load,
    ) -> None:
        """Connect, place the actors, and wait for the first to have its model.

        Args:
            setup: what every worker must know.
            workers: GPU actors; None takes as many as the cluster has GPUs (one where it has none).
            address: of a running cluster, as Ray writes it; None starts one here, whose GPUs are logical ones
                where the machine has none.
            load: makes the tile mapper in the actor.

        Raises:
            ResourceError: the cluster cannot be reached, or has fewer GPUs than asked for.
            MapperError: the model cannot be loaded.
        """
        self._setup, self._make = setup, load
        self._started_ray = _connect(workers, address)
        gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]  # Ray's own
        count = workers if workers is not None else max(1, gpus)
        if count > gpus:
            self.close()
            raise ResourceError(
                f"{count} GPU workers were asked of a cluster with {gpus} GPUs", fix=f"pass --gpus {gpus}"
            )
        self._actors: dict[str, Any] = {}
        self._loading: dict[Any, str] = {}
        self._facts: dict[str, WorkerFacts] = {}
        self._running: dict[Any, tuple[str, Any, Task]] = {}
        for number in range(count):
            self._place(f"gpu-{number}")
        try:
            self._await_loaded(at_least=1)
        except MapperError:
            self.close()
            raise

    @property
    def depth(self) -> int:
        """As in ``Pool``."""
        return DEPTH

    def workers(self) -> Sequence[str]:
        """Those whose model is loaded."""
        self._await_loaded(at_least=0)
        return tuple(self._facts)

    def facts(self) -> Sequence[WorkerFacts]:
        """Of all workers."""
        self._await_loaded(at_least=len(self._actors))
        return tuple(self._facts.values())

    def start(self, worker: str, task: Task) -> None:
        """Send a task to an actor."""
        actor = self._actors[worker]
        self._running[actor.run.remote(task)] = (worker, actor, task)

    def finished(self, timeout_s: float) -> list[Finished]:
        """The calls that are over. An actor that died is replaced, and its tasks come back as lost."""
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        more, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        over = []
        for call in {*ready, *more}:
            worker, actor, task = self._running.pop(call)
            try:
                result = ray.get(call)
            except RayActorError as error:
                result = WorkerLostError(f"the worker died: {_first_line(error)}", worker=worker, tile=task.name)
                self._replace(worker, actor)
            except RayError as error:
                result = WorkerLostError(f"Ray lost the call: {_first_line(error)}", worker=worker, tile=task.name)
            over.append(Finished(worker=worker, task=task, result=result))
        return over

    def close(self) -> None:
        """Kill the actors, and the cluster if it was started here."""
        if not ray.is_initialized():
            return
        for actor in getattr(self, "_actors", {}).values():
            ray.kill(actor, no_restart=True)
        if self._started_ray:
            ray.shutdown()

    def _place(self, worker: str) -> None:
        remote: Any = ray.remote(GpuActor)
        actor = remote.options(
            num_gpus=1, num_cpus=1, max_concurrency=DEPTH + 1, max_restarts=0, max_task_retries=0
        ).remote(worker, self._setup, self._make)
        self._actors[worker] = actor
        self._loading[actor.load.remote()] = worker

    def _replace(self, worker: str, dead: Any) -> None:
        """A new actor in place of a dead one; its other calls fail on their own and come here too, once is enough."""
        if self._actors[worker] is dead:
            del self._facts[worker]
            self._place(worker)

    def _await_loaded(self, *, at_least: int) -> None:
        while self._loading:
            missing = max(0, at_least - len(self._facts))
            timeout_s = START_TIMEOUT_S if missing else 0
            ready, _ = ray.wait(
                list(self._loading), num_returns=max(1, min(missing, len(self._loading))), timeout=timeout_s
            )
            if not ready and missing:
                raise ResourceError(
                    f"no GPU worker was ready after {START_TIMEOUT_S:g} s",
                    fix="ask for fewer with --gpus, or add nodes; `ray status` tells what the cluster waits for",
                )
            for call in ready:
                worker = self._loading.pop(call)
                try:
                    facts = ray.get(call)
                except RayError as error:
                    raise ResourceError(
                        f"a GPU worker died while it started: {_first_line(error)}", worker=worker
                    ) from error
                if isinstance(facts, MapperError):
                    raise facts
                self._facts[worker] = facts
            if len(self._facts) >= at_least:
                return


def _connect(workers: int | None, address: str | None) -> bool:
    """Join a cluster or start one here; whether one was started."""
    if ray.is_initialized():
        return False
    if address is not None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ResourceError(
                f"no Ray cluster answers: {_first_line(error)}", fix="check --address", address=address
            ) from error
        return False
    cores = os.cpu_count() or 1
    # Without CPUs for the actors they would stay pending on a machine with fewer cores than logical GPUs.
    ray.init(
        address="local",  # also where RAY_ADDRESS names another: without --address, this machine was meant
        num_cpus=max(cores, workers or 1) + 1,
        num_gpus=workers if workers is not None else _cuda_devices() or 1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    return True


def _cuda_devices() -> int:
    import torch

    return int(torch.cuda.device_count())


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
