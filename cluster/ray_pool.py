"""A pool of Ray actors, one a GPU: place them, hand them tasks, replace those that die."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeAlias

import ray
from ray.exceptions import RayActorError, RayError

from cluster.pool import Finished, WorkerFacts, heard
from cluster.readers import cluster_nodes, place_readers, readers_wanted, reading_with
from cluster.worker import MOST_HELD, Worker
from mapper.errors import MapperError, ResourceError, WorkerLostError
from mapper.map_tile import Result, Setup, Task, TileMapper

START_TIMEOUT_S = 300.0
"""How long an actor may take from being asked for to having its model loaded."""


class Works(Protocol):
    """What an actor owns: a ``Worker``, or what stands in for one where scheduling is measured without a GPU."""

    @property
    def holds(self) -> int:
        """As of ``Worker``."""

    def facts(self) -> WorkerFacts:
        """As of ``Worker``."""

    def run(self, task: Task) -> Result | MapperError:
        """As of ``Worker``."""


Load: TypeAlias = Callable[[Setup], TileMapper]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What an actor answers: what it was asked for, and how many tiles it wants in hand now."""

    result: WorkerFacts | Result | MapperError
    holds: int = 0


class GpuActor:
    """The Ray actor that owns one GPU and one loaded model. Ray pins the GPU through CUDA_VISIBLE_DEVICES."""

    def __init__(self, name: str, setup: Setup, load: Load, worker: Callable[[str, Setup, Load], Works]) -> None:
        self._make, self._load = partial(worker, name, setup), load
        self._worker: Works | None = None

    def load(self, readers: Sequence[Any]) -> Reply:
        """Load the model. Apart from ``__init__``, so that what goes wrong comes back as it is."""
        try:
            self._worker = self._make(reading_with(self._load, readers))
        except MapperError as error:
            return Reply(result=error)
        return Reply(result=self._worker.facts(), holds=self._worker.holds)

    def run(self, pickled: bytes) -> Reply:
        """As ``Worker.run``. Ray's own pickler costs the driver more than all else it does for a task."""
        task: Task = pickle.loads(pickled)
        if self._worker is None:  # an actor's calls run in any order when it has threads
            return Reply(result=WorkerLostError("the worker was given a tile before its model", tile=task.name))
        return Reply(result=self._worker.run(task), holds=self._worker.holds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A task on its way. A dead actor's successor has its name, so the actor is told apart by itself."""

    worker: str
    actor: Any
    task: Task


class RayPool:
    """Actors on a Ray cluster: an existing one by address, or one of this machine, started and stopped with it."""

    def __init__(
        self,
        setup: Setup,
        *,
        workers: int | None,
        address: str | None = None,
        readers: int | None = 0,
        load: Load = TileMapper.load,
        worker: Callable[[str, Setup, Load], Works] = Worker,
    ) -> None:
        """Connect, place the actors, and wait for the first to have its model.

        Args:
            setup: what every worker must know.
            workers: GPU actors; None takes as many as the cluster has GPUs (one where it has none).
            address: of a running cluster, as Ray writes it; None starts one here, whose GPUs are logical ones
                where the machine has none.
            readers: actors that read for the workers, a core each; None takes as many as ``readers_wanted``.
            load: makes the tile mapper in the actor.
            worker: makes what the actor owns, of its name, the setup and ``load``.

        Raises:
            ResourceError: the cluster cannot be reached, or has fewer GPUs than asked for.
            MapperError: the model cannot be loaded.
        """
        self._made_of = (setup, load, worker)
        self._started_ray = _connect(workers, address, readers=readers or 0)
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
        self._holds: dict[str, int] = {}
        self._over: SimpleQueue[tuple[_Call, Future[Reply]]] = SimpleQueue()
        self._readers: list[Any] = []
        for number in range(count):
            self._place(f"gpu-{number}")
        self._readers = place_readers(setup, readers_wanted(cluster_nodes(count)) if readers is None else readers)
        for name in self._actors:
            self._begin(name)
        try:
            self._await_loaded(at_least=1)
        except MapperError:
            self.close()
            raise

    def workers(self) -> Mapping[str, int]:
        """Those whose model is loaded, and how many tiles each wants in hand, as it said last."""
        self._await_loaded(at_least=0)
        return self._holds

    def facts(self) -> Sequence[WorkerFacts]:
        """Of all workers."""
        self._await_loaded(at_least=len(self._actors))
        return tuple(self._facts.values())

    def start(self, worker: str, task: Task, token: int = 0) -> None:
        """Send a task to an actor."""
        call = _Call(worker=worker, actor=self._actors[worker], task=task)
        # Ray tells when a call is over; asking about all of them each time would cost more the more there are.
        answer = call.actor.run.remote(pickle.dumps(task, protocol=5)).future()
        answer.add_done_callback(lambda done: self._over.put((call, done)))

    def finished(self, timeout_s: float) -> list[Finished]:
        """The calls that are over. An actor that died is replaced, and its tasks come back as lost."""
        return [
            Finished(worker=call.worker, task=call.task, result=self._result(call, answer))
            for call, answer in heard(self._over, timeout_s)
        ]

    def close(self) -> None:
        """Kill the actors, and the cluster if it was started here."""
        if not ray.is_initialized():
            return
        for actor in (*getattr(self, "_actors", {}).values(), *getattr(self, "_readers", [])):
            ray.kill(actor, no_restart=True)
        if self._started_ray:
            ray.shutdown()

    def _result(self, call: _Call, answer: Future[Reply]) -> Any:
        where = {"worker": call.worker, "tile": call.task.name}
        try:
            reply = answer.result()
        except RayActorError as error:
            self._replace(call.worker, call.actor)
            return WorkerLostError(f"the worker died: {_first_line(error)}", **where)
        except RayError as error:
            return WorkerLostError(f"Ray lost the call: {_first_line(error)}", **where)
        if self._actors[call.worker] is call.actor and reply.holds:
            self._holds[call.worker] = reply.holds
        return reply.result

    def _place(self, worker: str) -> None:
        remote: Any = ray.remote(GpuActor)
        # One thread more than tiles: the model is loaded in one.
        options = {"num_gpus": 1, "num_cpus": 1, "max_concurrency": MOST_HELD + 1}
        actor = remote.options(**options, max_restarts=0, max_task_retries=0).remote(worker, *self._made_of)
        self._actors[worker] = actor

    def _begin(self, worker: str) -> None:
        """Have an actor load its model. Once the readers are there: they are placed when every GPU has its core."""
        self._loading[self._actors[worker].load.remote(self._readers)] = worker

    def _replace(self, worker: str, dead: Any) -> None:
        """A new actor in place of a dead one; its other calls fail on their own and come here too, once is enough."""
        if self._actors[worker] is dead:
            del self._facts[worker], self._holds[worker]
            self._place(worker)
            self._begin(worker)

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
                    reply = ray.get(call)
                except RayError as error:
                    raise ResourceError(
                        f"a GPU worker died while it started: {_first_line(error)}", worker=worker
                    ) from error
                if isinstance(reply.result, MapperError):
                    raise reply.result
                self._facts[worker], self._holds[worker] = reply.result, reply.holds
            if len(self._facts) >= at_least:
                return


def _connect(workers: int | None, address: str | None, *, readers: int) -> bool:
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
        num_cpus=max(cores, workers or 1) + readers + 1,
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
