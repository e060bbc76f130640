"""What an agent may be configured with: the JSON Schemas of its package's capabilities, applied to the whole of it."""

from typing import Any

from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.exceptions import relevance
from referencing import Registry
from referencing.exceptions import Unresolvable

from muster.common.contracts.packages import Capability, Manifest
from muster.common.faults import InvalidMessage

_NOWHERE: Registry[Any] = Registry()
"""A schema's references lead into itself, never to the network."""


def unsound(manifest: Manifest) -> str | None:
    """Why a package's schemas cannot be used, if they cannot."""
    for number, capability in enumerate(manifest.capabilities):
        where = f"agent.toml: capabilities[{number}].config"
        try:
            Draft202012Validator.check_schema(capability.config)
        except SchemaError as error:
            return f"{where} is no JSON Schema: {error.message}"
        try:
            _errors(capability, {})
        except InvalidMessage as refusal:
            return f"{where}: {refusal}"
    return None


def refuse_unfit_config(manifest: Manifest, config: dict[str, Any], *, within: str = "$.config") -> None:
    """Raise `InvalidMessage` that names the first value, by its path `within`, which a capability does not allow."""
    for capability in manifest.capabilities:
        if errors := _errors(capability, config):
            error = max(errors, key=relevance)
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
            raise InvalidMessage(
                f"capability {capability.name} of {manifest.name} does not take this config: {error.message[:300]}",
                field=f"{within}{path}"[:200],
            )


def _errors(capability: Capability, config: dict[str, Any]) -> list[ValidationError]:
    validator: Any = Draft202012Validator(capability.config, registry=_NOWHERE)
    try:
        return list(validator.iter_errors(config))
    except Unresolvable as error:
        why = f"refers to {error.ref!r}, which is not in it"
    except RecursionError:
        why = "refers to itself without an end"
    raise InvalidMessage(f"the schema of capability {capability.name} {why}", field="$.config")
