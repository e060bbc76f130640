"""Decides whether a command of an agent waits, such as `sleep 30; tail -1 build.log`.

An agent that waits for a build repeats the same command on purpose. So the repetition of a waiting command is judged by
other rules than that of other commands (`steps`).
"""

import re
import shlex
from collections.abc import Iterator
from enum import IntEnum

LONGEST_COMMAND = 2_000
"""The largest number of characters of a command that is read. A longer command is a script, which does more."""
_WAITING = frozenset({"sleep", "usleep", "wait"})
_HARMLESS = frozenset({"echo", "printf", "date", "true", ":"})
"""Programs that change nothing and that tell nothing about the work."""
_KEYWORDS = frozenset({"while", "until", "do", "done", "if", "then", "else", "fi", "!", "{", "}"})
"""Words of the shell that come before a command, or stand alone."""
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_REDIRECTION = re.compile(r"\d*>.*", re.DOTALL)
_SEPARATORS = ";&|\n()"


class Waiting(IntEnum):
    """How much of a command is waiting."""

    NONE = 0
    PARTLY = 1
    """The command waits, and then does something else, for instance reads a log."""
    ONLY = 2
    """The command does nothing but wait and print a text of its own."""


def waiting(command: str) -> Waiting:
    """Return how much of a shell command is waiting. An empty command waits for the output of the one that runs."""
    if not command.strip():
        return Waiting.PARTLY
    if len(command) > LONGEST_COMMAND:
        return Waiting.NONE
    try:
        parts = list(_simple_commands(command))
    except ValueError:  # A quote has no end.
        return Waiting.NONE
    if not any(words[0] in _WAITING for words in parts):
        return Waiting.NONE
    substitutes = "$(" in command or "`" in command
    return Waiting.ONLY if not substitutes and all(map(_changes_nothing, parts)) else Waiting.PARTLY


def _changes_nothing(words: list[str]) -> bool:
    known = words[0] in _WAITING | _HARMLESS or words[0] == "for"
    return known and not any(map(_REDIRECTION.fullmatch, words))


def _simple_commands(command: str) -> Iterator[list[str]]:
    """Yield the words of each command in a command line, without keywords and assignments before the command.

    Raises `ValueError` if a quote has no end.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=_SEPARATORS)
    lexer.whitespace, lexer.whitespace_split = " \t\r", True
    # A comment would also hide the line end after it, and so join two commands.
    lexer.commenters = ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set(_SEPARATORS):
            if words:
                yield words
            words = []
        elif words or not (word in _KEYWORDS or _ASSIGNMENT.fullmatch(word)):
            words.append(word)
