"""PostgreSQL for members that depend on SQLAlchemy, asyncpg and alembic: pools, outages as faults, migrations."""
