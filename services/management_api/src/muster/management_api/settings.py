"""The settings of the API."""

from typing import ClassVar

from limits import parse
from pydantic import Field, SecretStr, ValidationInfo, field_validator

from muster.common.settings import DatabaseSettings, Days, MigrationSettings, ServiceSettings


class ApiSettings(ServiceSettings, DatabaseSettings):
    """Where the API listens, which tokens it accepts, and its limits."""

    section: ClassVar[str] = "management_api"

    admin_key: SecretStr = Field(min_length=16)
    """The key of the stack's administrator, `user:admin`: the way in before there is any user."""
    http_fd: int | None = None
    """A listening socket inherited from the parent process; it outlives a crash."""
    http_host: str = "127.0.0.1"
    """The address to listen on, unless a socket is inherited."""
    http_port: int = Field(default=8700, ge=0, le=65_535)
    """The port to listen on, unless a socket is inherited."""
    trusted_proxies: str = ""
    """Addresses of reverse proxies (comma-separated) whose `X-Forwarded-For` is trusted."""

    oidc_issuer: str = ""
    """The issuer (`iss`) whose tokens are accepted. Empty: none."""
    oidc_audience: str = Field("", validate_default=True)
    """The audience (`aud`) that a token must have."""
    oidc_jwks_url: str = ""
    """The URL of the issuer's keys; empty: as the issuer's discovery document says."""
    oidc_role_claim: str = "roles"
    """The claim with the role or a list of roles; dots lead into objects (`realm_access.roles`)."""

    oidc_keys_rest_days: int = Field(30, ge=1, le=3650)
    """Days for which keys of a provider's user stay valid after the user's last token."""

    requests_per_principal: str = "3000 per second"
    """The rate limit of each known caller, as the library `limits` writes it."""
    feeds_per_user: int = Field(200, ge=1)
    """Feeds that one user may have open at each replica, over all keys."""
    refusals_per_address: str = "3000 per minute"
    """Wrong or missing credentials from one address, before it is answered 429."""

    audit_kept_days: Days = 400
    """Days for which the stream `AUDIT` and the table `api.audit` keep entries."""

    @field_validator("oidc_audience")
    @classmethod
    def _has_an_audience(cls, audience: str, told: ValidationInfo) -> str:
        """Without an audience, a token that the issuer made for any other program would be accepted."""
        if told.data.get("oidc_issuer") and not audience:
            raise ValueError("with MUSTER_OIDC_ISSUER this must say what its tokens are for")
        return audience

    @field_validator("requests_per_principal", "refusals_per_address")
    @classmethod
    def _is_a_limit(cls, written: str) -> str:
        """Check that it is written as `limits` writes it."""
        try:
            possible = parse(written).amount > 0
        except ValueError:
            possible = False
        if not possible:
            raise ValueError("a limit is written like `100 per minute`")
        return written


class ApiMigration(MigrationSettings):
    """The settings that `migrate` needs."""

    section: ClassVar[str] = ApiSettings.section
