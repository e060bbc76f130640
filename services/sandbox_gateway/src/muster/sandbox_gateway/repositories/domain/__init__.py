"""The rules of the feature `repositories` as pure functions: addresses, errors of git, and texts of deliveries."""
