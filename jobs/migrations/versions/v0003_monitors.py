"""Monitors, their ticks, the alerts that wait to be delivered, and who leads those that serve."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "monitors",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("mosaic", sa.String, nullable=False),
        sa.Column("place", sa.String, nullable=False, unique=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("watermark", sa.String),
        sa.Column("swept", sa.String),
        sa.Column("asked", sa.String),
        sa.Column("spans", sa.Text, nullable=False),
        sa.Column("folded", sa.Integer, nullable=False),
        sa.Column("sums", sa.Text, nullable=False),
        sa.CheckConstraint("state IN ('active', 'paused')", name="known_monitor_state"),
    )
    op.create_table(
        "ticks",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("monitor_id", sa.String, nullable=False),
        sa.Column("monitor", sa.String, nullable=False),
        sa.Column("due", sa.String, nullable=False),
        sa.Column("first", sa.String, nullable=False),
        sa.Column("missed", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("holder", sa.String),
        sa.Column("beat", sa.Integer, nullable=False),
        sa.Column("stop_asked", sa.String),
        sa.Column("next_try", sa.String),
        sa.Column("began", sa.String, nullable=False),
        sa.Column("ended", sa.String),
        sa.Column("run", sa.String),
        sa.Column("new_items", sa.Integer),
        sa.Column("changed_items", sa.Integer),
        sa.Column("gone_items", sa.Integer),
        sa.Column("set_aside", sa.Integer),
        sa.Column("aside", sa.Text),
        sa.Column("tiles", sa.Integer),
        sa.Column("alerts", sa.Integer),
        sa.Column("said", sa.Text, nullable=False),
        sa.UniqueConstraint("monitor_id", "due"),
        sa.CheckConstraint(
            "state IN ('running', 'done', 'nothing', 'failed', 'skipped', 'replaced')", name="known_tick_state"
        ),
    )
    op.create_index("ticks_by_state", "ticks", ["state"])
    op.create_table(
        "alerts",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("monitor", sa.String, nullable=False),
        sa.Column("due", sa.String, nullable=False),
        sa.Column("sink", sa.String, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_try", sa.String),
        sa.Column("delivered", sa.String),
        sa.Column("error", sa.Text, nullable=False),
    )
    op.create_index("alerts_by_monitor", "alerts", ["monitor", "delivered"])
    op.create_table(
        "leaders",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("holder", sa.String),
        sa.Column("beat", sa.Integer, nullable=False),
    )
