"""HTTP routes that return the API's health, readiness and metrics."""
