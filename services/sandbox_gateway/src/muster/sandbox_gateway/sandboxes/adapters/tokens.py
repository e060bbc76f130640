"""Issues the tokens of sandboxes: for a worker, and for the commands that run beside it."""

from muster.common.clock import Clock
from muster.common.contracts.gateway import CreateSandbox
from muster.sandbox_gateway.egress.domain.policy import NetworkPolicy
from muster.sandbox_gateway.sandboxes.domain.handoff import claims
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring


class SandboxTokens:
    """Signs the token of a sandbox, whose claims come from the command that created it and the operator's settings."""

    def __init__(self, keyring: Keyring, policy: NetworkPolicy, now: Clock, *, ttl_s: float) -> None:
        self._keyring, self._policy, self._now, self._ttl_s = keyring, policy, now, ttl_s

    def issue(self, create: CreateSandbox) -> str:
        """Return a new token of a sandbox. It is valid for at least twice the time limit of the task."""
        ttl_s = max(self._ttl_s, 2 * create.time_limit_s)
        expires = int(self._now().timestamp() + ttl_s)
        return self._keyring.sign(claims(create, expires=expires, hosts=self._policy.claimed_hosts(create.network)))

    def reaches_proxy(self, create: CreateSandbox) -> bool:
        """Whether the sandbox reaches the hosts of an allow-list through the gateway's proxy."""
        return self._policy.mode_of(create.network) == "allow-list"
