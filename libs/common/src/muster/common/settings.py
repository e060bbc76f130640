"""What every service is told by its environment."""

from pathlib import Path
from typing import Literal, Self

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ProcessSettings(BaseSettings):
    """Base of all settings: prefix `MUSTER_`, frozen, a bad value fails at start naming its variable."""

    model_config = SettingsConfigDict(env_prefix="MUSTER_", frozen=True, extra="ignore", hide_input_in_errors=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class MigrationSettings(ProcessSettings):
    """For whoever brings a schema along."""

    database_url: SecretStr
    """`postgresql://user:password@host:port/database`"""


class ServiceSettings(ProcessSettings):
    """Base of each service's settings."""

    nats_url: SecretStr
    """`nats://host:port`, with `user:password@` where the server wants those."""
    nats_credentials: Path | None = None
    """A NATS creds file, read again at every connection."""
    drain_s: float = 10.0
    """How long a service told to stop may take to finish what it has begun."""


class AuthoritySettings(ServiceSettings):
    """For the service that makes agents' credentials: all four or none of these."""

    nats_account: str = ""
    """The public key of the account that services and agents live in."""
    nats_agent_seed: SecretStr = SecretStr("")
    """Signs agents' credentials, with the rights of the role `agent`."""
    nats_operator_seed: SecretStr = SecretStr("")
    """Signs the account when a revocation is added."""
    nats_system_credentials: Path | None = None
    """A creds file of the system account, where accounts are updated."""

    @property
    def issues_credentials(self) -> bool:
        """Whether agents have credentials of their own here."""
        return bool(self.nats_account)

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        given = (
            self.nats_account,
            self.nats_agent_seed.get_secret_value(),
            self.nats_operator_seed.get_secret_value(),
            self.nats_system_credentials,
        )
        if any(given) and not all(given):
            raise ValueError(
                "give all of MUSTER_NATS_ACCOUNT, MUSTER_NATS_AGENT_SEED, MUSTER_NATS_OPERATOR_SEED and "
                "MUSTER_NATS_SYSTEM_CREDENTIALS, or none of them"
            )
        return self
