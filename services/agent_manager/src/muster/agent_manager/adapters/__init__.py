"""The other parts, as this service speaks to them."""
