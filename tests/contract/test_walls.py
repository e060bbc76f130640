"""Tests of the checks in `make check`: a wrong import, a wrong type and a too long module each fail the check."""

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


def test_pyright_catches_each_marked_mistake_and_nothing_else(tmp_path: Path) -> None:
    mistakes = Path(shutil.copy(ROOT / "tests/contract/type_errors.py", tmp_path))
    settings = {
        "include": [mistakes.name],
        "venvPath": str(ROOT),
        "venv": ".venv",
        "pythonVersion": "3.12",
        "typeCheckingMode": "strict",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", "-p", str(tmp_path), "--outputjson"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    found = {one["range"]["start"]["line"] + 1 for one in json.loads(ran.stdout)["generalDiagnostics"]}
    marked = {number for number, line in enumerate(mistakes.read_text().splitlines(), 1) if "# error:" in line}

    assert found == marked


PLANTED = [
    ("agent_manager/fleet/domain/planted_loop.py", "import asyncio", "Decisions do no I/O"),
    ("guardian/detectors/planted_clock.py", "import muster.common.clock", "Decisions do no I/O"),
    ("guardian/journal/planted_nats.py", "import nats", "Only the bus imports nats"),
    ("guardian/journal/planted_room.py", "", "same rooms"),
    ("guardian/planted_feature.py", "", "Features of the guardian"),
    ("guardian/liveness/planted_sibling.py", "import muster.guardian.steering.domain", "Features of the guardian"),
    (
        "agent_manager/tasks/store/planted_feature.py",
        "import muster.agent_manager.results",
        "Features of the agent manager",
    ),
    (
        "agent_manager/fleet/store/planted_feature.py",
        "import muster.agent_manager.tasks.store",
        "Features of the agent manager",
    ),
    (
        "sandbox_gateway/models/domain/planted_feature.py",
        "import muster.sandbox_gateway.sandboxes.store",
        "Features of the sandbox gateway",
    ),
    (
        "management_api/tasks/planted_feature.py",
        "import muster.management_api.agents.routes",
        "Features of the management API",
    ),
    (
        "management_api/agents/domain/planted_layer.py",
        "import muster.management_api.agents.routes",
        "stacked the same way",
    ),
    ("cli/console/planted_client.py", "import muster.cli.client.target", "Commands of the CLI"),
    ("client/planted_bus.py", "import muster.common.bus.connection", "not the bus or a service"),
    ("client/_async/planted_half.py", "import muster.client._sync.client", "do not import each other"),
    ("guardian/journal/planted_service.py", "import muster.agent_manager.settings", "do not import each other"),
    ("common/nats_identity/planted_bus.py", "import muster.common.bus.connection", "below the bus"),
    ("common/planted_upward.py", "import muster.guardian.settings", "Common imports nobody"),
    ("sandbox_gateway/providers/planted_sdk.py", "import openhands.sdk", "Only its package imports OpenHands"),
    ("sandbox_gateway/models/routes/planted_shim.py", "import muster.shim.client", "from an adapter"),
    (
        "sandbox_gateway/sandboxes/domain/planted_provider.py",
        "import muster.sandbox_gateway.providers.local.disk",
        "which providers there are",
    ),
    ("management_api/tasks/domain/planted_identity.py", "import jwt", "identity provider"),
    ("guardian/steering/planted_seeds.py", "import nkeys", "handles nkeys"),
    ("daytona_double/planted_common.py", "import muster.common.clock", "imports no other package of Muster"),
    ("sandbox_gateway/sandboxes/reconcilers/planted_daytona.py", "import daytona", "speak to Daytona"),
]
"""Where a wrong import is planted, the import, and words of the contract that it breaks."""


@pytest.fixture(scope="module")
def linted(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """Return the output of import-linter for a copy of the tree with all files of `PLANTED`."""
    place = tmp_path_factory.mktemp("walls")
    house = place / "src"
    for source in ROOT.glob("*/*/src/muster"):
        shutil.copytree(source, house / "muster", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "cli/src/muster", house / "muster", dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", place)
    for planted_in, line, _ in PLANTED:
        (house / "muster" / planted_in).write_text(f'"""Planted."""\n{line}\n')
    # -S omits the editable installs, because their originals would be imported instead of the copy.
    return subprocess.run(
        [sys.executable, "-S", "-c", IMPORT_LINTER, str(house), sysconfig.get_path("purelib")],
        capture_output=True,
        text=True,
        cwd=place,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "200"},
    )


@pytest.mark.parametrize(("planted_in", "broken"), [(planted_in, broken) for planted_in, _, broken in PLANTED])
def test_forbidden_import_fails_the_check_of_import_rules(
    linted: subprocess.CompletedProcess[str], planted_in: str, broken: str
) -> None:
    assert linted.returncode == 1, linted.stdout + linted.stderr
    kept, _, reasons = linted.stdout.partition("Broken contracts")
    assert re.search(rf"{re.escape(broken)}[^:]*BROKEN", re.sub(r"\s+", " ", kept)), linted.stdout
    assert Path(planted_in).stem in reasons, "and for this reason"


def test_code_follows_the_house_rules_and_a_long_module_breaks_them(tmp_path: Path) -> None:
    assert list(broken_rules(tracked("*.py"))) == []
    long = tmp_path / "libs/common/src/muster/common/planted_util.py"
    long.parent.mkdir(parents=True)
    long.write_text("x = 1\n" * 301 + "def f():\n" + "    x = 1\n" * 41)

    assert len(list(broken_rules([long], tmp_path))) == 3
