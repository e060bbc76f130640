"""Makes the two servers of a stack, NATS and PostgreSQL, from the stack's configuration and data directory."""

from muster.common.nats_identity.roles import NatsRole
from muster.embedded.config import StackConfig
from muster.embedded.environment import base_environment
from muster.embedded.nats_authority import NatsAuthority
from muster.embedded.nats_server import NatsServer
from muster.embedded.postgres import Postgres
from muster.embedded.postgres_user import PostgresUser
from muster.embedded.stack_directory import StackDirectory

PEOPLE = (NatsRole.OPERATOR, NatsRole.OBSERVER, NatsRole.FORENSICS)
"""The roles of people who use the command `nats` or a program of their own. Each start writes their credentials."""


def nats_server(config: StackConfig, directory: StackDirectory, authority: NatsAuthority) -> NatsServer:
    """Return the NATS server of the stack, which is not started. Writes the credentials files of the roles `PEOPLE`."""
    for role in PEOPLE:
        authority.credentials_file(role)
    return NatsServer(
        directory.nats,
        authority=authority,
        log=directory.log("nats"),
        port=config.listens.nats,
        env=base_environment(config.user_env),
    )


def postgres_server(config: StackConfig, directory: StackDirectory, password: str) -> Postgres:
    """Return the PostgreSQL server of the stack, which is not started."""
    postgres = Postgres(
        directory.postgres,
        password=password,
        log=directory.log("postgres"),
        port=config.listens.postgres,
        env=base_environment(config.user_env),
    )
    if postgres.identity is PostgresUser.NOBODY:  # The user nobody must be able to enter the data directory.
        directory.root.chmod(0o711)
    return postgres
