"""The HTTP routes for users and API keys, and the checks of callers that all routes use."""
