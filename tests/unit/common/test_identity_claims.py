"""Keys and claims, without a server: what is in them, and that no text of them holds a secret."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from muster.common.faults import InvalidMessage
from muster.common.identity.authority import LONGEST_TTL_S, AgentAuthority
from muster.common.identity.claims import NatsClaims, read_claims, still_needed, user_token
from muster.common.identity.credentials import credentials_text, read_credentials
from muster.common.identity.keys import Key, derived_key, new_key
from muster.common.identity.roles import Role
from muster.common.settings import AuthoritySettings
from muster.embedded.nats_authority import NatsAuthority


def authority(trust: NatsAuthority) -> AgentAuthority:
    return AgentAuthority(
        AuthoritySettings(
            nats_url="nats://x",  # pyright: ignore[reportArgumentType]
            nats_account=trust.account,
            nats_agent_seed=trust.signing(Role.AGENT).seed,  # pyright: ignore[reportArgumentType]
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
def test_what_is_no_seed_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        Key(text)
    assert not text or text == "S" or text not in str(refused.value)


def test_a_derived_key_is_the_same_again_and_another_for_every_label() -> None:
    secret = new_key("account")

    assert derived_key("user", secret, "agt_a/1").public == derived_key("user", Key(secret.seed), "agt_a/1").public
    publics = {derived_key("user", key, label).public for key in (secret, new_key("account")) for label in ("a", "b")}
    assert len(publics) == 4


def test_a_launch_keeps_its_key_and_its_credentials_are_never_long_lived(tmp_path: Path) -> None:
    agents = authority(NatsAuthority(tmp_path))

    first, again, next_launch = (read_credentials(agents.mint("agt_x", n, 10 * LONGEST_TTL_S)) for n in (1, 1, 2))

    assert first.key.public == again.key.public != next_launch.key.public
    assert first.claims.exp - first.claims.iat == LONGEST_TTL_S
    assert first.claims.nats["type"] == "user"
    assert not {"pub", "sub", "permissions"} & set(first.claims.nats)  # they are the signing key's


def test_keys_are_made_once_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    first, second = NatsAuthority(tmp_path), NatsAuthority(tmp_path)

    assert first.account == second.account
    assert first.signing(Role.AGENT).public == second.signing(Role.AGENT).public
    first.credentials_file(Role.GUARDIAN)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 14
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_an_account_is_written_anew_only_when_its_roles_changed_and_keeps_its_revocations(tmp_path: Path) -> None:
    trust, accounts = NatsAuthority(tmp_path / "identity"), tmp_path / "accounts"
    trust.write_accounts(accounts)
    before = (accounts / f"{trust.account}.jwt").read_text()
    trust.write_accounts(accounts)
    assert (accounts / f"{trust.account}.jwt").read_text() == before

    (tmp_path / "identity" / "keys" / "role-guardian.nk").unlink()  # how a role's credentials are taken away
    again = NatsAuthority(tmp_path / "identity")
    again.write_accounts(accounts)
    old, new = read_claims(before), account_on_disk(again, accounts)
    keys = [{scope["key"] for scope in claims.nats["signing_keys"]} for claims in (old, new)]
    assert keys[0] - keys[1] == {trust.signing(Role.GUARDIAN).public}

    (accounts / f"{again.account}.jwt").write_text("torn")
    again.write_accounts(accounts)
    assert account_on_disk(again, accounts).sub == trust.account


def test_a_revocation_is_kept_as_long_as_something_it_voids_could_be_good() -> None:
    assert still_needed({"U1": 100, "U2": 99, "*": 1}, at=100) == {"U1": 100, "*": 1}


def test_half_an_authority_is_refused_naming_what_belongs_together() -> None:
    with pytest.raises(ValidationError, match="MUSTER_NATS_OPERATOR_SEED"):
        AuthoritySettings(nats_url="nats://x", nats_account="A")  # pyright: ignore[reportArgumentType]
