"""The identity provider whose tokens the APIs of these tests accept."""

from collections.abc import Iterator

import pytest

from tests.support.identity_provider import IdentityProvider, identity_provider


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    """An identity provider for each module, because tests stop it and change its keys."""
    with identity_provider() as provider:
        yield provider
