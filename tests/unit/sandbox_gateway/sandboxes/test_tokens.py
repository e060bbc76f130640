"""Tokens with which workers authenticate to the gateway."""

import secrets
from datetime import UTC, datetime, timedelta

import jwt
import msgspec
import pytest

from muster.common.faults import InvalidMessage, Unauthenticated
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring, SandboxClaims, redacted

AT = datetime(2026, 11, 21, tzinfo=UTC)


CLAIMS = SandboxClaims(sbx="sbx_1", tsk="tsk_1", agt="agt_1", epoch=1, exp=int(AT.timestamp()), model="m")


OLD, NEW = (f"{kid}:{secrets.token_hex(64)}" for kid in ("old", "new"))


def test_token_in_a_workers_output_is_hidden() -> None:
    token = Keyring.parsed(NEW).sign(CLAIMS)
    assert redacted(f"401 for {token}, eyJ is no token") == "401 for [token], eyJ is no token"


def test_token_is_valid_after_the_replacement_of_its_key() -> None:
    token = Keyring.parsed(OLD).sign(CLAIMS)
    both = Keyring.parsed(f"{NEW},{OLD}")
    assert both.verify(token) == CLAIMS
    assert jwt.get_unverified_header(both.sign(CLAIMS))["kid"] == "new"
    with pytest.raises(Unauthenticated):
        Keyring.parsed(NEW).verify(token)


def test_expired_token_is_recognised_and_reported_as_expired() -> None:
    ring = Keyring.parsed(NEW)
    claims = ring.verify(ring.sign(CLAIMS))
    assert claims.expired(AT)
    assert not claims.expired(AT - timedelta(seconds=1))


def test_no_other_token_is_accepted() -> None:
    ring = Keyring.parsed(NEW)
    good = ring.sign(CLAIMS)
    key = bytes.fromhex(NEW.partition(":")[2])
    payload = msgspec.to_builtins(CLAIMS)
    forged = [
        good[:-2],
        good + "x",
        "",
        "a.b.c",
        jwt.encode(payload, key, algorithm="HS256"),
        jwt.encode(payload, key, algorithm="HS256", headers={"kid": "nobody"}),
        jwt.encode(payload, b"k" * 64, algorithm="HS256", headers={"kid": "new"}),
        jwt.encode(payload, key, algorithm="HS512", headers={"kid": "new"}),
        jwt.encode(payload, "", algorithm="none", headers={"kid": "new"}),
        jwt.encode(payload | {"epoch": "1"}, key, algorithm="HS256", headers={"kid": "new"}),
        jwt.encode({"sbx": "sbx_1"}, key, algorithm="HS256", headers={"kid": "new"}),
    ]
    for token in forged:
        with pytest.raises(Unauthenticated):
            ring.verify(token)


@pytest.mark.parametrize("text", ["", "k1", "k1:zz", "k1:abcd", f":{'a' * 64}"])
def test_a_bad_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        Keyring.parsed(text)
    assert "a" * 64 not in str(refusal.value)
