"""Settings that all services share, read from the environment and from a configuration file."""

import os
import re
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from muster.common.configuration_file import FROM_FILE, KnownSetting, configured, secrets_in_files
from muster.common.isolation_levels import STRONGEST, IsolationLevel
from muster.common.tls import TlsFiles, tls_files

Days = Annotated[int, Field(ge=0, le=36_500)]
"""The number of days after which stored data is deleted. 0 means never."""


_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?")


def _refuse_unreadable(name: str, url: str) -> None:
    """Raise `ValueError` for a URL that cannot be parsed, without a part of the URL in the text.

    An error of a library could repeat a part of the password.
    """
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2].split(",")
        readable = all(map(_HOST.fullmatch, hosts)) and "@" not in parts.path + parts.fragment
    except ValueError:
        readable = False
    if not readable:
        raise ValueError(
            f"MUSTER_{name}_URL cannot be read as a URL: percent-encode the special characters of its password, "
            "# as %23, / as %2F, @ as %40"
        )


class ProcessSettings(BaseSettings):
    """Base of all settings. Variables begin with `MUSTER_`, and values cannot be changed.

    A wrong value ends the process at start with the name of the variable. Arguments in Python have precedence over the
    environment, and the environment over the configuration file (see `configuration`).
    """

    model_config = SettingsConfigDict(env_prefix="MUSTER_", frozen=True, extra="ignore", hide_input_in_errors=True)
    section: ClassVar[str] = ""
    """The service's table in the configuration file."""
    whole: ClassVar[bool] = True
    """Whether this class contains all settings of the table."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level of log messages that a service writes."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings names its arguments
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read secret files before the environment. A secret may be set by only one of the two."""
        known = cls.known()
        return (
            init_settings,
            InitSettingsSource(settings_cls, secrets_in_files(known.secrets, os.environ)),
            env_settings,
            InitSettingsSource(settings_cls, configured(known, os.environ)),
        )

    @classmethod
    def known(cls) -> KnownSetting:
        """Return the names of this class's settings, for the functions that read the configuration file."""
        return KnownSetting(
            section=cls.section,
            names=frozenset(cls.model_fields),
            secrets=_secrets(cls),
            shared=shared_keys(),
            whole=cls.whole,
        )


class DatabaseSettings(ProcessSettings):
    """Settings of a service that uses PostgreSQL."""

    database_url: SecretStr
    """URL of the database, `postgresql://user:password@host:port/database`."""
    database_tls_ca_file: Path | None = None
    """File with the authorities that may sign PostgreSQL's certificate. PostgreSQL is then used only over TLS."""
    database_tls_cert_file: Path | None = None
    """File with the client certificate, if PostgreSQL requires one."""
    database_tls_key_file: Path | None = None
    """File with the key of the client certificate for PostgreSQL."""
    database_pool_size: int = Field(default=12, ge=1, le=1000)
    """Number of PostgreSQL connections for writes that a service keeps open."""
    database_pool_overflow: int = Field(default=0, ge=0, le=1000)
    """Number of further PostgreSQL connections that a service opens while all `database_pool_size` are in use."""
    database_readers: int = Field(default=8, ge=1, le=1000)
    """Number of PostgreSQL connections for reads that a service keeps open."""

    @model_validator(mode="after")
    def _database_can_be_named(self) -> Self:
        _refuse_unreadable("DATABASE", self.database_url.get_secret_value())
        return self

    @model_validator(mode="after")
    def _tls_can_be_used(self) -> Self:
        if self._database_tls and "ssl" in urlsplit(self.database_url.get_secret_value()).query:
            raise ValueError("PostgreSQL's TLS is set by MUSTER_DATABASE_TLS_… and in the URL; remove one of them")
        return self

    @property
    def database(self) -> str:
        """Return the URL of the database with its TLS parameters."""
        url, files = self.database_url.get_secret_value(), self._database_tls
        if files is None:
            return url
        told = {"sslrootcert": files.ca_file, "sslcert": files.cert_file, "sslkey": files.key_file}
        query = "&".join(f"{name}={quote(str(path.absolute()))}" for name, path in told.items() if path)
        return f"{url}{'&' if urlsplit(url).query else '?'}sslmode=verify-full&{query}"

    @property
    def _database_tls(self) -> TlsFiles | None:
        return tls_files(
            "MUSTER_DATABASE", self.database_tls_ca_file, self.database_tls_cert_file, self.database_tls_key_file
        )


class MigrationSettings(DatabaseSettings):
    """Settings of a process that migrates a database schema."""

    whole: ClassVar[bool] = False


class IsolationSettings(ProcessSettings):
    """Settings of a service that runs local processes with the shim."""

    isolation_at_least: IsolationLevel = STRONGEST
    """Weakest permitted isolation of local processes: `bubblewrap`, `landlock`, `pid-namespace` or `plain`."""


class NatsSettings(ProcessSettings):
    """Settings of a process that connects to NATS."""

    nats_url: SecretStr
    """URL of NATS, `nats://host:port`, with `user:password@` before the host if the server requires a password."""
    nats_credentials: Path | None = None
    """File with NATS credentials. A service reads the credentials file again at every connection."""
    nats_tls_ca_file: Path | None = None
    """File with the authorities that may sign the certificate of NATS. NATS is then used only over TLS."""
    nats_tls_cert_file: Path | None = None
    """File with the client certificate, if NATS requires one."""
    nats_tls_key_file: Path | None = None
    """File with the key of the client certificate for NATS."""

    @model_validator(mode="after")
    def _nats_can_be_named(self) -> Self:
        for url in self.nats_url.get_secret_value().split(","):
            _refuse_unreadable("NATS", url if "://" in url else f"nats://{url}")
        return self

    @model_validator(mode="after")
    def _nats_tls_can_be_used(self) -> Self:
        _ = self.nats_tls
        return self

    @property
    def nats_tls(self) -> TlsFiles | None:
        """Return the TLS files for NATS, or None if the URL alone decides about TLS."""
        return tls_files("MUSTER_NATS", self.nats_tls_ca_file, self.nats_tls_cert_file, self.nats_tls_key_file)

    @property
    def nats_authorities(self) -> str:
        """Return the content of `nats_tls_ca_file` for agents, which may be unable to read the file.

        Raises `OSError`.
        """
        return self.nats_tls_ca_file.read_text() if self.nats_tls_ca_file else ""


class ServiceSettings(NatsSettings):
    """Base of the settings of each service."""

    drain_s: float = Field(default=10.0, ge=0)
    """Seconds that a stopping service has to finish the requests that it has begun."""


class ServersSettings(NatsSettings, DatabaseSettings):
    """Settings of a process that starts the services: the URLs of existing NATS and PostgreSQL servers, if any."""

    nats_url: SecretStr = SecretStr("")
    database_url: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _tls_is_of_a_server(self) -> Self:
        for name, url, ca_file in (
            ("NATS", self.nats_url, self.nats_tls_ca_file),
            ("DATABASE", self.database_url, self.database_tls_ca_file),
        ):
            if ca_file and not url.get_secret_value():
                raise ValueError(
                    f"MUSTER_{name}_TLS_CA_FILE is set, but there is no server URL; set MUSTER_{name}_URL too"
                )
        return self


_SHARED_BY_SOME = frozenset(
    {
        *("data_dir", "shim_socket", "packages_dirs", "isolation_at_least"),
        *("beat_running_s", "beat_idle_s", "beat_ttl_running_s", "beat_ttl_idle_s"),
    }
)
"""Settings of more than one service that mean the same in each."""


@cache
def shared_keys() -> frozenset[str]:
    """Return the keys that are allowed at the top of a configuration file."""
    everyones = (ServiceSettings, DatabaseSettings)
    names = {name for settings in everyones for name in settings.model_fields}
    return _SHARED_BY_SOME | names | {name + FROM_FILE for settings in everyones for name in _secrets(settings)}


def _secrets(settings: type[ProcessSettings]) -> frozenset[str]:
    return frozenset(name for name, field in settings.model_fields.items() if field.annotation is SecretStr)


class AuthoritySettings(ServiceSettings):
    """Settings of the service that issues agents' credentials. All four settings must be given, or none of them."""

    nats_account: str = ""
    """Public key of the NATS account of services and agents."""
    nats_agent_seed: SecretStr = SecretStr("")
    """Seed of the key that signs agents' NATS credentials, with the permissions of the role `agent`."""
    nats_operator_seed: SecretStr = SecretStr("")
    """Seed of the key that signs the NATS account when the manager adds a revocation."""
    nats_system_credentials: Path | None = None
    """File with credentials of the NATS system account, with which the manager updates the account."""

    @property
    def issues_credentials(self) -> bool:
        """Return whether agents get their own NATS credentials."""
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
