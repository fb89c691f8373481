"""Who leads those that serve: one row in the registry, kept by a beat."""

from __future__ import annotations

import sqlalchemy as sa

from jobs.monitors.beats import Beat
from jobs.monitors.rows import LEADERS
from jobs.registry import Registry

_SERVE = "serve"


class Lead:
    """The lead over one registry. It saves work; that no tick is run twice rests on the claims alone."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def seen(self) -> Beat | None:
        """Who has it; None where nobody ever had, a holder of None where it was left."""
        with self._registry.reading() as connection:
            return _beat(connection)

    def take(self, holder: str, stood: Beat | None = None) -> bool:
        """Take it, or keep it, unless another has it; ``stood``: the beat that was seen to stand still."""
        with self._registry.writing(alone=LEADERS) as connection:
            seen = _beat(connection)
            if seen is None:
                connection.execute(sa.insert(LEADERS).values(name=_SERVE, holder=holder, beat=1))
                return True
            if seen.holder not in (None, holder) and seen != stood:
                return False
            changed = sa.update(LEADERS).where(LEADERS.c.name == _SERVE)
            connection.execute(changed.values(holder=holder, beat=seen.number + 1))
            return True

    def resign(self, holder: str) -> None:
        """Leave it to the next, if it is ours."""
        with self._registry.writing() as connection:
            connection.execute(sa.update(LEADERS).where(LEADERS.c.holder == holder).values(holder=None))


def _beat(connection: sa.Connection) -> Beat | None:
    found = connection.execute(sa.select(LEADERS).where(LEADERS.c.name == _SERVE)).mappings().first()
    return None if found is None else Beat(found["holder"], found["beat"])
