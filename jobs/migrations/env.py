"""How alembic reaches the registry: by the connection it is given, within the transaction that is under way."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
