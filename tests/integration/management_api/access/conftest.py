"""The identity provider whose tokens the APIs of these tests accept."""

from collections.abc import Iterator

import pytest

from tests.support.identity_provider import IdentityProvider, identity_provider


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    """One for each module: tests take it down, and change its keys."""
    with identity_provider() as provider:
        yield provider
