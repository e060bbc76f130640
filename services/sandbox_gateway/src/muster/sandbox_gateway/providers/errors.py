"""The errors of providers beyond those of `muster.common.faults`. All of them may end by themselves or by an operator.

`NotFound` is a sandbox that does not exist, `Conflict` a sandbox that changes its state at this moment, `Unavailable`
a provider that does not answer, `TimedOut` a call that may have taken effect, and `InvalidMessage` a request that can
never succeed.
"""

from muster.common.faults import TooMany, Unavailable


class ProviderBusy(TooMany):
    """The provider permits no further calls for `retry_after_s` seconds."""

    code = "provider_busy"

    def __init__(self, text: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class QuotaExceeded(TooMany):
    """The account at the provider has no room for another sandbox. Other sandboxes must end first."""

    code = "quota_exceeded"
    retry_after_s = 10.0


class AccessRefused(Unavailable):
    """The provider refused the gateway's own credentials. An operator must correct a setting."""

    code = "provider_access_refused"
    retry_after_s = 15.0
