"""Schema `manager`: the pool, transactions, the outbox and its relay, notices of changes, and migrations."""
