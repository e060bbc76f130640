"""Each claim of `docs/security.md` names a test, and the test exists."""

import re

from tests.support.house import ROOT

PAGE = ROOT / "docs" / "security.md"
NAMED = re.compile(r"^- `([a-z0-9_/]+\.py)::(test_[a-z_0-9]+)`$", re.MULTILINE)


def test_every_test_that_the_security_page_names_exists() -> None:
    named: list[tuple[str, str]] = NAMED.findall(PAGE.read_text())
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"^(async )?def {name}\(", (ROOT / "tests" / path).read_text(), re.MULTILINE)
    ]

    assert len(named) > 20
    assert missing == []


def test_every_wall_of_the_security_page_names_a_test() -> None:
    walls = PAGE.read_text().partition("## The walls")[2].partition("## What is not defended")[0].split("\n**")[1:]

    assert walls
    assert [wall.splitlines()[0] for wall in walls if not NAMED.search(wall)] == []
