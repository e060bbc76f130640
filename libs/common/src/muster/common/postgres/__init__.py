"""PostgreSQL, for members that depend on SQLAlchemy, asyncpg and alembic: a pool, its outages as faults, revisions."""
