"""Alembic's entry point. It works on the connection that it is handed, inside its owner's transaction."""

from alembic import context

from model_rollouts.adapters.sql_tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=context.config.attributes["version_table"],
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
