"""What a run's job file says, as far as the dashboard needs it; nothing in it is relied on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.dashboard.bottleneck import Settings
from jobs.job_file import document_in
from jobs.spec import Compute
from mapper.errors import SpecError

NONE = "–"
"""What is written for a setting that has no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunJob:
    """A job file, as it lies beside the mosaic."""

    fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> RunJob:
        """The job in a file; nothing where it is none."""
        try:
            fields = document_in(text)
        except SpecError:
            fields = None
        return cls(fields=fields if isinstance(fields, dict) else {})

    @property
    def name(self) -> str:
        """What its owner calls it."""
        return str(self.fields.get("name", ""))

    @property
    def prompts(self) -> tuple[tuple[str, str], ...]:
        """Name and expression of each."""
        listed = self.fields.get("prompts")
        said = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        return tuple((str(one.get("name", "")), str(one.get("expression", ""))) for one in said)

    @property
    def model(self) -> str:
        """Name of its model."""
        return str(self._section("model").get("name", ""))

    @property
    def usd_per_gpu_hour(self) -> float | None:
        """Price of a worker; None where it names none."""
        return _number(self._section("compute").get("usd_per_gpu_hour", Compute().usd_per_gpu_hour))

    @property
    def budget_usd(self) -> float | None:
        """What it may cost; None for no limit."""
        return _number(self._section("compute").get("budget_usd"))

    @property
    def settings(self) -> Settings:
        """Those that advice depends on."""
        compute, output, model = self._section("compute"), self._section("output"), self._section("model")
        default = Settings()
        return Settings(
            readers=_whole(compute.get("readers")) or ("auto" if compute.get("readers") != 0 else 0),
            gpus=_whole(compute.get("gpus")) or "auto",
            batch=_whole(compute.get("batch")) or "auto",
            engine=str(output.get("engine", default.engine)),
            commit_shards=_whole(output.get("commit_shards")) or default.commit_shards,
            overlap_px=_whole(self._section("windows").get("overlap_px")) or default.overlap_px,
            compiled=model.get("compiled") is True,
            precision=str(model.get("precision", default.precision)),
        )

    def flat(self) -> dict[str, str]:
        """Each setting by its place, as ``compute.readers`` or ``prompts[0].expression``, as people write it."""
        return dict(_flat("", self.fields))

    def _section(self, name: str) -> Mapping[str, Any]:
        section = self.fields.get(name)
        return section if isinstance(section, dict) else {}


def _flat(place: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [one for key, inner in value.items() for one in _flat(f"{place}.{key}".lstrip("."), inner)]
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        return [one for number, inner in enumerate(value) for one in _flat(f"{place}[{number}]", inner)]
    said = ", ".join(map(str, value)) if isinstance(value, list) else NONE if value is None else str(value)
    return [(place, said)]


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
