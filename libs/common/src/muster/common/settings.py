"""What every service is told by its environment, and by a configuration file beside it."""

import os
import re
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from muster.common.configuration import FROM_FILE, KnownSetting, configured, secrets_in_files
from muster.common.tls import TlsFiles, tls_files

Days = Annotated[int, Field(ge=0, le=36_500)]
"""How long something is kept; 0: for ever."""


_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?")


def _refuse_unreadable(name: str, url: str) -> None:
    """Raise `ValueError`, without a part of the URL: a library that fails at it would say where it stopped reading."""
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
    """Base of all settings: prefix `MUSTER_`, frozen, a bad value fails at start naming its variable.

    What is said in Python wins over the environment, that over the configuration file (see `configuration`).
    """

    model_config = SettingsConfigDict(env_prefix="MUSTER_", frozen=True, extra="ignore", hide_input_in_errors=True)
    section: ClassVar[str] = ""
    """The service's table in the configuration file."""
    whole: ClassVar[bool] = True
    """Whether these are all settings of that table."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least important messages that are logged."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings names its arguments
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Files of one secret stand before the environment: of a secret only one of the two is given."""
        known = cls.known()
        return (
            init_settings,
            InitSettingsSource(settings_cls, secrets_in_files(known.secrets, os.environ)),
            env_settings,
            InitSettingsSource(settings_cls, configured(known, os.environ)),
        )

    @classmethod
    def known(cls) -> KnownSetting:
        """What the sources need of this class."""
        return KnownSetting(
            section=cls.section,
            names=frozenset(cls.model_fields),
            secrets=_secrets(cls),
            shared=shared_keys(),
            whole=cls.whole,
        )


class DatabaseSettings(ProcessSettings):
    """For services that keep tables."""

    database_url: SecretStr
    """`postgresql://user:password@host:port/database`"""
    database_tls_ca_file: Path | None = None
    """Whose certificates PostgreSQL may have: then nothing is sent without TLS."""
    database_tls_cert_file: Path | None = None
    """Our certificate, where PostgreSQL asks for one."""
    database_tls_key_file: Path | None = None
    """The key of our certificate."""
    database_pool_size: int = Field(default=12, ge=1, le=1000)
    """Connections kept for writing."""
    database_pool_overflow: int = Field(default=0, ge=0, le=1000)
    """Connections opened beyond these while all are in use."""
    database_readers: int = Field(default=8, ge=1, le=1000)
    """Connections kept for reading."""

    @model_validator(mode="after")
    def _database_can_be_named(self) -> Self:
        _refuse_unreadable("DATABASE", self.database_url.get_secret_value())
        return self

    @model_validator(mode="after")
    def _tls_can_be_used(self) -> Self:
        if self._database_tls and "ssl" in urlsplit(self.database_url.get_secret_value()).query:
            raise ValueError("say how PostgreSQL's TLS is checked by MUSTER_DATABASE_TLS_… or in the URL, not by both")
        return self

    @property
    def database(self) -> str:
        """The URL, with what its TLS must be."""
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
    """For whoever brings a schema along."""

    whole: ClassVar[bool] = False


class NatsSettings(ProcessSettings):
    """For whoever talks on NATS."""

    nats_url: SecretStr
    """`nats://host:port`, with `user:password@` where the server wants those."""
    nats_credentials: Path | None = None
    """A NATS creds file, read again at every connection."""
    nats_tls_ca_file: Path | None = None
    """Whose certificates NATS may have: then nothing is sent without TLS."""
    nats_tls_cert_file: Path | None = None
    """Our certificate, where NATS asks for one."""
    nats_tls_key_file: Path | None = None
    """The key of our certificate."""

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
        """How NATS' TLS is checked; None: as its URL says."""
        return tls_files("MUSTER_NATS", self.nats_tls_ca_file, self.nats_tls_cert_file, self.nats_tls_key_file)

    @property
    def nats_authorities(self) -> str:
        """What `nats_tls_ca_file` holds, for agents: not every one of them can read the file. Raises `OSError`."""
        return self.nats_tls_ca_file.read_text() if self.nats_tls_ca_file else ""


class ServiceSettings(NatsSettings):
    """Base of each service's settings."""

    drain_s: float = Field(default=10.0, ge=0)
    """How long a service told to stop may take to finish what it has begun."""


class ServersSettings(NatsSettings, DatabaseSettings):
    """For whoever starts the services: where NATS and PostgreSQL are, if they are there already."""

    nats_url: SecretStr = SecretStr("")
    database_url: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _tls_is_of_a_server(self) -> Self:
        for name, url, ca_file in (
            ("NATS", self.nats_url, self.nats_tls_ca_file),
            ("DATABASE", self.database_url, self.database_tls_ca_file),
        ):
            if ca_file and not url.get_secret_value():
                raise ValueError(f"MUSTER_{name}_TLS_CA_FILE is for a server of your own: give MUSTER_{name}_URL too")
        return self


_SHARED_BY_SOME = frozenset(
    {
        *("data_dir", "shim_socket", "packages_dirs"),
        *("beat_running_s", "beat_idle_s", "beat_ttl_running_s", "beat_ttl_idle_s"),
    }
)
"""Settings of more than one service that mean the same in each."""


@cache
def shared_keys() -> frozenset[str]:
    """What may stand at the top of a configuration file."""
    everyones = (ServiceSettings, DatabaseSettings)
    names = {name for settings in everyones for name in settings.model_fields}
    return _SHARED_BY_SOME | names | {name + FROM_FILE for settings in everyones for name in _secrets(settings)}


def _secrets(settings: type[ProcessSettings]) -> frozenset[str]:
    return frozenset(name for name, field in settings.model_fields.items() if field.annotation is SecretStr)


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
