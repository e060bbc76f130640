"""The secrets that the gateway knows itself, which it removes from workers' requests before it stores them.

These are the secrets in its environment, such as the keys of model providers, the keys of the models in `models.toml`,
the tokens of the hosts in `git.toml`, the keys that sign sandbox tokens, and the password for NATS. A sandbox's own
token has the form of a JSON web token.
"""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from muster.common.faults import InvalidMessage
from muster.common.git_hosts import read_hosts, token_of
from muster.common.model_entries import key_of, read_entries
from muster.sandbox_gateway.settings import GatewaySettings

_SECRET_NAME = re.compile(r"(?:KEY|KEY_ID|TOKEN|SECRET|PASSWORD|PASSWD)\Z")


def known_secrets(settings: GatewaySettings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets of this gateway by the names that a sandbox's log may show."""
    found = {name: value.strip() for name, value in environment.items() if _SECRET_NAME.search(name)}
    for entry in settings.token_keys.get_secret_value().split(","):
        kid, _, secret = entry.strip().partition(":")
        found[f"token key {kid}"] = secret
    if password := urlsplit(settings.nats_url.get_secret_value()).password:
        found["NATS password"] = password
    return found | dict(_model_keys(settings, environment)) | dict(_git_tokens(settings, environment))


def _model_keys(settings: GatewaySettings, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    try:
        entries = read_entries(settings.models_toml)
    except (InvalidMessage, OSError):
        return  # the gateway reports an unreadable file where a model of the file is called
    for name, entry in entries.items():
        try:
            yield f"key of model {name}", key_of(entry, settings.models_toml, environment)
        except (InvalidMessage, OSError):
            continue


def _git_tokens(settings: GatewaySettings, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    try:
        hosts = read_hosts(settings.git_toml)
    except InvalidMessage:
        return  # the gateway reports an unreadable file where a repository of a host is used
    for listed in hosts:
        try:
            yield f"token of {listed.name}", token_of(listed, settings.git_toml, environment, field="$")
        except InvalidMessage:
            continue
