"""Translates the errors of Daytona's SDK to the faults of a provider."""

import re
from collections.abc import Generator
from contextlib import contextmanager

import aiohttp
import httpx
from daytona import (
    DaytonaAuthenticationError,
    DaytonaConflictError,
    DaytonaConnectionError,
    DaytonaError,
    DaytonaNotFoundError,
    DaytonaRateLimitError,
    DaytonaTimeoutError,
)

from muster.common.faults import Conflict, Fault, NotFound, TimedOut, Unavailable
from muster.sandbox_gateway.providers.errors import AccessRefused, ProviderBusy, QuotaExceeded

_QUOTA = re.compile(r"limit (is )?exceeded|quota|exceeds? .*limit", re.IGNORECASE)
_LONGEST_TEXT = 300
_REFUSED = (401, 403)
_KINDS: tuple[tuple[type[DaytonaError], type[Fault], str], ...] = (
    (DaytonaNotFoundError, NotFound, "Daytona does not have it"),
    (DaytonaConflictError, Conflict, "the sandbox changes its state at Daytona"),
    (DaytonaTimeoutError, TimedOut, "Daytona did not answer in time"),
)


@contextmanager
def translated(what: str) -> Generator[None]:
    """Raise the faults of a provider in place of the SDK's errors. `what` is the call, as an operator knows it."""
    try:
        yield
    except DaytonaError as error:
        raise fault_of(error, what) from error
    except TimeoutError as error:
        raise TimedOut(f"Daytona did not answer in time ({what})") from error
    except (aiohttp.ClientError, httpx.HTTPError, OSError) as error:
        raise Unavailable(f"Daytona did not answer ({what}): {_short(str(error) or type(error).__name__)}") from error


def fault_of(error: DaytonaError, what: str) -> Fault:
    """Return the fault of a provider for an error of Daytona's SDK."""
    text = _short(str(error))
    if isinstance(error, DaytonaAuthenticationError) or error.status_code in _REFUSED:
        return AccessRefused(
            f"Daytona refused the gateway's key ({what}): {text}; set MUSTER_DAYTONA_API_KEY to a key that may create, "
            "use and delete sandboxes"
        )
    if isinstance(error, DaytonaRateLimitError):
        after = str(error.headers.get("Retry-After", error.headers.get("retry-after", "")))
        return ProviderBusy(
            f"Daytona permits no further calls now ({what})", retry_after_s=float(after) if after.isdigit() else 2.0
        )
    if _QUOTA.search(text):
        return QuotaExceeded(f"Daytona's quota is used up ({what}): {text}")
    for kind, fault, sentence in _KINDS:
        if isinstance(error, kind):
            return fault(f"{sentence} ({what}): {text}")
    if isinstance(error, DaytonaConnectionError):
        return Unavailable(
            f"Daytona did not answer ({what}): {text}; if this lasts, check MUSTER_DAYTONA_API_URL and the network"
        )
    return Unavailable(f"Daytona failed ({what}): {text}")


def _short(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_TEXT]
