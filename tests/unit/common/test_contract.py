"""Contracts: one message class, one subject, encoding, and errors of decoding."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.common.contract import (
    CONTRACTS,
    TOKEN,
    Command,
    Event,
    Message,
    decode,
    encode,
    reply_type,
    token,
    wildcard,
)
from muster.common.contracts.tasks import GetTask, TaskView
from muster.common.faults import Fault, InvalidMessage, NotFound, Transient, Unavailable


class Planted(Event, subject="planted.{planted_id}.told"):
    planted_id: str
    count: int = 0


def test_a_subject_is_filled_from_the_messages_own_fields() -> None:
    assert Planted(planted_id="a_1").subject == "planted.a_1.told"
    assert wildcard(Planted.SUBJECT) == "planted.*.told"


@pytest.mark.parametrize("bad", ["a.>", "*", ">", "a b", "", "a.b", "ä", "x" * 65, "a\n"])
def test_an_id_can_never_inject_a_wildcard_and_the_field_is_named(bad: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        _ = Planted(planted_id=bad).subject

    assert refused.value.field == "$.planted_id"


@given(st.text())
def test_valid_token_is_one_plain_subject_token(text: str) -> None:
    try:
        passed = token(text)
    except InvalidMessage:
        assert not TOKEN.fullmatch(text)
    else:
        assert passed.isascii()
        assert not set(passed) & set(".*> \t\r\n")


def test_two_contracts_cannot_own_one_subject() -> None:
    with pytest.raises(TypeError, match="already belongs to the contract Planted"):

        class Other(Event, subject="planted.{planted_id}.told"):  # pyright: ignore[reportUnusedClass]
            planted_id: str


def test_a_command_knows_its_reply() -> None:
    assert reply_type(GetTask) is TaskView

    class Mute(Command):  # pyright: ignore[reportMissingTypeArgument]
        pass

    with pytest.raises(TypeError, match="declares no reply type"):
        reply_type(Mute)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"planted_id": 3}', "$.planted_id"),
        (b'{"planted_id": "a", "count": "many"}', "$.count"),
        (b"{}", "$.planted_id"),
        (b"{", "$"),
        (b"\xff\xfe", "$"),
        (b"", "$"),
    ],
)
def test_bad_input_names_the_field(body: bytes, field: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        decode(body, Planted)

    assert refused.value.field == field


class Fussy(Message, forbid_unknown_fields=True):
    """A message with one field of each kind that can be invalid."""

    word: Annotated[str, msgspec.Meta(pattern="^[a-z]+$", description="may hold small letters")] | None = None
    bare: Annotated[str, msgspec.Meta(pattern="^[a-z]+$")] = "x"
    line: Annotated[str, msgspec.Meta(min_length=1, max_length=3)] = "x"
    count: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1
    colour: Literal["red", "blue"] | None = None
    when: datetime | None = None
    sizes: list[Literal[1, 2]] = []
    names: dict[Annotated[str, msgspec.Meta(max_length=2)], "Fussy"] = {}


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ('{"word": "A"}', "$.word", "word may hold small letters"),
        ('{"bare": "A"}', "$.bare", "bare is not in the form that it must have"),
        ('{"line": ""}', "$.line", "line must not be empty"),
        ('{"line": "abcd"}', "$.line", "line must have at most 3 characters"),
        ('{"line": 3}', "$.line", "line must be a text, not a whole number"),
        ('{"count": 0}', "$.count", "count must be 1 or more"),
        ('{"count": 1.5}', "$.count", "count must be a whole number, not a fraction"),
        ('{"colour": "green"}', "$.colour", "colour must be one of blue, red, not 'green'"),
        ('{"colour": 3}', "$.colour", "colour must be one of blue, red, not a whole number"),
        ('{"when": "now"}', "$.when", "when must be a time such as 2026-01-31T12:00:00Z"),
        ('{"sizes": [1, 3]}', "$.sizes[1]", "sizes[1] must be one of 1, 2, not 3"),
        ('{"names": {"abc": {}}}', "$.names", "a key of names must have at most 2 characters"),
        ('{"names": {"a": {"colour": 1}}}', "$.names[...].colour", "names[...].colour must be one of blue, red"),
        ('{"names": {"a": {"no": 1}}}', "$.names[...].no", "there is no field names[...].no; there are word, bare"),
        ("[]", "$", "the message must be an object, not a list"),
        ("{x}", "$", "the message is not JSON: "),
        ("{", "$", "the message is not JSON: it ends too early"),
    ],
)
def test_invalid_value_is_explained_with_the_valid_values(body: str, field: str, says: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        decode(body.encode(), Fussy)

    assert refused.value.field == field
    assert str(refused.value).startswith(says)
    assert "`" not in str(refused.value)


@given(st.binary(max_size=200))
def test_no_bytes_make_decoding_fail_in_any_other_way(body: bytes) -> None:
    try:
        decode(body, Planted)
    except InvalidMessage as refused:
        assert refused.field  # noqa: PT017


@given(planted_id=st.from_regex(TOKEN, fullmatch=True), count=st.integers(-(2**63), 2**63 - 1))
def test_encoded_message_is_decoded_to_the_same_value(planted_id: str, count: int) -> None:
    message = Planted(planted_id=planted_id, count=count)

    assert decode(encode(message), Planted) == message


def test_every_fault_is_decoded_to_the_same_class() -> None:
    assert Fault.named("not_found") is NotFound
    assert Fault.named("never heard of") is Fault


def test_bug_is_hidden_from_the_caller() -> None:
    told = Fault.of(RuntimeError("postgres://user:password@db"))

    assert "password" not in str(told)
    assert told.status == 500
    assert isinstance(Fault.of(Transient("later")), Unavailable)


def test_placeholders_of_every_subject_are_fields_of_its_contract() -> None:
    for subject, contract in CONTRACTS.items():
        for place in subject.replace(".", " ").split():
            if place.startswith("{"):
                assert place.strip("{}") in contract.__struct_fields__


def test_too_deeply_nested_message_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="nested too deep"):
        decode(b"[" * 100_000 + b"]" * 100_000, list)
