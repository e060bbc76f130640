"""The settings of the management API, from environment variables with the prefix `MUSTER_`."""

from typing import ClassVar

from limits import parse
from pydantic import Field, SecretStr, ValidationInfo, field_validator

from muster.common.settings import DatabaseSettings, Days, MigrationSettings, ServiceSettings


class ApiSettings(ServiceSettings, DatabaseSettings):
    """The settings of the management API: its address, the tokens that it accepts, and its limits."""

    section: ClassVar[str] = "management_api"

    admin_key: SecretStr = Field(min_length=16)
    """Key of the stack's administrator `user:admin`, which is valid before any user exists."""
    http_fd: int | None = None
    """File descriptor of a listening socket of the parent process. The socket stays open when the API crashes."""
    http_host: str = "127.0.0.1"
    """Address on which the API listens, unless a socket is inherited."""
    http_port: int = Field(default=8700, ge=0, le=65_535)
    """Port on which the API listens, unless a socket is inherited."""
    trusted_proxies: str = ""
    """Addresses of reverse proxies, separated by commas, whose `X-Forwarded-For` the API trusts."""

    oidc_issuer: str = ""
    """Issuer (`iss`) whose OIDC tokens the API accepts. If empty, the API accepts no OIDC tokens."""
    oidc_audience: str = Field("", validate_default=True)
    """Audience (`aud`) that an OIDC token must have."""
    oidc_jwks_url: str = ""
    """URL of the issuer's keys. If empty, the API reads the URL from the issuer's discovery document."""
    oidc_role_claim: str = "roles"
    """Claim of an OIDC token with the role or a list of roles. A dot selects a field (`realm_access.roles`)."""

    oidc_keys_rest_days: int = Field(30, ge=1, le=3650)
    """Days for which API keys of an identity provider's user stay valid after the user's last token."""

    requests_per_principal: str = "3000 per second"
    """Rate limit of each authenticated caller, in the notation of the library `limits`."""
    feeds_per_user: int = Field(200, ge=1)
    """Maximum number of feeds that one user may have open at each replica, over all keys."""
    refusals_per_address: str = "3000 per minute"
    """Rate limit of wrong or missing credentials from one address, beyond which the API answers 429."""

    audit_kept_days: Days = 400
    """Days for which the stream `AUDIT` and the table `api.audit` keep their entries."""

    @field_validator("oidc_audience")
    @classmethod
    def _has_an_audience(cls, audience: str, told: ValidationInfo) -> str:
        """Refuse an issuer without an audience, because its tokens for other programs would then be accepted."""
        if told.data.get("oidc_issuer") and not audience:
            raise ValueError("MUSTER_OIDC_ISSUER is set; set MUSTER_OIDC_AUDIENCE to the audience of its tokens too")
        return audience

    @field_validator("requests_per_principal", "refusals_per_address")
    @classmethod
    def _is_a_limit(cls, written: str) -> str:
        """Refuse a rate limit that is not in the notation of the library `limits`."""
        try:
            possible = parse(written).amount > 0
        except ValueError:
            possible = False
        if not possible:
            raise ValueError("the rate limit is not valid; write it like `100 per minute`")
        return written


class ApiMigration(MigrationSettings):
    """The settings of the command `migrate`, which migrates the database schema of the API."""

    section: ClassVar[str] = ApiSettings.section
