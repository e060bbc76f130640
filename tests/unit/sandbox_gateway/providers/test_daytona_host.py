"""The host in a record of a sandbox at Daytona tells the API and the target apart, and not the key."""

import pytest
from pydantic import SecretStr

from muster.sandbox_gateway.provider_settings import DaytonaSettings

URL = "https://daytona.example/api"


def host(key: str = "one", url: str = URL, target: str = "us") -> str:
    return DaytonaSettings(daytona_api_key=SecretStr(key), daytona_api_url=url, daytona_target=target).daytona_host


@pytest.mark.parametrize("other", [host(url="https://other.example/api"), host(target="eu")], ids=["url", "target"])
def test_another_url_or_target_is_another_host(other: str) -> None:
    assert other != host()


@pytest.mark.parametrize("same", [host(key="renewed"), host(url=f"{URL}/")], ids=["key", "slash"])
def test_a_renewed_key_or_a_slash_at_the_end_is_the_same_host(same: str) -> None:
    assert same == host()
