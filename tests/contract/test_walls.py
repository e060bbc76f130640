"""The checks themselves are tested: a wrong import, a wrong type and a wrong size each turn `make check` red."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.house import ROOT, broken_rules, tracked

IMPORT_LINTER = """
import sys
sys.path[:] = [sys.argv.pop(1), *[p for p in sys.path if p], sys.argv.pop(1)]
sys.argv = ["lint-imports"]
from importlinter.cli import lint_imports_command
lint_imports_command()
"""


def test_pyright_catches_each_marked_mistake_and_nothing_else() -> None:
    mistakes = ROOT / "tests/contract/type_errors.py"
    config = ROOT / ".pyright-mistakes.json"
    settings = {
        "include": [str(mistakes.relative_to(ROOT))],
        "venvPath": ".",
        "venv": ".venv",
        "pythonVersion": "3.12",
        "typeCheckingMode": "strict",
    }
    config.write_text(json.dumps(settings))
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "pyright", "-p", str(config), "--outputjson"],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
    finally:
        config.unlink()
    found = {one["range"]["start"]["line"] + 1 for one in json.loads(ran.stdout)["generalDiagnostics"]}
    marked = {number for number, line in enumerate(mistakes.read_text().splitlines(), 1) if "# error:" in line}

    assert found == marked


@pytest.mark.parametrize(
    ("planted_in", "line", "broken"),
    [
        ("guardian/domain/planted.py", "import asyncio", "Decisions do no I/O"),
        ("guardian/store/planted.py", "import nats", "Only the bus imports nats"),
        ("guardian/store/planted.py", "import muster.agent_manager.settings", "do not import each other"),
        ("guardian/utils.py", "", "same rooms"),
        ("guardian/domain/planted.py", "import muster.guardian.service", "stacked the same way"),
        ("common/planted.py", "import muster.guardian.settings", "Common imports nobody"),
        ("sandbox_gateway/adapters/planted.py", "import openhands.sdk", "Only its package imports OpenHands"),
        ("sandbox_gateway/routes/planted.py", "import muster.shim.client", "from an adapter"),
    ],
)
def test_a_wrong_import_turns_the_walls_red(tmp_path: Path, planted_in: str, line: str, broken: str) -> None:
    house = tmp_path / "src"
    for source in ROOT.glob("*/*/src/muster"):
        shutil.copytree(source, house / "muster", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "cli/src/muster", house / "muster", dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = house / "muster" / planted_in
    planted.write_text(f'"""Planted."""\n{line}\n')
    # -S: without the editable installs, whose originals would be found beside the copy.
    ran = subprocess.run(
        [sys.executable, "-S", "-c", IMPORT_LINTER, str(house), sysconfig.get_path("purelib")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "200"},
    )

    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert re.search(rf"{re.escape(broken)}.*BROKEN", re.sub(r"\s+", " ", ran.stdout)), ran.stdout
    assert planted.stem in ran.stdout.partition("Broken contracts")[2], "and for this reason"


def test_the_house_rules_hold_and_a_long_module_breaks_them(tmp_path: Path) -> None:
    assert list(broken_rules(tracked("*.py"))) == []
    long = ROOT / "libs/common/src/muster/common/planted_util.py"
    long.write_text("x = 1\n" * 301 + "def f():\n" + "    x = 1\n" * 41)
    try:
        broken = list(broken_rules([long]))
    finally:
        long.unlink()

    assert len(broken) == 3
