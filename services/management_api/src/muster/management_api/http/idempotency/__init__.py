"""`Idempotency-Key`: the rules, the stored replies, and the dependency that applies them."""
