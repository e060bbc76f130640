"""Reads `models.toml`, the file with the models that a deployment has configured itself.

An entry names a model, the server that serves the model and the variable or file that contains the server's key. A task
names the entry as its model (`--model NAME`). Only the gateway calls the server, and only at the address of the entry:

    [models.local]
    kind = "vllm"
    base_url = "http://127.0.0.1:8000/v1"
    model = "Qwen/Qwen3-Coder-30B-A3B-Instruct"
    key_env = "VLLM_API_KEY"

The file contains no keys. A key that was given by `muster model add --key-stdin` is in a file of its own, `key_file`.
"""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from muster.common.configuration_file import configured_as
from muster.common.contract import Message
from muster.common.contracts.fields import Effort, OutputTokens, Temperature, storable, unspaced
from muster.common.contracts.model_calls import ModelSettings
from muster.common.entry_files import checked_entry, named_secret, read_entry_file
from muster.common.faults import InvalidMessage

FILE, VARIABLE = "models.toml", "MUSTER_MODELS_FILE"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
Kind = Literal["openai", "anthropic", "ollama", "vllm", "litellm", "openrouter"]
Price = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class KindOfServer(NamedTuple):
    """A kind of model server: its provider in LiteLLM, its usual address, and whether the server requires a key."""

    provider: str
    base_url: str
    needs_key: bool


KINDS: Final[Mapping[Kind, KindOfServer]] = {
    "openai": KindOfServer("openai", "https://api.openai.com/v1", needs_key=False),
    "anthropic": KindOfServer("anthropic", "https://api.anthropic.com", needs_key=True),
    "ollama": KindOfServer("ollama_chat", "http://127.0.0.1:11434", needs_key=False),
    "vllm": KindOfServer("hosted_vllm", "http://127.0.0.1:8000/v1", needs_key=False),
    "litellm": KindOfServer("litellm_proxy", "http://127.0.0.1:4000", needs_key=False),
    "openrouter": KindOfServer("openrouter", "https://openrouter.ai/api/v1", needs_key=True),
}
"""The kinds of servers. `openai` is any server with OpenAI's API, such as LM Studio or llama.cpp."""


LISTED = frozenset({"openai", "anthropic", "openrouter"})
"""Kinds of servers whose models and prices LiteLLM may know by name. For other kinds LiteLLM would ask a server."""


class ModelEntry(Message, forbid_unknown_fields=True):
    """One entry of `models.toml`. An unset setting means that the provider's or the worker's own value applies."""

    kind: Kind
    model: Annotated[str, unspaced(255)]
    """The name of the model at its server."""
    base_url: Annotated[str, unspaced(1_000)] | None = None
    """The address of the server; without it, the usual address of this kind of server."""
    key_env: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$(?!\n)")] | None = None
    """The environment variable that contains the key, where the stack is started."""
    key_file: Annotated[str, storable(1_000)] | None = None
    """The file that contains the key, relative to the folder of `models.toml`."""
    max_output_tokens: OutputTokens | None = None
    """The most tokens of one answer."""
    context_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] | None = None
    """The size of the model's context window in tokens."""
    temperature: Temperature | None = None
    effort: Effort | None = None
    """The reasoning effort."""
    input_usd_per_million: Price | None = None
    """US dollars for a million tokens of requests."""
    output_usd_per_million: Price | None = None
    """US dollars for a million tokens of answers."""

    @property
    def address(self) -> str:
        """The address of the server."""
        return (self.base_url or KINDS[self.kind].base_url).rstrip("/")

    @property
    def litellm_name(self) -> str:
        """The name under which LiteLLM calls the model."""
        return f"{KINDS[self.kind].provider}/{self.model}"

    @property
    def settings(self) -> ModelSettings:
        """The settings of the model that a worker needs."""
        return ModelSettings(
            max_output_tokens=self.max_output_tokens,
            context_tokens=self.context_tokens,
            temperature=self.temperature,
            effort=self.effort,
            known_as=self.litellm_name if self.kind in LISTED else None,
        )

    def price_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the price of a call in US dollars, or None if the entry contains no prices."""
        if self.input_usd_per_million is None or self.output_usd_per_million is None:
            return None
        per_million = prompt_tokens * self.input_usd_per_million + completion_tokens * self.output_usd_per_million
        return per_million / 1_000_000


class _File(Message, forbid_unknown_fields=True):
    models: dict[str, dict[str, Any]] = {}


def models_file(env: Mapping[str, str], data_dir: Path) -> Path:
    """Return the path of `models.toml`: `MUSTER_MODELS_FILE`, or the configuration file's, or in the data directory.

    Raises `ConfigurationError` if the configuration file cannot be read.
    """
    path = env.get(VARIABLE) or configured_as("sandbox_gateway", "models_file", env)
    return Path(path).expanduser() if path else data_dir / FILE


def stored_models(data_dir: Path) -> list[str]:
    """Return the names of the entries that this environment has stored; none if the file cannot be read."""
    try:
        return sorted(read_entries(models_file(os.environ, data_dir)))
    except InvalidMessage:
        return []


def read_entries(path: Path) -> dict[str, ModelEntry]:
    """Return the entries of a `models.toml` by name; none if the file does not exist.

    Raises `InvalidMessage` with the wrong field and a sentence.
    """
    found = read_entry_file(path, _File)
    tables = found.models if found else {}
    return {name: _entry(path, name, table) for name, table in tables.items()}


def check_entry(name: str, entry: ModelEntry) -> None:
    """Raise `InvalidMessage` with the field for an entry that cannot be called."""
    if not NAME.fullmatch(name):
        raise InvalidMessage(
            f"{name[:80]!r} is no name for a model: use 1 to 64 letters, digits, dots, - and _, not a slash",
            field="$.name",
        )
    if entry.key_env and entry.key_env.startswith("MUSTER_"):
        raise InvalidMessage(
            "key_env must not begin with MUSTER_, because every service gets these variables; use another name",
            field="$.key_env",
        )
    if entry.key_env and entry.key_file:
        raise InvalidMessage("an entry has key_env or key_file, not both; remove one", field="$.key_env")
    try:
        url = urlsplit(entry.address)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        usable = False
    else:
        if url.username or url.password or url.query or url.fragment:
            raise InvalidMessage(
                "base_url must contain no user, password, query or fragment; give a key with --key-env or --key-stdin",
                field="$.base_url",
            )
    if not usable:
        raise InvalidMessage("base_url must be an address such as http://127.0.0.1:8000/v1", field="$.base_url")


def is_local(address: str) -> bool:
    """Return whether an address is on this machine."""
    host = urlsplit(address).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def key_of(entry: ModelEntry, path: Path, env: Mapping[str, str]) -> str:
    """Return the key of an entry of the file `path`; an empty string if the entry needs none.

    Raises `InvalidMessage` with the cure if the variable is not set or the file cannot be used. The error never
    contains the key.
    """
    key = named_secret(
        path,
        env,
        variable=entry.key_env,
        file=entry.key_file,
        what="the key",
        if_empty=f"the key file {path.parent / (entry.key_file or '')} is empty; add the model again with --key-stdin",
        field="$.model",
    )
    if key:
        return key
    if KINDS[entry.kind].needs_key:
        raise InvalidMessage(
            f"a model of kind {entry.kind} needs a key: add the model again with --key-env or --key-stdin",
            field="$.model",
        )
    return ""


def _entry(path: Path, name: str, table: dict[str, Any]) -> ModelEntry:
    return checked_entry(path, f"[models.{name[:80]}]", table, ModelEntry, lambda entry: check_entry(name, entry))
