"""The FastAPI application: middleware, problems, idempotency, rate limits, and what all routes share."""
