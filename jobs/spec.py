"""The job file: what a user may write, checked at the door.

``resmap schema`` prints its JSON Schema. Unknown keys are refused: a setting that is misspelt must not be a
setting that is ignored.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from catalogs.hrefs import unsigned
from jobs.compute_spec import FORMS, MOST_WORKERS, Compute
from jobs.job_file import read_document
from jobs.monitor_spec import AlertSpec, ChangeSpec, Monitor, SinkSpec
from jobs.sections import Area, Line, Section
from mapper.errors import SpecError
from mapper.models.fetch import check_address
from mapper.names import plain
from mapper.prompts import LONGEST_EXPRESSION, Prompt
from mapper.storage import EngineName

__all__ = [
    "MOST_WORKERS",
    "AlertSpec",
    "Area",
    "ChangeSpec",
    "Compute",
    "GridSpec",
    "Imagery",
    "JobSpec",
    "Model",
    "Monitor",
    "Output",
    "PromptSpec",
    "Scale",
    "SinkSpec",
    "WindowSpec",
    "answer_key",
    "canonical",
    "read_spec",
    "run_id",
    "spec_from",
]

MOST_PROMPTS = 1000
"""Each is asked of every window and has arrays of its own."""

_MOST_FAULTS = 12
"""Told at once: the rest mostly follow from the first."""


class Scale(Section):
    """Source values → 0..255, one range for the whole run."""

    from_: tuple[float, float] = Field(
        alias="from", description="values that become 0 and 255, after the item's own scale and offset"
    )

    @model_validator(mode="after")
    def _rising(self) -> Scale:
        if not self.from_[0] < self.from_[1]:
            raise ValueError("from is [low, high] with low < high")
        return self


class Imagery(Section):
    """Which pictures."""

    catalog: Line = Field(description="STAC API, static catalog or collection JSON, or stac-geoparquet; file or URL")
    collections: tuple[Line, ...] = Field((), max_length=1000, description="their ids; empty takes all of the catalog")
    datetime: str | None = Field(None, description="as in STAC: one time, or begin/end, .. for open")
    filter: str | None = Field(None, description='CQL2 text, such as "eo:cloud_cover < 20"')
    bands: tuple[Line, ...] = Field(
        ("red", "green", "blue"),
        min_length=1,
        max_length=256,
        description='asset keys, or band names inside one asset ("image:1")',
    )
    scale: Scale | None = None
    time_step: Literal["all", "scene", "day", "week", "month", "season", "year"] = "all"
    composite: Literal["first", "latest", "median", "least-cloudy"] = "first"

    @field_validator("datetime", mode="before")
    @classmethod
    def _a_year_is_a_text(cls, given: object) -> object:
        return str(given) if type(given) is int and 0 < given < 10_000 else given


class GridSpec(Section):
    """Which pixels."""

    crs: Annotated[str, Field(max_length=20_000)] = Field(
        "native", description="native (the items' own), utm (one group a zone), or a code such as EPSG:32645"
    )
    resolution_m: float | None = Field(None, gt=0, description="side of a pixel; the imagery's own where crs is native")
    shard_px: int = Field(2048, ge=64, le=32768)
    chunk_px: int = Field(512, ge=16, le=8192)

    @model_validator(mode="after")
    def _resolution_where_needed(self) -> GridSpec:
        if self.crs == "native" and self.resolution_m is not None:
            raise ValueError("crs: native takes the imagery's own resolution; leave resolution_m out, or name a CRS")
        if self.crs != "native" and self.resolution_m is None:
            raise ValueError(f"crs: {self.crs[:60]} needs a resolution_m")
        if self.shard_px % self.chunk_px:
            raise ValueError(f"shard_px {self.shard_px} is not a multiple of chunk_px {self.chunk_px}")
        return self


class PromptSpec(Section):
    """One thing to look for."""

    name: str = Field(min_length=1, max_length=64, description="its name in the mosaic")
    expression: str = Field(
        min_length=1, max_length=LONGEST_EXPRESSION, description="the sentence, such as 'the buildings'"
    )
    threshold: float = Field(0.5, gt=0, le=1)

    @model_validator(mode="after")
    def _a_sentence(self) -> PromptSpec:
        try:
            Prompt(name=self.name, expression=self.expression, threshold=self.threshold)
        except SpecError as error:
            raise ValueError(f"{error.what}; {error.fix}") from error
        return self


class Model(Section):
    """Which model."""

    name: str = "pocket"
    weights: str | None = Field(
        None,
        min_length=1,
        description="a safetensors file: a path, https://…, s3://…, or hf://owner/name@revision/file; "
        "the shipped one where left out",
    )
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="of the weights; needed where they are fetched from elsewhere"
    )
    precision: Literal["fp32", "bf16"] = "fp32"
    compiled: bool = Field(False, description="minutes at the start, for less time a window after")

    @model_validator(mode="after")
    def _vouched_for(self) -> Model:
        if self.weights is None and self.sha256 is not None:
            raise ValueError("sha256 is of weights, and none are given")
        try:
            check_address(self.weights or "", self.sha256)
        except SpecError as error:
            raise ValueError(f"{error.what}; {error.fix}") from error
        return self


class WindowSpec(Section):
    """How the model's windows lie."""

    overlap_px: int = Field(128, ge=0)
    blend: bool = True


class Output(Section):
    """Where the mosaic goes."""

    mosaic: Line = Field(min_length=1, description="path or URL: /data/map.zarr, s3://bucket/map.zarr")
    engine: EngineName = Field(
        "zarr", description="zarr: opens everywhere; icechunk: every run a version, seen whole or not at all"
    )
    commit_shards: int = Field(64, ge=1, description="icechunk: tiles after which they become part of the mosaic")
    commit_s: float = Field(30.0, gt=0, description="icechunk: seconds after which they do at the latest")
    pyramid: Literal["mode", "any"] = Field(
        "mode",
        description="coarser levels: mode keeps what most pixels are; any keeps every place with a present pixel",
    )


class JobSpec(Section):
    """One job: an area, imagery, sentences, a model and a place for the map."""

    name: Line = Field(min_length=1, max_length=100)
    area: Area
    imagery: Imagery
    grid: GridSpec = GridSpec()
    prompts: tuple[PromptSpec, ...] = Field(min_length=1, max_length=MOST_PROMPTS)
    model: Model = Model()
    windows: WindowSpec = WindowSpec()
    output: Output
    compute: Compute = Compute()
    monitor: Monitor | None = None

    @model_validator(mode="after")
    def _prompts_differ(self) -> JobSpec:
        count = Counter(map(_seen, (prompt.name for prompt in self.prompts)))
        twice = sorted({prompt.name for prompt in self.prompts if count[_seen(prompt.name)] > 1})
        if twice:
            raise ValueError(
                f"two prompts are named {', '.join(twice[:4])}; "
                "a name is a coordinate and must be unique, to the eye too"
            )
        return self

    @model_validator(mode="after")
    def _alerts_are_of_prompts(self) -> JobSpec:
        known = {prompt.name for prompt in self.prompts}
        for alert in self.monitor.alerts if self.monitor else ():
            if alert.prompt not in known:
                raise ValueError(f"monitor.alerts: {alert.name!r} is of a prompt {alert.prompt!r} that the job lacks")
        return self

    def prompt_values(self) -> tuple[Prompt, ...]:
        """The prompts in the mapper's words."""
        return tuple(Prompt(name=p.name, expression=p.expression, threshold=p.threshold) for p in self.prompts)


def read_spec(path: Path) -> JobSpec:
    """The job file at a path.

    Raises:
        SpecError: it is missing, no YAML, or not a job; every fault is named with its place.
    """
    return spec_from(read_document(path), source=str(path))


def spec_from(document: object, *, source: str = "job") -> JobSpec:
    """A job from what YAML or JSON gave.

    Raises:
        SpecError: it is not a job; every fault is named with its place.
    """
    if not isinstance(document, dict):
        raise SpecError(
            "the job file is not a mapping of settings", fix="begin with name:, area:, imagery:", file=source
        )
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        entries = error.errors(include_url=False, include_input=False)
        faults = [_fault(entry)[:300] for entry in entries[:_MOST_FAULTS]]
        if len(entries) > _MOST_FAULTS:
            faults.append(f"and {len(entries) - _MOST_FAULTS} more faults")
        raise SpecError("; ".join(faults), fix="`resmap schema` lists every key", file=source) from error


def canonical(spec: JobSpec) -> dict[str, Any]:
    """The job as plain values, defaults filled in, no address with what signs it: it is kept with the run."""
    fields = spec.model_dump(mode="json", by_alias=True)
    for section, name in (("area", "geojson"), ("imagery", "catalog"), ("model", "weights")):
        if isinstance(address := fields[section].get(name), str):
            fields[section][name] = unsigned(address)
    return fields


def answer_key(spec: JobSpec, *, area_wkb: bytes) -> str:
    """Digest of all that a mosaic's values depend on, sentences apart: jobs that share it may share a mosaic."""
    fields = canonical(spec)
    parts = {key: fields[key] for key in ("imagery", "grid", "model", "windows")}
    return _digest({**parts, "area": hashlib.sha256(area_wkb).hexdigest()})


def run_id(spec: JobSpec, *, area_wkb: bytes) -> str:
    """The name of this job's run: the same job has the same one, wherever and however it runs."""
    fields = canonical(spec)
    digest = _digest(
        {
            "answer": answer_key(spec, area_wkb=area_wkb),
            "prompts": fields["prompts"],
            "mosaic": spec.output.mosaic,
        }
    )
    return f"{plain(spec.name) or 'job'}-{digest[:10]}"


def _seen(name: str) -> str:
    """What people see of a name: in one spelling of Unicode, blanks as one."""
    return unicodedata.normalize("NFC", " ".join(name.split()))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _fault(entry: Any) -> str:
    """One pydantic error as a clause: where, what, and the nearest key for a misspelt one."""
    place = (
        ".".join(
            str(part)[:60]
            for part in entry["loc"]
            if part not in ("int", "literal['auto']", "constrained-int", "[key]", *FORMS)
        )
        or "job"
    )
    if entry["type"] == "extra_forbidden":
        *parents, wrong = entry["loc"]
        near = difflib.get_close_matches(str(wrong)[:60], _keys(parents), n=1)
        return f"{place} is not a key" + (f" (did you mean {near[0]}?)" if near else "")
    if entry["type"] == "missing":
        return f"{place} is missing"
    message = entry["msg"].removeprefix("Value error, ")
    return f"{place}: {message[0].lower()}{message[1:]}"


def _keys(parents: list[Any]) -> list[str]:
    """The keys the job file knows at a place."""
    section: Any = JobSpec
    for part in parents:
        if isinstance(part, int) or part in FORMS:
            continue
        found = next((known for name, known in section.model_fields.items() if part in (name, known.alias)), None)
        if found is None:
            return []
        annotation = found.annotation
        candidates = [annotation, *(getattr(c, "__origin__", c) for c in getattr(annotation, "__args__", ()))]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if section is None:
            return []
    return [field.alias or name for name, field in section.model_fields.items()]
