"""Every loop of a service runs under `supervise`, which handles outages and bugs. The tests read the source code."""

import ast
from pathlib import Path

import pytest

from tests.support.house import ROOT

ROOTS = sorted(ROOT.glob("services/*/src/muster/*/service.py"))
MODULES = sorted([*ROOT.glob("services/*/src/**/*.py"), *ROOT.glob("libs/common/src/**/*.py")])
STARTERS = {"create_task", "ensure_future"}
OWNERLESS = {"asyncio", "loop", "asyncio.get_running_loop()", "asyncio.get_event_loop()"}
"""Nobody awaits a task of these, so what it raises is lost. A task of a `TaskGroup` raises in its owner's round."""


def started(source: str) -> list[tuple[str, str]]:
    """Yield each asyncio task that the source starts, with the call and its argument."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        (ast.unparse(call.func.value), ast.unparse(call.args[0]))
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr in STARTERS
    ]


def unsupervised(source: str, *, composition_root: bool) -> list[str]:
    """Return the tasks in the source that run without `supervise` but need it."""
    return [
        what
        for on, what in started(source)
        if (composition_root or on in OWNERLESS) and not what.startswith("supervise(")
    ]


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.parent.name)
def test_composition_root_supervises_each_loop_that_it_starts(root: Path) -> None:
    assert unsupervised(root.read_text(), composition_root=True) == []
    assert any(what.startswith("supervise(") for _, what in started(root.read_text()))


def test_no_other_module_starts_a_task_that_is_not_awaited() -> None:
    found = {
        str(module.relative_to(ROOT)): unsupervised(module.read_text(), composition_root=False) for module in MODULES
    }

    assert len(ROOTS) == 4
    assert {module: tasks for module, tasks in found.items() if tasks} == {}


@pytest.mark.parametrize(
    ("planted", "composition_root"),
    [
        ("tasks.create_task(forgetting.run())", True),
        ("loops = [tasks.create_task(loop) for loop in gateway.loops()]", True),
        ("asyncio.create_task(forgetting.run())", False),
        ("asyncio.get_running_loop().create_task(self._mend())", False),
        ("task = asyncio.ensure_future(self.run())", False),
    ],
)
def test_unsupervised_loop_is_found(planted: str, composition_root: bool) -> None:
    assert len(unsupervised(planted, composition_root=composition_root)) == 1
