"""Types of message fields with their bounds. Each is declared once and used by every message with such a field."""

from typing import Annotated

import msgspec

NAME = "^[A-Za-z0-9_-]{1,64}$"
UNSPACED = "^[!-~]*$"
AT_THE_END = r"(?!\n)"
"""Follows `$` in the patterns of msgspec. In Python's regular expressions `$` also matches before a final newline."""
_VISIBLE = r"[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]"
"""A pattern of at least one visible character. Python, JavaScript and Rust regular expressions agree about it."""


def storable(most: int, *, least: int = 1) -> msgspec.Meta:
    """Return the bounds of a text that PostgreSQL can store, which means without the character NUL."""
    says = "may not contain the character NUL"
    return msgspec.Meta(min_length=least, max_length=most, pattern=r"^[^\x00]*$", description=says)


def visible(most: int) -> msgspec.Meta:
    """Return the bounds of a text with at least one character that is not a space."""
    says = "must hold at least one visible character"
    return msgspec.Meta(min_length=1, max_length=most, pattern=_VISIBLE, description=says)


def unspaced(most: int) -> msgspec.Meta:
    """Return the bounds of a word of printable ASCII without spaces."""
    says = "may hold printable ASCII without spaces"
    return msgspec.Meta(min_length=1, max_length=most, pattern=UNSPACED + AT_THE_END, description=says)


Line = Annotated[str, storable(1_000)]
Name = Annotated[
    str, msgspec.Meta(pattern=NAME + AT_THE_END, description="may hold letters, digits, - and _, 1 to 64 of them")
]
Title = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[!-.0-~]([ -.0-~]{0,62}[!-.0-~])?$(?!\n)",
        description="may hold printable ASCII without /, 1 to 64 characters, no space at its ends",
    ),
]
"""The name of an agent."""
Word = Annotated[str, unspaced(64)]
Path = Annotated[str, storable(500)]
OutputTokens = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
"""The most tokens of one answer of a model."""
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
Effort = Annotated[
    str,
    msgspec.Meta(pattern=r"^[a-z]{1,16}$" + AT_THE_END, description="may hold a to z, such as low, medium or high"),
]
"""The reasoning effort of a model. Each provider has its own words."""
Said = Annotated[str, visible(32_000)]
Labels = Annotated[
    dict[Annotated[str, storable(63)], Annotated[str, storable(255, least=0)]],
    msgspec.Meta(max_length=64),
]
