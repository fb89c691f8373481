"""A job, as a program holds it: ``Job.from_file(…).plan()``, ``.run()``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.spec import JobSpec, read_spec, spec_from

if TYPE_CHECKING:
    from jobs.prepare import Prepared
    from jobs.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What was asked."""

    spec: JobSpec
    folder: Path
    """Where relative paths of the job file begin."""

    @classmethod
    def from_file(cls, path: str | Path) -> Job:
        """The job in a YAML file.

        Raises:
            SpecError: it is missing, no YAML, or not a job.
        """
        path = Path(path)
        return cls(spec=rooted(read_spec(path), path.resolve().parent), folder=path.resolve().parent)

    @classmethod
    def from_dict(cls, document: dict[str, Any], *, folder: str | Path = ".") -> Job:
        """The job in a mapping of the same keys."""
        root = Path(folder).resolve()
        return cls(spec=rooted(spec_from(document), root), folder=root)

    def plan(self) -> Prepared:
        """Search, freeze and tile, and write nothing."""
        from jobs.prepare import prepare

        return prepare(self)

    def run(
        self,
        *,
        gpus: int | None = None,
        address: str | None = None,
        local: bool = False,
        retry: bool = False,
        repair: bool = False,
        insecure_ray: bool = False,
    ) -> Run:
        """Plan if needed, and start or resume; ``.wait()`` gives the summary.

        Args:
            gpus: GPU actors; None takes the job's ``compute.gpus``.
            address: of a running Ray cluster; None starts one on this machine.
            local: in this process, without Ray.
            retry: take tiles again that were given up.
            repair: read the whole mosaic back first, and map again what is damaged.
            insecure_ray: join a cluster on other machines though it asks nobody for a token.
        """
        from jobs.run import start

        return start(
            self,
            gpus=gpus,
            address=address,
            local=local,
            retry=retry,
            repair=repair,
            insecure_ray=insecure_ray,
        )


def rooted(spec: JobSpec, folder: Path) -> JobSpec:
    """The job with its local paths absolute: a job is the same from whichever folder it is run."""

    def root(place: str) -> str:
        return absolute(place, folder)

    weights = spec.model.weights
    return spec.model_copy(
        update={
            "imagery": spec.imagery.model_copy(update={"catalog": root(spec.imagery.catalog)}),
            "output": spec.output.model_copy(update={"mosaic": root(spec.output.mosaic)}),
            "model": spec.model.model_copy(update={"weights": None if weights is None else root(weights)}),
        }
    )


def absolute(place: str, folder: Path | None = None) -> str:
    """A local path made absolute; a URL as it is."""
    return place if "://" in place else str(((folder or Path.cwd()) / Path(place).expanduser()).resolve())
