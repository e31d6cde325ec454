"""Run the migrations on the connection that `greenroom migrate` hands over."""

from alembic import context

from greenroom.database.tables import metadata

# langgraph's own tables live in the same database: never propose to drop them.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=lambda name, kind, _parents: kind != "table" or name in metadata.tables,
)
with context.begin_transaction():
    context.run_migrations()
