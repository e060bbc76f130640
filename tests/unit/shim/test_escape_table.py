"""The table of isolation levels in `docs/security.md` is the table of the escape tests."""

from tests.support.escapes import ESCAPES, PAGE, rewritten


def test_security_page_promises_what_the_escape_tests_try() -> None:
    page = PAGE.read_text()
    assert rewritten(page) == page


def test_a_level_closes_every_way_that_the_next_weaker_level_closes_except_that_landlock_shows_processes() -> None:
    shown = {escape.name for escape in ESCAPES if "pid-namespace" in escape.closed and "landlock" not in escape.closed}
    assert shown == {"see the processes of the host", "kill what can be killed"}
    assert all("bubblewrap" in escape.closed for escape in ESCAPES)
