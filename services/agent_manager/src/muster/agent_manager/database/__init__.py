"""Database schema `manager`: connection pool, transactions, the outbox of events, notices of changes, migrations."""
