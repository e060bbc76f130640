"""Keys and claims without a server: their content, and no secret in any text of them."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from muster.common.agent_credentials.authority import LONGEST_TTL_S, AgentAuthority
from muster.common.faults import InvalidMessage
from muster.common.nats_identity.claims import NatsClaims, read_claims, still_needed, user_token
from muster.common.nats_identity.credentials import credentials_text, read_credentials
from muster.common.nats_identity.keys import Key, derived_key, new_key
from muster.common.nats_identity.roles import NatsRole
from muster.common.settings import AuthoritySettings
from muster.embedded.nats_authority import NatsAuthority


def authority(trust: NatsAuthority) -> AgentAuthority:
    return AgentAuthority(
        AuthoritySettings(
            nats_url="nats://x",  # pyright: ignore[reportArgumentType]
            nats_account=trust.account,
            nats_agent_seed=trust.signing(NatsRole.AGENT).seed,  # pyright: ignore[reportArgumentType]
            nats_operator_seed=trust.operator_signing.seed,  # pyright: ignore[reportArgumentType]
            nats_system_credentials=trust.revoker_file(),
        )
    )


def account_on_disk(trust: NatsAuthority, accounts: Path) -> NatsClaims:
    return read_claims((accounts / f"{trust.account}.jwt").read_text())


def test_credentials_are_read_as_they_were_written_and_never_show_their_seed() -> None:
    user, signing = new_key("user"), new_key("account")
    text = credentials_text(user_token(signing, "ACC", user.public, "agt_x", at=100, ttl_s=60), user)

    got = read_credentials(text)

    assert (got.name, got.claims.iat, got.claims.exp, got.key.public) == ("agt_x", 100, 160, user.public)
    assert got.claims.iss == signing.public
    assert user.seed in text
    assert user.seed not in f"{got!r} {user!r}"


@pytest.mark.parametrize("name", ["*", ">", "a.b", "", "a b", "é"])
def test_no_token_for_a_name_that_is_a_wildcard_in_a_subject(name: str) -> None:
    with pytest.raises(InvalidMessage):
        user_token(new_key("account"), "ACC", new_key("user").public, name, at=0, ttl_s=1)


@pytest.mark.parametrize("text", ["", "S", "SUAAAA", "no seed at all", "é"])
def test_invalid_seed_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        Key(text)
    assert not text or text == "S" or text not in str(refused.value)


def test_derived_key_is_deterministic_and_different_for_each_label() -> None:
    secret = new_key("account")

    assert derived_key("user", secret, "agt_a/1").public == derived_key("user", Key(secret.seed), "agt_a/1").public
    publics = {derived_key("user", key, label).public for key in (secret, new_key("account")) for label in ("a", "b")}
    assert len(publics) == 4


def test_launch_keeps_its_key_and_its_credentials_are_short_lived(tmp_path: Path) -> None:
    agents = authority(NatsAuthority(tmp_path))

    first, again, next_launch = (read_credentials(agents.mint("agt_x", n, 10 * LONGEST_TTL_S)) for n in (1, 1, 2))

    assert first.key.public == again.key.public != next_launch.key.public
    assert first.claims.exp - first.claims.iat == LONGEST_TTL_S
    assert first.claims.nats["type"] == "user"
    assert not {"pub", "sub", "permissions"} & set(first.claims.nats)  # The permissions belong to the signing key.


def test_keys_are_made_once_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    first, second = NatsAuthority(tmp_path), NatsAuthority(tmp_path)

    assert first.account == second.account
    assert first.signing(NatsRole.AGENT).public == second.signing(NatsRole.AGENT).public
    first.credentials_file(NatsRole.GUARDIAN)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 16
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_account_is_rewritten_only_when_its_roles_change_and_keeps_its_revocations(tmp_path: Path) -> None:
    trust, accounts = NatsAuthority(tmp_path / "identity"), tmp_path / "accounts"
    trust.write_accounts(accounts)
    before = (accounts / f"{trust.account}.jwt").read_text()
    trust.write_accounts(accounts)
    assert (accounts / f"{trust.account}.jwt").read_text() == before

    (tmp_path / "identity" / "keys" / "role-guardian.nk").unlink()  # This revokes the credentials of a role.
    again = NatsAuthority(tmp_path / "identity")
    again.write_accounts(accounts)
    old, new = read_claims(before), account_on_disk(again, accounts)
    keys = [{scope["key"] for scope in claims.nats["signing_keys"]} for claims in (old, new)]
    assert keys[0] - keys[1] == {trust.signing(NatsRole.GUARDIAN).public}

    (accounts / f"{again.account}.jwt").write_text("torn")
    again.write_accounts(accounts)
    assert account_on_disk(again, accounts).sub == trust.account


def test_revocation_is_kept_until_the_revoked_credentials_have_expired() -> None:
    assert still_needed({"U1": 100, "U2": 99, "*": 1}, at=100) == {"U1": 100, "*": 1}


def test_incomplete_authority_settings_are_refused_with_their_names() -> None:
    with pytest.raises(ValidationError, match="MUSTER_NATS_OPERATOR_SEED"):
        AuthoritySettings(nats_url="nats://x", nats_account="A")  # pyright: ignore[reportArgumentType]
