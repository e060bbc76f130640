"""Splits a bill so that everybody pays whole cents and nothing is left over."""


def shares(total: int, people: int) -> list[int]:
    """What each of `people` pays of `total` cents; those who come first pay the odd cents."""
    if people < 1:
        raise ValueError("nobody is there to pay")
    return [total // people] * people
