"""Facts per collection: bands, display range, what its cloud band means."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorFacts:
    """What is known of a collection beyond what its items say."""

    rgb: tuple[str, str, str]
    display_range: tuple[float, float] | None = None
    """Physical values shown as 0 and 255."""

    cloud_asset: tuple[str, ...] = ()
    """The asset that tells cloud, under any of these keys."""

    cloud_values: frozenset[int] = frozenset()
    cloud_bits: int = 0


def facts_for(collection_id: str) -> SensorFacts | None:
    """What is known of a collection, None where nothing is."""
    raise NotImplementedError
