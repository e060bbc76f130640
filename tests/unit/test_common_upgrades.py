"""An offer to upgrade goes unseen, wherever its head is cut."""

from muster.common.upgrades import Upgrades

HEAD = b"POST /echo HTTP/1.1\r\nhost: here\r\nUPGRADE : h2c\r\nx: upgrade\r\ncontent-length: 2\r\n\r\n"
BODY = b"\r\n"


def test_an_offer_is_renamed_and_nothing_else_changes_wherever_the_head_is_cut() -> None:
    for first in range(len(HEAD)):
        for second in range(first, len(HEAD)):
            upgrades = Upgrades()
            pieces = (HEAD[:first], HEAD[first:second], HEAD[second:] + BODY)
            passed_on = b"".join(map(upgrades.without, pieces))
            assert passed_on == HEAD.replace(b"UPGRADE ", b"x-pgrade ") + BODY, pieces
