"""Routes for the health, the readiness and the metrics of the API."""
