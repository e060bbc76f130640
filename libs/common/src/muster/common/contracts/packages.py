"""Agent packages: what an `agent.toml` says, and what the manager found on disk."""

from typing import Any, Literal

from muster.common.contract import Command, Message

Mode = Literal["process", "sandbox"]


class Capability(Message):
    """Something an agent can do. `config` is the JSON Schema of what it wants to be told for it."""

    name: str
    description: str = ""
    config: dict[str, Any] = {}


class Resources(Message):
    """What one agent of a package may use; unset is unlimited."""

    memory_bytes: int | None = None
    cpu_s: int | None = None
    open_files: int = 4096


class Manifest(Message):
    """`agent.toml`. `module` is started as `python -m <module>`."""

    name: str
    type: str
    version: str
    module: str
    description: str = ""
    modes: tuple[Mode, ...] = ("process", "sandbox")
    capabilities: list[Capability] = []
    needs_model: bool = False
    resources: Resources = Resources()
    graceful_stop_s: float = 5.0


class PackageView(Message):
    """A package folder as it was found: either its manifest, or the reason why it cannot be used."""

    name: str
    folder: str
    usable: bool
    manifest: Manifest | None = None
    reason: str | None = None
    digest: str = ""
    """Changes with the content of the folder."""


class PackageList(Message):
    """All of them, by name; broken ones too."""

    packages: list[PackageView]


class ListPackages(Command[PackageList], subject="agent.manager.query.packages"):
    """What discovery has found."""
