"""Who calls, and what they may do: users, keys, tokens of identity providers, roles."""
