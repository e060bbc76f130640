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
"""References of a schema may point into the schema itself, never to the network."""
PATTERN_S = 0.2
_UNBOUNDED = "patternProperties"


def _matches(_: Any, wanted: str, said: object, __: object) -> Iterator[ValidationError]:  # noqa: ANN401 - jsonschema's
    """`pattern`, with a time limit: a pattern that backtracks without end would block every other request."""
    if not isinstance(said, str):
        return
    try:
        fits = regex.search(wanted, said, timeout=PATTERN_S)
    except TimeoutError:
        yield ValidationError(f"it takes too long to match the pattern {wanted[:80]!r}")
    except regex.error as error:
        yield ValidationError(f"the pattern {wanted[:80]!r} is none: {error}")
    else:
        if not fits:
            yield ValidationError(f"{said[:80]!r} does not match {wanted[:80]!r}")


_Validator: Any = cast("Any", validators).extend(Draft202012Validator, {"pattern": _matches})


def unsound(manifest: Manifest) -> str | None:
    """Return why the schemas of a package cannot be used, or None."""
    for number, capability in enumerate(manifest.capabilities):
        where = f"agent.toml: capabilities[{number}].config"
        if _UNBOUNDED in set(_keys(capability.config)):
            return f"{where}: {_UNBOUNDED} is not supported; name the properties"
        try:
            Draft202012Validator.check_schema(capability.config)
        except SchemaError as error:
            return f"{where} is no JSON Schema: {error.message}"
        except RecursionError:
            return f"{where} is nested too deep"
        try:
            _errors(capability, {})
        except InvalidMessage as refusal:
            return f"{where}: {refusal}"
    return None


def refuse_unfit_config(manifest: Manifest, config: dict[str, Any], *, within: str = "$.config") -> None:
    """Raise `InvalidMessage` with the path of the first value that a capability does not allow, below `within`."""
    for capability in manifest.capabilities:
        if errors := _errors(capability, config):
            error = max(errors, key=relevance)
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
            raise InvalidMessage(
                f"capability {capability.name} of {manifest.name} does not take this config: {error.message[:300]}",
                field=f"{within}{path}"[:200],
            )


def _errors(capability: Capability, config: dict[str, Any]) -> list[ValidationError]:
    validator = _Validator(capability.config, registry=_NOWHERE)
    try:
        return list(validator.iter_errors(config))
    except Unresolvable as error:
        why = f"refers to {error.ref!r}, which is not in it"
    except RecursionError:
        why = "refers to itself without an end"
    except ValueError as error:  # such as a reference to something that is not a schema
        why = f"cannot be followed: {error}"
    raise InvalidMessage(f"the schema of capability {capability.name} {why}", field="$.config")


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
