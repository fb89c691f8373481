"""The ``monitor`` section of a job file: when to look again, what counts as a change, who is told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from jobs.sections import Area, Line, Section


class ChangeSpec(Section):
    """What counts as a change from one time step to the next."""

    hysteresis: float = Field(
        0.1,
        ge=0,
        lt=0.5,
        description="present from threshold + this on, absent from threshold - this; between them it stays as it was",
    )
    min_area_m2: float = Field(0.0, ge=0, description="what hangs together and is smaller is no change")


class SinkSpec(Section):
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


class AlertSpec(Section):
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


class Monitor(Section):
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
