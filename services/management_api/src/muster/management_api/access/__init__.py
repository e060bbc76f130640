"""Authentication and authorization of callers: users, API keys, tokens of identity providers, and roles."""
