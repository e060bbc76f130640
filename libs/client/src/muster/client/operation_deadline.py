"""Enforces the deadline of a call, without threads or cancellation, through the timeout of each socket operation.

httpcore gives each operation on a socket the same timeout, so a call to a server that sends one byte per second would
never end. Therefore the client passes an `OperationDeadline` to httpcore as the timeout, and the module `network` reads
the remaining time from this object before each operation.
"""

from collections.abc import Callable
from typing import Self

from httpcore import TimeoutException


class OperationDeadline(float):
    """The timeout of one socket operation: `most_s` seconds, or less if the deadline `ends_at_s` is nearer.

    The float value of the object is the number of seconds that were left when the object was created.
    """

    def __new__(cls, most_s: float, ends_at_s: float, monotonic: Callable[[], float]) -> Self:
        """Create the timeout of a socket operation; the deadline `ends_at_s` is a time on the clock `monotonic`."""
        limit = super().__new__(cls, max(0.0, min(most_s, ends_at_s - monotonic())))
        limit._most_s, limit._ends_at_s, limit._monotonic = most_s, ends_at_s, monotonic
        return limit

    _most_s: float
    _ends_at_s: float
    _monotonic: Callable[[], float]

    def left_s(self) -> float:
        """Return the timeout in seconds of an operation that starts now; 0 or less if the deadline has passed."""
        return min(self._most_s, self._ends_at_s - self._monotonic())


def operation_s(timeout: float | None, expired: type[TimeoutException]) -> float | None:
    """Return the timeout in seconds of an operation that starts now. Raises `expired` if the deadline has passed."""
    if not isinstance(timeout, OperationDeadline):
        return timeout
    left_s = timeout.left_s()
    if left_s <= 0:
        raise expired
    return left_s
