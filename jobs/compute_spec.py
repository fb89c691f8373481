"""The ``compute`` section of a job file: on how much machinery it runs, and on which."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from jobs.sections import Section

MOST_WORKERS = 100_000
MOST_WORKERS_PER_GPU = 16
"""Ray hands out ten-thousandths of a GPU, and a model that fits oftener than this leaves its GPU idle all the same."""

Count = Annotated[int, Field(ge=1, le=MOST_WORKERS)]

_KEY = re.compile(r"([a-zA-Z0-9][a-zA-Z0-9.-]{0,252}/)?[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?")
_VALUE = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_WANTED = re.compile(rf"!?{_VALUE}|!?in\({_VALUE}(, ?{_VALUE})*\)")
_OWN = {"CPU": "cpus_per_worker says how many", "GPU": "gpus says how many", "memory": "Ray reserves none of it here"}


class GpuRange(Section):
    """As many GPUs as there are, within bounds."""

    min: Count = Field(1, description="fewer are told of, and do not stop the run")
    max: Count = Field(description="more are not asked for")

    @model_validator(mode="after")
    def _rising(self) -> GpuRange:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


def _form(given: object) -> str:
    """Which of the three ways of asking for GPUs it is."""
    if isinstance(given, dict | GpuRange):
        return "[range]"
    return "[auto]" if isinstance(given, str) else "[count]"


def _auto(given: object) -> object:
    if given != "auto":
        raise ValueError(f"is auto, a number of GPUs, or {{min: 1, max: 8}}, and not {str(given)[:60]!r}")
    return given


Gpus = Annotated[
    Annotated[Literal["auto"], BeforeValidator(_auto), Tag("[auto]")]
    | Annotated[Count, Tag("[count]")]
    | Annotated[GpuRange, Tag("[range]")],
    Discriminator(_form),
]
FORMS = ("[auto]", "[count]", "[range]")
"""What pydantic calls them: no part of a setting's place."""


def _check_share(amount: float) -> None:
    if amount > 1 and amount != int(amount):
        raise ValueError(f"{amount:g} is neither a part of one nor a whole number, which is what Ray hands out")


class Compute(Section):
    """How much machinery, and which; none of it changes a pixel."""

    gpus: Gpus = Field(
        "auto",
        description="auto: all there are, those that join and leave while it runs too; a number: so many, which are "
        "waited for; {min, max}: as many as there are within these bounds",
    )
    workers_per_gpu: int = Field(
        1, ge=1, le=MOST_WORKERS_PER_GPU, description="actors that share a GPU, where the model is small"
    )
    gpu_type: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="take no other, by the name Ray has for it: A100, H100, L4",
    )
    labels: dict[str, str] = Field(
        {},
        max_length=32,
        description="of the nodes for its workers, as Ray's label selectors: value, !value, in(a, b), !in(a, b)",
    )
    resources: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(
        {}, max_length=32, description="Ray's custom resources that a worker takes"
    )
    cpus_per_worker: float = Field(1, ge=0, le=1024, description="cores that Ray keeps for a GPU worker")
    readers: Literal["auto"] | Annotated[int, Field(ge=0, le=MOST_WORKERS)] = Field(
        "auto", description="actors that read for the GPU workers, a core each; auto places some where GPUs lack cores"
    )
    batch: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "auto", description="windows the model takes at once"
    )
    budget_usd: float | None = Field(
        None,
        gt=0,
        description="a plan that costs more is not begun, and a run that has spent it stops; a higher one goes on",
    )
    usd_per_gpu_hour: float = Field(
        2.0, ge=0, description="what plan and run reckon an hour of one GPU at, its start-up with it"
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _yes_and_no_are_texts(cls, given: object) -> object:
        """YAML reads true and 3 as what they are; a label is a text."""
        if not isinstance(given, dict):
            return given
        return {key: str(v).lower() if isinstance(v, bool | int) else v for key, v in given.items()}

    @field_validator("labels")
    @classmethod
    def _labels_as_ray_has_them(cls, given: dict[str, str]) -> dict[str, str]:
        for key, value in given.items():
            if not _KEY.fullmatch(key):
                raise ValueError(f"{key[:60]!r} is no label of a Ray node; they look like ray.io/market-type or zone")
            if not _WANTED.fullmatch(value):
                raise ValueError(f"{key[:60]}: {value[:60]!r} is none of value, !value, in(a, b), !in(a, b)")
        return given

    @field_validator("resources")
    @classmethod
    def _resources_of_ones_own(cls, given: dict[str, float]) -> dict[str, float]:
        for name, amount in given.items():
            if name in _OWN:
                raise ValueError(f"no custom resource is named {name}: {_OWN[name]}")
            if not name.strip() or not name.isprintable() or len(name) > 100:
                raise ValueError("a resource has a name of 1 to 100 characters that can be printed")
            _check_share(amount)
        return given

    @field_validator("cpus_per_worker")
    @classmethod
    def _parts_of_one(cls, given: float) -> float:
        _check_share(given)
        return given

    @property
    def expected_gpus(self) -> int:
        """How many to reckon with beforehand: one where it is left to the cluster, the most where there are bounds."""
        if isinstance(self.gpus, GpuRange):
            return self.gpus.max
        return 1 if self.gpus == "auto" else self.gpus

    @property
    def gpu_bounds(self) -> tuple[int, int | None]:
        """The fewest that are expected and the most that are asked for; None for all there are."""
        if isinstance(self.gpus, GpuRange):
            return self.gpus.min, self.gpus.max
        return (1, None) if self.gpus == "auto" else (self.gpus, self.gpus)
