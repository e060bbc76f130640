"""Checks the config of an agent against the JSON Schema of each capability of its package."""

from collections.abc import Iterator
from typing import Any, cast

import regex
from jsonschema import Draft202012Validator, SchemaError, ValidationError, validators
from jsonschema.exceptions import relevance
from referencing import Registry
from referencing.exceptions import Unresolvable

from muster.common.contracts.packages import Capability, Manifest
from muster.common.faults import InvalidMessage

_NOWHERE: Registry[Any] = Registry()
"""An empty registry: references in a schema may point into the schema itself, never to the network."""
PATTERN_S = 0.2
_UNBOUNDED = "patternProperties"


def _matches(_: Any, wanted: str, said: object, __: object) -> Iterator[ValidationError]:  # noqa: ANN401 - jsonschema's
    """Check JSON Schema's `pattern` with a time limit: a pattern that backtracks too long would block the process."""
    if not isinstance(said, str):
        return
    try:
        fits = regex.search(wanted, said, timeout=PATTERN_S)
    except TimeoutError:
        yield ValidationError(f"matching the pattern {wanted[:80]!r} takes too long")
    except regex.error as error:
        yield ValidationError(f"the pattern {wanted[:80]!r} is invalid: {error}")
    else:
        if not fits:
            yield ValidationError(f"{said[:80]!r} does not match the pattern {wanted[:80]!r}")


_Validator: Any = cast("Any", validators).extend(Draft202012Validator, {"pattern": _matches})


def unsound(manifest: Manifest) -> str | None:
    """Return the reason why the JSON Schemas of a package cannot be used, or None if they can."""
    for number, capability in enumerate(manifest.capabilities):
        where = f"agent.toml: capabilities[{number}].config"
        if _UNBOUNDED in set(_keys(capability.config)):
            return f"{where}: {_UNBOUNDED} is not supported; name the properties"
        try:
            Draft202012Validator.check_schema(capability.config)
        except SchemaError as error:
            return f"{where} is not a valid JSON Schema: {error.message}"
        except RecursionError:
            return f"{where} is nested too deep"
        try:
            _errors(capability, {})
        except InvalidMessage as refusal:
            return f"{where}: {refusal}"
    return None


def refuse_unfit_config(manifest: Manifest, config: dict[str, Any], *, within: str = "$.config") -> None:
    """Raise `InvalidMessage` for the first value in an agent's config that a capability's schema does not allow."""
    for capability in manifest.capabilities:
        if errors := _errors(capability, config):
            error = max(errors, key=relevance)
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
            raise InvalidMessage(
                f"capability {capability.name} of package {manifest.name} refuses the config: {error.message[:300]}",
                field=f"{within}{path}"[:200],
            )


def _errors(capability: Capability, config: dict[str, Any]) -> list[ValidationError]:
    validator = _Validator(capability.config, registry=_NOWHERE)
    try:
        return list(validator.iter_errors(config))
    except Unresolvable as error:
        why = f"refers to {error.ref!r}, which the schema does not contain"
    except RecursionError:
        why = "refers to itself endlessly"
    except ValueError as error:  # One cause is a reference in the schema to a value that is not a schema.
        why = f"contains an invalid reference: {error}"
    raise InvalidMessage(f"capability {capability.name} has an unusable schema: it {why}", field="$.config")


def _keys(value: object) -> Iterator[str]:
    ahead = [value]
    while ahead:
        one = ahead.pop()
        match one:
            case dict():
                table = cast("dict[str, object]", one)
                yield from table
                ahead += table.values()
            case list():
                ahead += cast("list[object]", one)
            case _:
                pass
