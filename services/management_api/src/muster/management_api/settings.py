"""What the API is told by its environment."""

from typing import ClassVar

from limits import parse
from pydantic import Field, SecretStr, ValidationInfo, field_validator

from muster.common.settings import DatabaseSettings, Days, MigrationSettings, ServiceSettings


class ApiSettings(ServiceSettings, DatabaseSettings):
    """Where it listens, whom it believes, and how much it takes."""

    section: ClassVar[str] = "management_api"

    admin_key: SecretStr = Field(min_length=16)
    """Of the stack's own administrator, `user:admin`: the way in before there is any user."""
    http_fd: int | None = None
    """A listening socket inherited from whoever started us; it outlives a crash."""
    http_host: str = "127.0.0.1"
    """Where to listen, if no socket is inherited."""
    http_port: int = Field(default=8700, ge=0, le=65_535)
    """Its port."""
    trusted_proxies: str = ""
    """Addresses (comma-separated) whose `X-Forwarded-For` is believed: of the reverse proxy in front, if any."""

    oidc_issuer: str = ""
    """Whose tokens are believed (their `iss`). Empty: nobody's."""
    oidc_audience: str = Field("", validate_default=True)
    """What a token must be for (its `aud`)."""
    oidc_jwks_url: str = ""
    """Where the issuer's keys are; empty: where its discovery document says."""
    oidc_role_claim: str = "roles"
    """The claim that holds a role or a list of them; dots go deeper (`realm_access.roles`)."""

    oidc_keys_rest_days: int = Field(30, ge=1, le=3650)
    """For how many days keys of the provider's users count without a token of theirs."""

    requests_per_principal: str = "3000 per second"
    """For each caller that is known; as `limits` writes it."""
    feeds_per_user: int = Field(200, ge=1)
    """Feeds that one user may have open at once, with all of their keys, at each replica."""
    refusals_per_address: str = "3000 per minute"
    """Wrong or absent credentials from one address, before they are answered 429."""

    audit_kept_days: Days = 400
    """The audit: stream `AUDIT` and table `api.audit`."""

    @field_validator("oidc_audience")
    @classmethod
    def _has_an_audience(cls, audience: str, told: ValidationInfo) -> str:
        """Without one every token of the issuer would do, whomever it was made for."""
        if told.data.get("oidc_issuer") and not audience:
            raise ValueError("with MUSTER_OIDC_ISSUER this must say what its tokens are for")
        return audience

    @field_validator("requests_per_principal", "refusals_per_address")
    @classmethod
    def _is_a_limit(cls, written: str) -> str:
        """As `limits` writes it."""
        try:
            possible = parse(written).amount > 0
        except ValueError:
            possible = False
        if not possible:
            raise ValueError("a limit is written like `100 per minute`")
        return written


class ApiMigration(MigrationSettings):
    """What `migrate` needs of them."""

    section: ClassVar[str] = ApiSettings.section
