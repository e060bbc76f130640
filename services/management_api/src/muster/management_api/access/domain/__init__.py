"""The rules of access to the API, without I/O: principals, roles, keys, tokens' claims, and request bodies."""
