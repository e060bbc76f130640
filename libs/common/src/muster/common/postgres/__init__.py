"""Access to PostgreSQL through SQLAlchemy, asyncpg and alembic: pools, outages as faults, migrations."""
