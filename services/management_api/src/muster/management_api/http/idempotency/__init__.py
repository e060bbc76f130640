"""The header `Idempotency-Key`: its rules, the stored replies, and the FastAPI dependency that applies the rules."""
