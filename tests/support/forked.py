"""Starts workers of a small agent package in both ways, spawned and forked, to compare them."""

import sys
import tempfile
from pathlib import Path
from typing import Literal

from muster.shim.client import Limits, Preload, ProcessRecord, ShimClient
from tests.support.shim import ShimProcess

Way = Literal["spawned", "forked"]

MAIN = """
import os, sys
import forkling.imported
exec(sys.argv[1])
"""
FORK_BOMB = """
import os, time
made = 0
try:
    while made < 2000:
        if not os.fork():
            time.sleep(60)
            os._exit(0)
        made += 1
except OSError:
    pass
print(made, flush=True)
time.sleep(60)
"""
"""A program that makes 2000 processes, or as many as it may, prints their number, and waits."""


class Forkling:
    """A package whose worker runs the Python code in its first argument, and its sandboxes."""

    def __init__(self, at: ShimProcess, imported: str = "import json, socket, subprocess") -> None:
        place = Path(tempfile.mkdtemp(dir=at.directory))
        self.roots, self.code = place / "sandboxes", place / "code"
        self.roots.mkdir()
        package = self.code / "forkling"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(MAIN)
        self.imported = package / "imported.py"
        self.imported.write_text(imported)

    @property
    def preload(self) -> Preload:
        """The fork server of this package."""
        code = [str(self.code)]
        return Preload(modules=["forkling.imported"], roots=[str(self.roots)], readable=code, import_paths=code)

    def home(self, key: str) -> Path:
        """Return the directory of the sandbox with this key."""
        home = self.roots / key
        home.mkdir(parents=True, exist_ok=True)
        return home

    async def launch(
        self,
        shim: ShimClient,
        key: str,
        code: str,
        way: Way = "forked",
        lease_s: float | None = 60,
        limits: Limits | None = None,
    ) -> ProcessRecord:
        """Start a worker that runs `code`."""
        home = self.home(key)
        return await shim.launch(
            key,
            [sys.executable, "-P", "-m", "forkling", code],
            cwd=home,
            env={"PYTHONPATH": str(self.code), "LANG": "C.UTF-8"},
            writable=[home],
            readable=[self.code],
            preload=self.preload if way == "forked" else None,
            limits=limits,
            lease_s=lease_s,
        )

    async def run(self, shim: ShimClient, key: str, code: str, way: Way = "forked") -> tuple[ProcessRecord, str]:
        """Run `code` in a worker to its end, and return its record and output."""
        await self.launch(shim, key, code, way)
        record = await shim.wait(key, deadline_s=20)
        return record, (await shim.output(key))[0].decode()
