"""The table of GPU types: what they cost, how fast they are, and what a usual node with them has.

``gpu_prices.yaml`` is shipped. A table of the user's lists the types that can be had, and what it leaves out of a type
or of the rest is as in the shipped one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from jobs.job_file import read_document
from jobs.sections import Section
from mapper.errors import SpecError
from mapper.segmenter import Precision

SHIPPED = Path(__file__).with_name("gpu_prices.yaml")

Positive = Annotated[float, Field(gt=0, le=1e9)]
NotNegative = Annotated[float, Field(ge=0, le=1e9)]
Name = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]


class NodeKind(Section):
    """A usual node with such GPUs."""

    name: Name
    gpus: int = Field(ge=1, le=64)
    vcpus: int = Field(ge=1, le=4096)
    gbit_s: Positive = Field(description="of its network, in each direction, for hours")


class Tflops(Section):
    """Of the data sheet, dense; None for a precision that the GPU has not."""

    bf16: Positive | None = None
    fp32: Positive | None = None

    def of(self, precision: Precision) -> float | None:
        """With the precision of a job."""
        return self.bf16 if precision == "bf16" else self.fp32


class GpuType(Section):
    """One type of GPU. Money is US dollars a GPU and hour."""

    memory_gb: Positive
    tflops: Tflops = Tflops()
    memory_gb_per_s: Positive | None = None
    on_demand_usd: NotNegative | None = None
    spot_usd: NotNegative | None = None
    interruptions_per_day: Annotated[float, Field(ge=0, le=1440)] = Field(0.0, description="of one spot node")
    most: int | None = Field(None, ge=1, description="GPUs of this type that can be had")
    node: NodeKind
    seconds_per_window: dict[Annotated[str, Field(min_length=1, max_length=100)], Positive] = Field(
        {}, description="model → seconds, as measured with the job's sentences; stands in place of the data sheet"
    )

    @model_validator(mode="after")
    def _to_be_had(self) -> GpuType:
        if self.on_demand_usd is None and self.spot_usd is None:
            raise ValueError("it has no price: give on_demand_usd, spot_usd or both")
        return self


class Reach(Section):
    """Share of what the data sheet promises that a model gets, 0 to 1."""

    low: Annotated[float, Field(gt=0, le=1)]
    likely: Annotated[float, Field(gt=0, le=1)]
    high: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Reach:
        if not self.low <= self.likely <= self.high:
            raise ValueError("low, likely and high are not in this order")
        return self


class Store(Section):
    """What the imagery's store gives all readers together; None where it is not known."""

    requests_per_s: Positive | None = None
    gbit_s: Positive | None = None


class Prices(Section):
    """The whole table."""

    as_of: Annotated[str, Field(max_length=60)]
    source: Annotated[str, Field(max_length=200)]
    start_up_s: NotNegative
    notice_s: NotNegative
    core_usd_per_hour: NotNegative
    reach: Reach
    store: Store = Store()
    gpus: dict[Name, GpuType] = Field(min_length=1, max_length=200)


def read_prices(path: Path | None = None) -> Prices:
    """The shipped table, or the user's, filled up from it.

    Raises:
        SpecError: it cannot be read, or says what no table says; every fault is named with its place.
    """
    shipped = _document(SHIPPED)
    assert isinstance(shipped, dict)
    return _checked(shipped, SHIPPED) if path is None else _checked(_filled(_document(path), shipped, path), path)


def _document(path: Path) -> object:
    try:
        return read_document(path)
    except SpecError as error:
        what = error.what.replace("the job file", "the price table", 1)
        raise SpecError(what, fix=error.fix, file=path) from error


def _filled(own: object, shipped: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A user's table with what it leaves out: its types are all there are, and the rest of each is as shipped."""
    types = own.get("gpus") if isinstance(own, dict) else None
    if not isinstance(own, dict) or not isinstance(types, dict):
        raise SpecError(
            "the price table lists no GPU types",
            fix="begin with gpus:, and under it a type with its prices, such as L4: {on_demand_usd: 0.8}",
            file=path,
        )
    known = shipped["gpus"]
    filled = {name: _over(known.get(name, {}), said) for name, said in types.items()}
    kept = {key: value for key, value in shipped.items() if key not in ("gpus", "as_of", "source")}
    return {"as_of": "", "source": path.name, **_over(kept, {**own, "gpus": filled})}


def _over(shipped: Mapping[str, Any], said: object) -> Any:
    """What is said, over what is shipped, key by key."""
    if said is None:
        return dict(shipped)
    if not isinstance(said, dict):
        return said  # refused where it is checked
    both = {
        key: _over(shipped[key], value) if isinstance(shipped.get(key), dict) and isinstance(value, dict) else value
        for key, value in said.items()
    }
    return {**shipped, **both}


def _checked(document: Mapping[str, Any], path: Path) -> Prices:
    try:
        return Prices.model_validate(document)
    except ValidationError as error:
        entries = error.errors(include_url=False, include_input=False)
        faults = [_fault(entry)[:300] for entry in entries[:_MOST_FAULTS]]
        if len(entries) > _MOST_FAULTS:
            faults.append(f"and {len(entries) - _MOST_FAULTS} more faults")
        raise SpecError("; ".join(faults), fix=f"correct the table; {SHIPPED} is an example", file=path) from error


def _fault(entry: Any) -> str:
    """One fault as a clause: where, and what."""
    place = ".".join(str(part)[:60] for part in entry["loc"] if part != "[key]") or "the table"
    if entry["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(entry["loc"][-1])[:60], _KEYS, n=1)
        return f"{place} is not a key" + (f" (did you mean {near[0]}?)" if near else "")
    if entry["type"] == "missing":
        return f"{place} is missing"
    message = entry["msg"].removeprefix("Value error, ")
    return f"{place}: {message[0].lower()}{message[1:]}"


_KEYS = sorted({key for section in (Prices, GpuType, NodeKind, Tflops, Reach, Store) for key in section.model_fields})
_MOST_FAULTS = 12
"""Told at once."""
