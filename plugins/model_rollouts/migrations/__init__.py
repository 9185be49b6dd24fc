"""Alembic migrations of the rollout store, run by `SqlStore.migrate()` and `rollouts db upgrade`."""
