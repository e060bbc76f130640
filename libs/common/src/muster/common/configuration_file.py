"""Reads settings from a configuration file, and secrets from files that contain one secret each.

The environment variable `MUSTER_CONFIG` names a TOML or YAML file. Its keys are the names of settings in lower case
without `MUSTER_`. Settings of several services are at the top of the file. Settings of one service are in a table with
the service's name. For each secret `NAME`, `NAME_FILE` names a file that contains only the secret. `NAME_FILE` works in
the environment and in the configuration file.

The environment has precedence over the file, and a service's table over the top of the file. Unknown keys are refused.
Each service checks the top and its own table, so all services together check the whole file.
"""

import difflib
import stat
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

PREFIX, VARIABLE = "MUSTER_", "MUSTER_CONFIG"
FROM_FILE = "_file"
SECTIONS = ("agent_manager", "guardian", "management_api", "sandbox_gateway")
MAX_CONFIGURATION_BYTES = 1 << 20
MAX_SECRET_BYTES = 64 << 10
_NEAR = 0.75

Keys = dict[str, Any]


class ConfigurationError(Exception):
    """A configuration that cannot be used. `faults` contains one sentence for each error and never a value."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, kw_only=True)
class ConfigurationFile:
    """The content of a configuration file."""

    path: Path
    top: Keys
    tables: Mapping[str, Keys]

    def levels(self, section: str) -> Iterator[tuple[str, Keys]]:
        """Yield the settings at the top of the file, then those of the service's table, each with a name for errors."""
        yield f"{self.path}: ", self.top
        if section in self.tables:
            yield f"{self.path}: [{section}] ", self.tables[section]


@dataclass(frozen=True, kw_only=True)
class KnownSetting:
    """The names of the settings of one settings class, and which of them are secrets."""

    section: str
    """The table of this class in the file, or an empty string if it has none."""
    names: frozenset[str]
    secrets: frozenset[str]
    """The settings among `names` that are secrets."""
    shared: frozenset[str]
    """The keys that are allowed at the top of the file, including those of other classes."""
    whole: bool = True
    """Whether this class has every setting of its table, so that it can refuse unknown keys."""


def read_configuration(env: Mapping[str, str]) -> ConfigurationFile | None:
    """Read the configuration file that `MUSTER_CONFIG` names. Returns None if none is named.

    Raises `ConfigurationError` if the file cannot be used.
    """
    if not env.get(VARIABLE):
        return None
    path = Path(env[VARIABLE]).expanduser()
    content = _parsed(path, _content(path, VARIABLE, MAX_CONFIGURATION_BYTES))
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: the file must contain keys with values, and tables")
    top, tables = Keys(), dict[str, Keys]()
    for key, value in cast("dict[object, Any]", content).items():
        if not isinstance(key, str):
            raise ConfigurationError(f"{path}: the key {key!r} is not a text; put it in quotes")
        if key not in SECTIONS:
            top[key] = value
        elif value is None or isinstance(value, dict):
            tables[key] = cast("Keys", value or {})
        else:
            raise ConfigurationError(f"{path}: {key} must be a table with the settings of that service")
    return ConfigurationFile(path=path, top=top, tables=tables)


def configured(known: KnownSetting, env: Mapping[str, str]) -> Keys:
    """Return the settings of the configuration file for one settings class. Raises `ConfigurationError`."""
    file = read_configuration(env)
    if file is None:
        return {}
    faults, found = list[str](), Keys()
    for place, keys in file.levels(known.section):
        if keys is file.top:
            faults += _unknown(place, keys, known.shared, known)
        elif known.whole:
            faults += _unknown(place, keys, known.names | {name + FROM_FILE for name in known.secrets}, known)
        faults += _readable_secrets(place, {name for name in known.secrets if _is_secret(name, keys)}, file.path)
        found |= _told(place, keys, known)
    if faults:
        raise ConfigurationError(*faults)
    return found


def configured_in(section: str, name: str, env: Mapping[str, str]) -> bool:
    """Return whether the configuration file contains this setting for this service. Raises `ConfigurationError`."""
    file = read_configuration(env)
    return file is not None and any(name in keys for _, keys in file.levels(section))


def configured_as(section: str, name: str, env: Mapping[str, str]) -> str:
    """Return one setting of the configuration file for this service as text, or "" if it is not set.

    Raises `ConfigurationError`.
    """
    file = read_configuration(env)
    said = [keys[name] for _, keys in file.levels(section) if name in keys] if file else []
    return "" if not said or said[-1] is None else str(said[-1])


def secrets_in_files(secrets: Collection[str], env: Mapping[str, str]) -> Keys:
    """Return the secrets whose files are named by `MUSTER_<NAME>_FILE` in the environment.

    Raises `ConfigurationError`.
    """
    found = Keys()
    for name in secrets:
        variable = (PREFIX + name).upper()
        by_file = (variable + FROM_FILE).upper()
        if told := env.get(by_file):
            _refuse_both("", variable, by_file, given=bool(env.get(variable)))
            found[name] = _secret(Path(told), by_file)
    return found


def where(known: KnownSetting, name: str, env: Mapping[str, str]) -> str:
    """Return the name of a setting for error messages: its variable, or its key in the configuration file."""
    variable = (PREFIX + name).upper()
    by_file = (variable + FROM_FILE).upper()
    if variable in env or env.get(by_file):
        return variable if variable in env else by_file
    file = read_configuration(env)
    for place, keys in reversed(list(file.levels(known.section)) if file else []):
        for key in (name, name + FROM_FILE):
            if key in keys:
                return place + key
    return variable


def _told(place: str, keys: Keys, known: KnownSetting) -> Keys:
    found = {name: value for name, value in keys.items() if name in known.names}
    for name in known.secrets:
        if told := keys.get(name + FROM_FILE):
            _refuse_both(place, name, name + FROM_FILE, given=name in keys)
            found[name] = _secret(Path(str(told)), f"{place}{name}{FROM_FILE}")
    return found


def _is_secret(name: str, keys: Keys) -> bool:
    """Return whether a setting is a secret. A URL without a user and password is no secret."""
    value = str(keys.get(name, ""))
    return bool(value) and (not name.endswith("_url") or "@" in value or "password" in value)


def _readable_secrets(place: str, inline: Collection[str], path: Path) -> Iterator[str]:
    if inline and _everybody_reads(path):
        for name in sorted(inline):
            yield (
                f"{place}{name}: every user of this machine can read this secret; chmod 600 the file, "
                f"or keep the secret in a file of its own and name it by {name}{FROM_FILE}"
            )


def _unknown(place: str, keys: Keys, names: Collection[str], known: KnownSetting) -> Iterator[str]:
    for key in keys:
        if key in names:
            continue
        near = difflib.get_close_matches(key, [*names, *SECTIONS], n=1, cutoff=_NEAR)
        hint = f"; did you mean {near[0]}?" if near else ""
        if key in known.names:
            hint = f"; it belongs into [{known.section}]"
        what = "there is no such table" if isinstance(keys[key], dict) else "there is no such setting here"
        yield f"{place}{key}: {what}{hint}"


def _refuse_both(place: str, name: str, by_file: str, *, given: bool) -> None:
    if given:
        raise ConfigurationError(f"{place}{name} and {by_file} are both set; remove one of them")


def _content(path: Path, named_by: str, most: int) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) <= most:
            return content.decode()
    except OSError as error:
        raise ConfigurationError(f"{named_by}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{named_by}: the file {path} is not UTF-8 text") from None
    raise ConfigurationError(f"{named_by}: {path} is larger than the limit of {most} bytes")


def _secret(path: Path, named_by: str) -> str:
    secret = _content(path.expanduser(), named_by, MAX_SECRET_BYTES).rstrip("\r\n")
    if not secret:
        raise ConfigurationError(f"{named_by}: {path} is empty; write the secret into it")
    if _everybody_reads(path.expanduser()):
        # Docker and Kubernetes mount secrets as files that every user can read, but their containers have no other
        # users. So this is a warning and no error.
        sys.stderr.write(f"{named_by}: every user of this machine can read {path}; chmod 600 it\n")
    return secret


def _everybody_reads(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IROTH)


def _parsed(path: Path, text: str) -> object:
    match path.suffix.lower():
        case ".toml":
            try:
                return tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                raise ConfigurationError(f"{path}: the file is not valid TOML: {error}") from None
        case ".yaml" | ".yml":
            return _yaml(path, text)
        case _:
            raise ConfigurationError(f"{VARIABLE}: {path} must end with .toml, .yaml or .yml")


def _yaml(path: Path, text: str) -> object:
    import yaml  # Import YAML only if the configuration file is a YAML file.

    class UniqueKeys(yaml.SafeLoader):
        """A YAML loader that refuses duplicate keys, of which plain YAML would use the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            written = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := next((key for key in written if written.count(key) > 1), None):
                raise ConfigurationError(f"{path}: the key {twice} occurs twice; remove one")
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(text, UniqueKeys) or {}  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:  # The error's own text would repeat the line, which may contain a secret.
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigurationError(f"{path}: the file is not valid YAML{line}: {error.problem}") from None
    except yaml.YAMLError:
        raise ConfigurationError(f"{path}: the file is not valid YAML") from None
