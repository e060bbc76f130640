"""Unreadable server URLs are refused at start, and no part of a password is repeated."""

import pytest
from pydantic import ValidationError

from muster.common.settings import DatabaseSettings, NatsSettings, ServersSettings

BROKEN = ["u:canary#x@h:1", "u:can/ary@h:1", "u:can?ary@h:1", "u:can[ary@h:1", "u:12#ary@h:1"]


@pytest.mark.parametrize("broken", BROKEN)
def test_url_with_a_password_that_is_not_encoded_is_refused_without_repeating_it(broken: str) -> None:
    for make in (
        lambda: DatabaseSettings(database_url=f"postgresql://{broken}/db"),  # type: ignore[arg-type]
        lambda: NatsSettings(nats_url=f"nats://{broken}"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValidationError, match=r"MUSTER_(NATS|DATABASE)_URL cannot be read") as refused:
            make()
        assert "%23" in str(refused.value)
        assert "ary" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "postgresql://u:p%23%2F@h:5432/db",
            "postgresql:///db?host=/run/postgresql",
            "postgres://u@/db?host=/tmp&x=a@b",
        ),
        *("postgresql://u:p@[::1]:5432/db", "postgresql://u:p@a:1,b:2/db?sslmode=require", "postgresql://h/db"),
    ],
)
def test_database_urls_are_accepted(url: str) -> None:
    assert DatabaseSettings(database_url=url).database == url  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    ["", "nats://h", "h:4222", "tls://u:p%40@h:4222", "nats://u:p@a:1,nats://u:p@b:2", "a:1,b:2", "nats://[::1]:1"],
)
def test_nats_urls_are_accepted(url: str) -> None:
    assert ServersSettings(nats_url=url).nats_url.get_secret_value() == url  # type: ignore[arg-type]
