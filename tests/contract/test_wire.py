"""The golden wire: what was once sent is understood for ever.

`tests/contract/wire/<Contract>.json` holds the least message a sender may send and what a receiver then has. A dropped
default or a new required field makes `least` unreadable; a renamed field or a changed default changes `whole`. To add a
contract, or to change one on purpose: `python -m tests.contract.record`.
"""

from pathlib import Path

import msgspec
import pytest

from muster.common.contract import Message, decode, encode
from muster.common.faults import InvalidMessage
from tests.contract.examples import least, wire

GOLDEN = Path(__file__).parent / "wire"


@pytest.mark.parametrize("name", sorted(wire()))
def test_message_of_an_earlier_release_is_still_decoded(name: str) -> None:
    contract, golden = wire()[name], _golden(name)

    received = decode(encode(golden["least"]), contract)

    assert msgspec.json.decode(encode(received)) == golden["whole"]
    assert decode(encode(golden["whole"]), contract) == received


@pytest.mark.parametrize("name", sorted(wire()))
def test_no_contract_requires_a_new_field(name: str) -> None:
    assert least(wire()[name]).keys() == _golden(name)["least"].keys()


def test_every_contract_has_a_fixture_and_every_fixture_a_contract() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(wire())


def test_removed_default_value_fails_the_golden_test() -> None:
    class SubmitTask(Message):
        task_id: str
        objective: str
        priority: str  # This field had a default.

    with pytest.raises(InvalidMessage, match="priority"):
        decode(encode(_golden("SubmitTask")["least"]), SubmitTask)


def _golden(name: str) -> dict[str, dict[str, object]]:
    return msgspec.json.decode((GOLDEN / f"{name}.json").read_bytes(), type=dict[str, dict[str, object]])
