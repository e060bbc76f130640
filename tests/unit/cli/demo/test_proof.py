"""Conditions under which the demo counts a diff as proved."""

from pathlib import Path

from muster.cli.demo.cases import BUGFIX
from muster.cli.demo.proof import prove
from muster.cli.demo.repositories import make_repository
from muster.cli.demo.subprocesses import git

HARMLESS = """\
diff --git a/notes.txt b/notes.txt
new file mode 100644
--- /dev/null
+++ b/notes.txt
@@ -0,0 +1 @@
+I looked at it.
"""


async def test_no_diff_proves_nothing(tmp_path: Path) -> None:
    proof = await prove(await make_repository(BUGFIX, tmp_path), "", tmp_path / "clone")

    assert not proof.passed
    assert proof.output == "no diff was reported"


async def test_a_diff_that_does_not_apply_is_named(tmp_path: Path) -> None:
    wrong = HARMLESS.replace("new file mode 100644\n--- /dev/null", "--- a/notes.txt").replace("-0,0", "-1 ")
    proof = await prove(await make_repository(BUGFIX, tmp_path), wrong, tmp_path / "clone")

    assert proof.failed_before
    assert not proof.applied
    assert not proof.passed
    assert proof.output


async def test_a_diff_that_fixes_nothing_is_not_proved(tmp_path: Path) -> None:
    proof = await prove(await make_repository(BUGFIX, tmp_path), HARMLESS, tmp_path / "clone")

    assert proof.applied
    assert not proof.passed
    assert "FAILED" in proof.output


async def test_tests_that_passed_before_the_diff_prove_nothing(tmp_path: Path) -> None:
    origin = await make_repository(BUGFIX, tmp_path)
    (origin / "tests" / "test_splitbill.py").write_text(
        "import unittest\nclass T(unittest.TestCase):\n    def test(self): pass\n"
    )
    await git("commit", "-qam", "Weaken the tests", cwd=origin)

    proof = await prove(origin, HARMLESS, tmp_path / "clone")

    assert not proof.failed_before
    assert not proof.passed
