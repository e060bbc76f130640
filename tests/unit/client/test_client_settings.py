"""The URL and the key of a client come from its arguments or from the environment."""

import pytest

from muster.client import AsyncMuster, ClientSettingsError, Muster

URL, KEY = "http://127.0.0.1:1", "mk_secret-of-the-test"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MUSTER_API_URL", "MUSTER_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("client", [Muster, AsyncMuster])
def test_environment_gives_the_missing_arguments(
    monkeypatch: pytest.MonkeyPatch, client: type[Muster] | type[AsyncMuster]
):
    monkeypatch.setenv("MUSTER_API_URL", f"{URL}/")
    monkeypatch.setenv("MUSTER_API_KEY", f"{KEY}\n")

    assert client().connection.url == URL
    assert client("https://other").connection.url == "https://other"


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        (None, KEY, "MUSTER_API_URL"),
        ("", KEY, "MUSTER_API_URL"),
        (URL, None, "MUSTER_API_KEY"),
        (URL, " ", "MUSTER_API_KEY"),
        ("ftp://x", KEY, "http://HOST:PORT"),
        ("127.0.0.1:80", KEY, "http://HOST:PORT"),
        ("http://user:mk_secret-of-the-test@127.0.0.1:1", KEY, "without a user name"),
        (f"{URL}?a=b", KEY, "without a user name, a query"),
        ("http://münchen.invalid", KEY, "http://HOST:PORT"),
        (URL, f"{KEY}\r\nX-Role: admin", "printable ASCII"),
    ],
)
def test_missing_or_invalid_url_or_key_is_refused_without_showing_the_key(url: str | None, key: str | None, said: str):
    with pytest.raises(ClientSettingsError, match=said) as refused:
        Muster(url, key)

    assert KEY not in str(refused.value)


def test_repr_of_a_client_does_not_contain_its_key():
    client = Muster(URL, KEY)

    assert repr(client) == f"<Muster {URL}>"
    assert KEY not in f"{client.connection!r} {client.connection.options!r}"


@pytest.mark.parametrize("deadline_s", [0, -1, float("nan"), float("inf"), 1e10])
def test_deadline_that_no_clock_can_hold_is_refused(deadline_s: float):
    with pytest.raises(ClientSettingsError, match="deadline_s"):
        Muster(URL, KEY, deadline_s=deadline_s)
