"""Writes the JSON Schema of the OpenHands agent's options into its `agent.toml`: `python -m tests.support.openhands_schema`."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import msgspec
import tomli_w

from muster.agents.openhands.options import Options

MARK = "# The schema of the options, which `python -m tests.support.openhands_schema` writes from `options.py`.\n"
MANIFEST = Path(str(files("muster.agents.openhands") / "agent.toml"))


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the options without references, as `agent.toml` contains it."""
    whole = msgspec.json.schema(Options)
    inlined = _inlined(whole["$defs"]["Options"], whole["$defs"])
    return msgspec.json.decode(msgspec.json.encode(inlined))


def written() -> dict[str, Any]:
    """Return the schema that `agent.toml` contains."""
    capabilities = tomllib.loads(MANIFEST.read_text())["capabilities"]
    return next(capability["config"] for capability in capabilities if capability["name"] == "code")


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_inlined(one, definitions) for one in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    table = cast("dict[str, Any]", value)
    if reference := table.pop("$ref", None):
        return _inlined(definitions[reference.rpartition("/")[2]] | table, definitions)
    inlined = {key: _inlined(one, definitions) for key, one in table.items() if key != "title"}
    return {key: one for key, one in inlined.items() if (key, one) != ("required", [])}


if __name__ == "__main__":
    head, _, _ = MANIFEST.read_text().partition(MARK)
    MANIFEST.write_text(f"{head}{MARK}{tomli_w.dumps({'capabilities': {'config': schema()}})}")
