"""The files that the shim writes into its state directory for the start of workers: compiled programs, and `/etc`."""

import os
import py_compile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_KEEPERS = ("keeper", "joined_keeper", "landlock_keeper", "socket_calls", "pid_namespace_keeper")


@dataclass(frozen=True)
class ShimFiles:
    """The files that a shim provides for the start of workers."""

    state: Path
    etc: Path
    """Directory with the `/etc` files of a sandbox."""

    @classmethod
    def written(cls, state: Path) -> "ShimFiles":
        """Write the files into the shim's state directory."""
        for keeper in _KEEPERS:
            compiled(keeper, state)
        return cls(state, _written_etc(state))

    def program(self, name: str) -> str:
        """Return the path of a compiled keeper, which starts faster than its source."""
        return str(self.state / f"{name}.pyc")

    @property
    def keepers(self) -> Sequence[str]:
        """The compiled keepers of a sandbox: that of a spawned and that of a forked worker."""
        return [self.program("keeper"), self.program("joined_keeper")]


def compiled(program: str, state: Path) -> str:
    """Compile a module of this package that is run without its source. Return the path of the compiled file."""
    target = state / f"{program}.pyc"
    source = Path(__file__).with_name(f"{program}.py")
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), cfile=str(target), doraise=True, invalidation_mode=unchecked)
    return str(target)


def _written_etc(state: Path) -> Path:
    """Write `passwd`, `group` and `hosts`, which the sandbox gets in `/etc`. Return the directory of the files."""
    etc = state / "etc"
    etc.mkdir(mode=0o700, exist_ok=True)
    user, group = os.getuid(), os.getgid()
    (etc / "passwd").write_text(f"worker:x:{user}:{group}:worker:/tmp:/bin/bash\n")
    (etc / "group").write_text(f"worker:x:{group}:\n")
    (etc / "hosts").write_text("127.0.0.1 localhost sandbox\n::1 localhost\n")
    return etc
