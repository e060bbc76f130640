"""Writes the tables of all settings and of their aliases in `docs/configuration.md`. Run `python -m tests.support.settings_page`."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from muster.agent_manager.settings import ManagerSettings
from muster.common.settings import ProcessSettings, shared_keys
from muster.embedded.aliases import ALIASES
from muster.guardian.settings import GuardianSettings
from muster.management_api.settings import ApiSettings
from muster.sandbox_gateway.settings import GatewaySettings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"
ALIASES_BEGIN, ALIASES_END = "<!-- aliases: begin -->\n", "<!-- aliases: end -->\n"
SERVICES: tuple[type[ProcessSettings], ...] = (ManagerSettings, GuardianSettings, ApiSettings, GatewaySettings)


def table() -> str:
    """Return the Markdown tables of all settings."""
    shared = {name for name in shared_keys() if any(name in service.model_fields for service in SERVICES)}
    having = {name: [service for service in SERVICES if name in service.model_fields] for name in sorted(shared)}
    lines = ["**At the top**", "", "| key | services | default | meaning |", "| --- | --- | --- | --- |"]
    for name, services in having.items():
        whose = "all" if len(services) == len(SERVICES) else ", ".join(service.section for service in services)
        lines.append(_row(name, services, whose))
    for service in SERVICES:
        lines += ["", f"**`[{service.section}]`**", "", "| key | default | meaning |", "| --- | --- | --- |"]
        lines += [_row(name, [service]) for name in service.model_fields if name not in shared]
    return "\n".join([*lines, ""])


def rewritten(page: str) -> str:
    """Return the page with new tables between the marks of the settings and of the aliases."""
    page = _between(page, BEGIN, END, table())
    return _between(page, ALIASES_BEGIN, ALIASES_END, alias_table())


def alias_table() -> str:
    """Return the Markdown table of the variables that `muster up` accepts in place of settings."""
    rows = [f"| `{alias.variable}` | {_code(alias.setting)} | {alias.note} |" for alias in ALIASES]
    return "\n".join(["| variable | stands for | meaning |", "| --- | --- | --- |", *rows, ""])


def _between(page: str, begin: str, end: str, text: str) -> str:
    before, _, rest = page.partition(begin)
    return f"{before}{begin}{text}{end}{rest.partition(end)[2]}"


def _code(name: str) -> str:
    return f"`{name}`" if name else ""


def _row(name: str, services: list[type[ProcessSettings]], *more: str) -> str:
    """Return the table row of a setting, with each service's default if the defaults differ.

    The meaning is the first text that one of the services declares for the setting."""
    meaning = next(filter(None, (_meanings(service).get(name, "") for service in services)), "")
    defaults = {service.section: _default(service.model_fields[name]) for service in services}
    default, *others = set(defaults.values())
    if others:
        default = ", ".join(f"{section}: {one or 'none'}" for section, one in defaults.items())
    secret = "secret; " if services[0].model_fields[name].annotation is SecretStr else ""
    return f"| {' | '.join((f'`{name}`', *more, default, secret + meaning))} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    return "" if value in ("", None) else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


@cache
def _meanings(settings: type[ProcessSettings]) -> dict[str, str]:
    """Return the docstring below each field, also of fields that base classes declare."""
    return dict(
        found
        for declaring in reversed(settings.__mro__)
        if issubclass(declaring, ProcessSettings)
        for found in _below_fields(declaring)
    )


def _below_fields(settings: type[ProcessSettings]) -> Iterator[tuple[str, str]]:
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(settings))).body
    assert isinstance(body, ast.ClassDef)
    for field, below in zip(body.body, body.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, " ".join(text.split())
            case _:
                continue


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
