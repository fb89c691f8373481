"""Run tile tasks on GPUs. Knows no job and keeps no state on disk."""

from cluster.pool import Finished, Outcome, Pool, WorkerFacts, outcomes
from cluster.telemetry import Telemetry, WorkerSample

__all__ = ["Finished", "Outcome", "Pool", "Telemetry", "WorkerFacts", "WorkerSample", "outcomes"]
