"""Connects commands to the API client: finds the API's URL and key, completes ids, and turns errors into exit codes."""
