"""Every module and feature that `ARCHITECTURE.md` names exists."""

import re

import pytest

from tests.support.house import ROOT

PAGE = (ROOT / "ARCHITECTURE.md").read_text()
SOURCES = [*ROOT.glob("services/*/src/muster"), *ROOT.glob("libs/*/src/muster"), ROOT / "cli/src/muster"]
MODULES = sorted(set(re.findall(r"`([a-z_]+(?:/[a-z_]+)+\.py)`", PAGE)))
FEATURES = [
    (service, feature)
    for service, features, base in re.findall(r"^\| (\w+) \| ((?:`\w+` ?)+)\| ((?:`\w+` ?)*)\|$", PAGE, re.MULTILINE)
    for feature in re.findall(r"\w+", features + base)
]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_the_page_names_exists(module: str) -> None:
    assert any((source / module).is_file() for source in SOURCES)


def test_section_about_the_path_of_a_task_names_its_modules() -> None:
    way = PAGE.partition("## The way of a task")[2].partition("\n## ")[0]
    steps = re.split(r"^\d\. ", way, flags=re.MULTILINE)[1:]

    assert len(steps) == 7
    assert [step for step in steps if not re.search(r"`[a-z_/]+\.py`", step)] == []


def test_the_features_on_the_page_are_the_folders_of_the_services() -> None:
    there = {
        (service.name, part.stem)
        for source in SOURCES
        for service in source.iterdir()
        if service.name in {name for name, _ in FEATURES}
        for part in service.iterdir()
        if not part.name.startswith("__")
        and part.stem not in {"service", "settings", "provider_settings", "routers", "app", "py"}
    }

    assert set(FEATURES) == there
