"""Removes secrets from workers' requests before the gateway stores them.

Two kinds of secrets are removed: the secrets that the gateway knows itself, such as the keys of model providers, and
texts that have the form of a secret (`secret_patterns.py`). The stored text names the kind: `[redacted: aws key]`.

The diff of a result is code that is tested and delivered. In a diff only known secrets are replaced, because a text
that merely has the form of a secret, such as the URL of a test database, is part of the code.

All patterns are one regular expression of RE2. The search takes 2 ns for each byte (measured), which is a twentieth of
the time that the gateway needs for a request. Only a request that contains a secret is copied.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from mmap import mmap
from typing import Any, NamedTuple

import re2  # pyright: ignore[reportMissingTypeStubs]

from muster.common.contract import encode
from muster.sandbox_gateway.sandbox_log.domain.secret_patterns import PATTERNS

SHORTEST_KNOWN = 12
"""Fewest characters of a known secret. A shorter one could be a common word."""
REPLACED = b"[redacted: "
"""The begin of the text that replaces a secret."""
REFRESH_S = 10.0
"""Seconds after which the known secrets are read again."""
_MEMORY = 64 << 20
_PIECE_BYTES = 1 << 20
_ESCAPE_CHARS = len(r"\u0000")
_ESCAPE = re.compile(rb"\\(?:[nrtbf/]|u[0-9a-fA-F]{4})")
_DIGEST = re.compile(rb"(?:[0-9a-f]{40}|[0-9A-F]{40})\Z")

_re2: Any = re2


class _SecretKind(NamedTuple):
    """The name of a kind of secret, the number of its group in the whole pattern, and that of the secret's own part."""

    name: str
    group: int
    part: int | None


class CompiledSecrets:
    """The pattern of all secrets at one time. Never changes, so threads that redact use it without a lock."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self.known = known
        exact = [(name, _escaped(secret)) for name, secret in sorted(known.items(), key=_longest_first)]
        patterns = [*exact, *PATTERNS]
        kinds, group = list[_SecretKind](), 1
        for name, pattern in patterns:
            parts = re.compile(pattern).groups
            kinds.append(_SecretKind(name, group, group + 1 if parts else None))
            group += 1 + parts
        self._kinds = tuple(kinds)
        options = _re2.Options()
        options.max_mem = _MEMORY
        union = "|".join(f"({pattern})" for _, pattern in patterns)
        self.pattern: Any = _re2.compile(union.encode(), options=options)

    def redacted(self, body: bytes) -> bytes:
        """Return the body with every secret replaced, and the same body if it has none."""
        return self.pattern.sub(self.replacement, body) if self.pattern.search(body) else body

    def replacement(self, match: Any) -> bytes:  # noqa: ANN401 - re2 has no types
        """Return the text that replaces a match of `pattern`. It is the match itself if that is no secret."""
        found: bytes = match[0]
        name, _, part = next(kind for kind in self._kinds if match[kind.group] is not None)
        begin, end = match.span()
        if part is not None and match[part] is not None:
            begin, end = match.span(part)
            if _DIGEST.match(match[part]):
                return found  # a commit id beside the words "aws key" is evidence, not a secret
        kept, is_escape = _after_escape(match.string, begin)
        if is_escape or kept >= end:
            # The begin of the match is the letter of an escape and not a part of the text: look at the rest alone.
            cut = min(kept, match.end()) - match.start()
            return found[:cut] + self.pattern.sub(self.replacement, found[cut:])
        text = f"[redacted: {name}]".encode()
        return found[: kept - match.start()] + text + found[end - match.start() :]


class SecretRedactor:
    """Replaces secrets in the JSON of requests. Several threads may use it at the same time.

    `known` returns the present secrets of this deployment by the names that the stored text shows. It is called about
    every `REFRESH_S` seconds of the monotonic clock `now_s`. If the secrets have changed, a new `CompiledSecrets` takes
    the place of the old one, and a body that is being redacted is finished with the old one.
    """

    def __init__(self, known: Callable[[], Mapping[str, str]], now_s: Callable[[], float]) -> None:
        self._read_known, self._now_s = known, now_s
        self._secrets = CompiledSecrets({})
        self._read_at_s = float("-inf")

    def redacted(self, body: bytes) -> bytes:
        """Return the body with every secret replaced by `[redacted: <kind>]`, and the same body if it has none."""
        return self._present().redacted(body)

    def pieces(self, body: mmap) -> Iterator[tuple[bytes, bool]]:
        """Yield the content of a file without its secrets, in pieces, and for each piece whether it replaces a secret.

        The pieces together are the same as what `redacted` returns.
        """
        secrets, end = self._present(), 0
        for match in secrets.pattern.finditer(body):
            yield from (
                (body[at : min(at + _PIECE_BYTES, match.start())], False)
                for at in range(end, match.start(), _PIECE_BYTES)
            )
            replacement = secrets.replacement(match)
            yield replacement, replacement != match[0]
            end = match.end()
        yield from ((body[at : at + _PIECE_BYTES], False) for at in range(end, len(body), _PIECE_BYTES))

    def has_secret(self, body: bytes | mmap) -> bool:
        """Whether a body contains a text to replace. Takes 2 ns for each byte, whatever the body contains."""
        return self._present().pattern.search(body) is not None

    def without_known(self, text: str, also: Mapping[str, str]) -> tuple[str, list[str]]:
        """Return a text with the known secrets and those in `also` replaced, and the names of the replaced secrets.

        Other texts that have the form of a secret stay.
        """
        found = list[str]()
        for name, secret in sorted({**self._present().known, **also}.items(), key=_longest_first):
            if secret in text:
                found.append(name)
                text = text.replace(secret, f"[redacted: {name}]")
        return text, found

    def _present(self) -> CompiledSecrets:
        """Return the secrets to replace. If two threads read them at the same time, both compile the same pattern."""
        if self._now_s() - self._read_at_s >= REFRESH_S:
            now_s = self._now_s()
            known = {name: secret for name, secret in self._read_known().items() if len(secret) >= SHORTEST_KNOWN}
            if known != self._secrets.known:
                self._secrets = CompiledSecrets(known)
            self._read_at_s = now_s
        return self._secrets


def _longest_first(known: tuple[str, str]) -> int:
    return -len(known[1])


def _after_escape(body: bytes | mmap, begin: int) -> tuple[int, bool]:
    r"""Return the end of the escape that `begin` lies in, else `begin`, and whether it surely is an escape.

    `\\n` is a backslash and an `n`, or a line end of JSON in JSON. The end of the possible escape is right for both.
    """
    start = body.rfind(b"\\", max(0, begin - _ESCAPE_CHARS + 1), begin)
    if start < 0:
        return begin, False
    is_escape = _backslashes(body, start) % 2 == 0
    if (escape := _ESCAPE.match(body, start)) and escape.end() > begin:
        return escape.end(), is_escape
    if is_escape and start == begin - 1:
        return begin + 1, True  # the match begins with the second character of an escaped backslash
    return begin, False


def _backslashes(body: bytes | mmap, end: int) -> int:
    """Return the number of backslashes directly before a position. Copies little of the body if they are few."""
    size = 64
    while True:
        window = body[max(0, end - size) : end]
        other = len(window.rstrip(b"\\"))
        if other or size >= end:
            return len(window) - other
        size *= 16


def _escaped(secret: str) -> str:
    r"""Return a pattern for a known secret in JSON, where `/` may be written as `\/`."""
    return re.escape(encode(secret)[1:-1].decode()).replace("/", r"(?:\\?/)")
