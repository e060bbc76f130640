"""Selects the variables that the demo's stack receives.

The stack must not depend on the user's configuration or see unrelated secrets, so most variables are omitted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from muster.common.described_model import described_model
from muster.common.model_entries import VARIABLE, ModelEntry
from muster.common.model_keys import prefixes_of, provider_of

_MUSTER_PREFIXES = ("MUSTER_", "COVERAGE")
_SERVER_PREFIXES = ("MUSTER_CONFIG", "MUSTER_NATS_TLS_", "MUSTER_DATABASE_TLS_", VARIABLE)
"""Variables that the stack does not receive, because they configure external servers and models; the demo starts its
own servers, and passes on only the model of `--model`."""
_BASIC_NAMES = frozenset({"PATH", "HOME", "LANG", "TMPDIR"})
_NETWORK_NAMES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"})
"""Variables that a connection to a model provider may need."""


class DemoModel(NamedTuple):
    """The model of `muster demo --model`. `entry` is its entry in the file `path`; None for a hosted model."""

    name: str
    path: Path
    entry: ModelEntry | None = None


def demo_environment(env: Mapping[str, str], model: DemoModel | None) -> dict[str, str]:
    """Return the environment of the demo's stack: basic variables such as PATH, and the variables `MUSTER_*`.

    With a real model, the stack also receives the variables of proxies and certificates, and the variables of the
    model: the provider's for a hosted model, and the file and the key's variable for a model of `models.toml`.
    """
    names = set(_BASIC_NAMES)
    prefixes: tuple[str, ...] = _MUSTER_PREFIXES
    if model:
        names |= _NETWORK_NAMES | _variables_of(env, model)
        prefixes += () if model.entry else prefixes_of(provider_of(model.name))
    kept = {
        name: value
        for name, value in env.items()
        if name.upper() in names
        or name in names
        or (name.startswith(prefixes) and not name.startswith(_SERVER_PREFIXES))
    }
    if model and model.entry and model.path.exists():
        kept[VARIABLE] = str(model.path.absolute())
    return kept


def _variables_of(env: Mapping[str, str], model: DemoModel) -> set[str]:
    """Return the names of the variables that an entry needs: its key, or all that describe the model `llm`."""
    described = described_model(env)
    if described and described.entry == model.entry:
        return set(described.variables)
    return {model.entry.key_env} if model.entry and model.entry.key_env else set()
