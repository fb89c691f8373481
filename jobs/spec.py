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

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from catalogs.hrefs import unsigned
from jobs.job_file import read_document
from mapper.errors import SpecError
from mapper.models.fetch import check_address
from mapper.names import plain
from mapper.prompts import LONGEST_EXPRESSION, Prompt
from mapper.storage import EngineName

MOST_PROMPTS = 1000
"""Each is asked of every window and has arrays of its own."""

MOST_WORKERS = 100_000
_MOST_FAULTS = 12
"""Told at once: the rest mostly follow from the first."""


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("is blank, or has characters that cannot be printed")
    return text


Line = Annotated[str, AfterValidator(_one_line)]
"""Text that can stand in a message, a path or an address."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Area(_Section):
    """Where to map: exactly one of the three, in longitude and latitude."""

    bbox: tuple[float, float, float, float] | None = Field(None, description="west, south, east, north in degrees")
    geojson: Line | None = Field(None, description="file (relative to the job file) or URL of a GeoJSON document")
    wkt: str | None = Field(None, description="a POLYGON or MULTIPOLYGON")

    @model_validator(mode="after")
    def _one_of_three(self) -> Area:
        if sum(value is not None for value in (self.bbox, self.geojson, self.wkt)) != 1:
            raise ValueError("give exactly one of bbox, geojson, wkt")
        if self.bbox is not None:
            west, south, east, north = self.bbox
            if -180 <= east < west <= 180 and -90 <= south < north <= 90:
                raise ValueError(
                    "bbox is [west, south, east, north] in degrees, west < east and south < north; for one across the "
                    "antimeridian, give a wkt: MULTIPOLYGON with the part on either side"
                )
            if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
                raise ValueError("bbox is [west, south, east, north] in degrees, west < east and south < north")
        return self


class Scale(_Section):
    """Source values → 0..255, one range for the whole run."""

    from_: tuple[float, float] = Field(
        alias="from", description="values that become 0 and 255, after the item's own scale and offset"
    )

    @model_validator(mode="after")
    def _rising(self) -> Scale:
        if not self.from_[0] < self.from_[1]:
            raise ValueError("from is [low, high] with low < high")
        return self


class Imagery(_Section):
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


class GridSpec(_Section):
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


class PromptSpec(_Section):
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


class Model(_Section):
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


class WindowSpec(_Section):
    """How the model's windows lie."""

    overlap_px: int = Field(128, ge=0)
    blend: bool = True


class Output(_Section):
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


class Compute(_Section):
    """How much machinery; none of it changes a pixel."""

    gpus: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_WORKERS)] = "auto"
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
        2.0, ge=0, description="what plan and run reckon an hour of one worker at, its start-up with it"
    )


class ChangeSpec(_Section):
    """What counts as a change from one time step to the next."""

    hysteresis: float = Field(
        0.1,
        ge=0,
        lt=0.5,
        description="present from threshold + this on, absent from threshold - this; between them it stays as it was",
    )
    min_area_m2: float = Field(0.0, ge=0, description="what hangs together and is smaller is no change")


class SinkSpec(_Section):
    """Where alerts go: exactly one of the four kinds."""

    name: Line = Field(min_length=1, max_length=60, description="as alerts name it")
    webhook: Line | None = Field(None, description="https://…: each alert is posted to it, as Standard Webhooks say")
    secret: Line | None = Field(
        None, description="webhook: the environment variable that holds the secret its signature is made with"
    )
    file: Line | None = Field(None, description="a GeoParquet file that grows by a row a changed place")
    stac: Line | None = Field(None, description="a folder: a STAC collection of alerts, an item each")
    email: tuple[Line, ...] | None = Field(None, min_length=1, max_length=50, description="addresses")
    smtp: Line | None = Field(None, description="email: smtp://host:port or smtps://host:port of the server")
    sender: Line | None = Field(None, description="email: whom it is from")

    @model_validator(mode="after")
    def _one_kind(self) -> SinkSpec:
        if sum(kind is not None for kind in (self.webhook, self.file, self.stac, self.email)) != 1:
            raise ValueError("give exactly one of webhook, file, stac, email")
        if (self.email is None) != (self.smtp is None) or (self.email is None) != (self.sender is None):
            raise ValueError("email, smtp and sender are given together")
        if self.secret is not None and self.webhook is None:
            raise ValueError("secret is of a webhook, and none is given")
        return self


class AlertSpec(_Section):
    """When somebody is told: a kind of change of one prompt, in a place, over a threshold."""

    name: Line = Field(min_length=1, max_length=60)
    prompt: Line = Field(description="name of one of the job's prompts")
    change: Literal["appeared", "vanished"]
    within: Area | None = Field(None, description="the whole area where left out; each feature of a GeoJSON by itself")
    area_m2: float | None = Field(None, ge=0, description="told where more than this has changed")
    count: int | None = Field(None, ge=0, description="told where more places than this have changed")
    sinks: tuple[Line, ...] = Field((), max_length=20, description="names of sinks; all of them where left out")

    @model_validator(mode="after")
    def _a_threshold(self) -> AlertSpec:
        if (self.area_m2 is None) == (self.count is None):
            raise ValueError("give exactly one of area_m2, count")
        return self


class Monitor(_Section):
    """When ``resmap monitor`` looks for new imagery, what counts as a change, and who is told."""

    schedule: Line = Field(max_length=200, description='cron, such as "0 6 * * *", or an interval: "every 15m"')
    timezone: Line = Field("UTC", max_length=60, description="of a cron schedule, as in Europe/Paris")
    late: str = Field(
        "30d",
        pattern=r"^[1-9][0-9]{0,4}[hd]$",
        description="how long after its acquisition an item is still taken, new or reprocessed",
    )
    overlapping: Literal["skip", "queue", "replace"] = Field(
        "queue", description="what becomes of a tick that is due while the last one is still at work"
    )
    changes: ChangeSpec = ChangeSpec()
    alerts: tuple[AlertSpec, ...] = Field((), max_length=100)
    sinks: tuple[SinkSpec, ...] = Field((), max_length=20)

    @model_validator(mode="after")
    def _names_are_known(self) -> Monitor:
        for what, names in (("alerts", [a.name for a in self.alerts]), ("sinks", [s.name for s in self.sinks])):
            if len(set(names)) < len(names):
                raise ValueError(f"two {what} have one name")
        known = {sink.name for sink in self.sinks}
        for alert in self.alerts:
            if unknown := sorted(set(alert.sinks) - known):
                raise ValueError(f"alert {alert.name!r} names a sink {unknown[0]!r} that is none of monitor.sinks")
        return self


class JobSpec(_Section):
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
            if part not in ("int", "literal['auto']", "constrained-int", "[key]")
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
        if isinstance(part, int):
            continue
        found = next((known for name, known in section.model_fields.items() if part in (name, known.alias)), None)
        if found is None:
            return []
        annotation = found.annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if section is None:
            return []
    return [field.alias or name for name, field in section.model_fields.items()]
