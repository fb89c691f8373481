"""Jobs that were submitted, whose processes run them, and who changed what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "submissions",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("run", sa.String, nullable=False),
        sa.Column("mosaic", sa.String, nullable=False),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("gpus", sa.Integer),
        sa.Column("local", sa.Boolean, nullable=False),
        sa.Column("retry", sa.Boolean, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("queued", sa.String, nullable=False),
        sa.Column("pid", sa.Integer),
        sa.Column("started", sa.Float),
        sa.Column("cancel_asked", sa.String),
        sa.Column("exit_status", sa.Integer),
        sa.Column("log", sa.String, nullable=False),
        sa.Column("ended", sa.String),
        sa.CheckConstraint("state IN ('queued', 'starting', 'running', 'ended', 'cancelled')", name="known_state"),
    )
    op.create_index("submissions_by_host", "submissions", ["host", "state", "queued"])
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("act", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
    )
    op.create_index("audit_by_key", "audit", ["key", "number"])
