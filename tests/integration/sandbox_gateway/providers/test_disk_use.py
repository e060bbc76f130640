"""A sandbox's files are counted also if the worker has removed the permission to list their directory."""

import subprocess
import sys
from pathlib import Path

from muster.sandbox_gateway.providers.local.disk_use import used_bytes

_MIB = 1 << 20
# Without these two capabilities, root too needs the permissions of a directory.
_AS_ORDINARY_USER = """
import asyncio, ctypes, pathlib, sys
from muster.sandbox_gateway.providers.local.disk_use import used_bytes
for capability in (1, 2):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
print(asyncio.run(used_bytes(pathlib.Path(sys.argv[1]), within_s=20)))
"""


def used(home: Path) -> str:
    return subprocess.check_output([sys.executable, "-c", _AS_ORDINARY_USER, str(home)], text=True).strip()


def test_files_below_directories_that_nobody_may_list_are_counted(tmp_path: Path) -> None:
    outer = tmp_path / "workspace" / "outer"
    inner = tmp_path / "workspace" / "a b" / "inner"
    for directory in (outer, inner):
        directory.mkdir(parents=True)
        (directory / "full").write_bytes(bytes(_MIB))
    inner.chmod(0o300)
    inner.parent.chmod(0o300)
    outer.chmod(0)
    assert int(used(tmp_path)) > 2 * _MIB
    assert outer.stat().st_mode & 0o777 == 0o500


def test_directory_whose_name_is_not_recognised_makes_the_sandbox_unmeasured(tmp_path: Path) -> None:
    odd = tmp_path / "workspace" / "it's\n"
    odd.mkdir(parents=True)
    (odd / "full").write_bytes(bytes(_MIB))
    odd.chmod(0o300)
    assert used(tmp_path) == "None"


async def test_sandbox_without_directories_uses_nothing(tmp_path: Path) -> None:
    assert await used_bytes(tmp_path, within_s=20) == 0
