"""The FastAPI application of the API: middleware, error responses, idempotency, rate limits, and shared parameters."""
