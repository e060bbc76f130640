"""Agents' credentials are created for a launch and revoked at once and permanently, with several managers at work."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from muster.common.agent_credentials.authority import AgentAuthority
from muster.common.agent_credentials.revocations import UPDATE, Revoker
from muster.common.bus.connection import Bus, open_bus
from muster.common.faults import Fault, InvalidMessage
from muster.common.nats_identity.claims import read_claims, with_revocations
from muster.common.nats_identity.keys import new_key
from muster.common.settings import AuthoritySettings
from tests.support.eventually import eventually
from tests.support.identity import IdentityServer, is_let_in, probing
from tests.support.patience import PATIENCE_S
from tests.support.resolver_double import ResolverDouble, resolver_double


async def test_a_revoked_agent_is_cut_off_and_cannot_come_back_and_its_next_launch_can(
    identity_server: IdentityServer,
) -> None:
    loop, url = asyncio.get_running_loop(), identity_server.url
    async with AgentAuthority(identity_server.authority) as authority:
        revoked = authority.mint("agt_cut", 1, 600)
        async with probing(url, revoked) as probe, probing(url, authority.mint("agt_other", 1, 600)) as other:
            began = loop.time()
            await authority.revoke("agt_cut", 1)
            async with asyncio.timeout(PATIENCE_S):
                await probe.off.wait()
            # The client notices it within this time; the target is less than 1 s.
            print(f"cut off after {loop.time() - began:.3f} s")

            assert not await is_let_in(url, revoked)
            renewed = authority.mint("agt_cut", 1, 600)  # A manager without knowledge of the revocation sends this.
            assert not await is_let_in(url, renewed)
            assert await is_let_in(url, authority.mint("agt_cut", 2, 600))
            assert not other.off.is_set()

        await authority.revoke("agt_cut", 1)  # A second revocation changes nothing.


async def test_revocations_survive_a_restart_of_the_server(own_identity_server: IdentityServer) -> None:
    server = own_identity_server
    async with AgentAuthority(server.authority) as authority:
        gone, stays = authority.mint("agt_gone", 1, 600), authority.mint("agt_stays", 1, 600)
        await authority.revoke("agt_gone", 1)
        await server.kill()
        await server.start()
        assert not await is_let_in(server.url, gone)
        assert await is_let_in(server.url, stays)

        await authority.revoke("agt_stays", 1)  # over the connection after its reconnect
        assert not await is_let_in(server.url, stays)


async def test_server_that_lost_the_revocations_receives_them_again(
    own_identity_server: IdentityServer,
) -> None:
    server, operator = own_identity_server, own_identity_server.trust.operator_signing
    async with AgentAuthority(server.authority) as authority:
        await authority.revoke("agt_gone", 1)
        await server.kill()
        file = server.accounts / f"{server.trust.account}.jwt"
        account = read_claims(file.read_text())
        assert account.revocations
        file.write_text(with_revocations(operator, account, {}, at=account.iat + 1))
        await server.start()

        await eventually(lambda: is_let_in(server.url, authority.mint("agt_gone", 1, 600)), lambda let_in: not let_in)


async def test_concurrent_revocations_of_several_managers_are_all_kept(identity_server: IdentityServer) -> None:
    settings, launches = identity_server.authority, range(1, 13)
    async with AgentAuthority(settings) as one, AgentAuthority(settings) as two, asyncio.TaskGroup() as tasks:
        minted = [one.mint(f"agt_{who}", launch, 600) for who in ("one", "two") for launch in launches]
        for launch in launches:
            tasks.create_task(one.revoke("agt_one", launch))
            tasks.create_task(two.revoke("agt_two", launch))

    assert [text for text in minted if await is_let_in(identity_server.url, text)] == []


async def test_update_that_removes_a_revocation_is_repaired(identity_server: IdentityServer) -> None:
    settings, operator = identity_server.authority, identity_server.trust.operator_signing
    async with AgentAuthority(settings) as authority, identity_server.revoker() as stale:
        lookup = f"$SYS.REQ.ACCOUNT.{settings.nats_account}.CLAIMS.LOOKUP"
        before = read_claims((await stale.call(lookup, b"", timeout_s=PATIENCE_S)).data.decode())
        await authority.revoke("agt_undone", 1)

        update = with_revocations(operator, before, before.revocations, at=before.iat)
        await stale.call(UPDATE, update.encode(), timeout_s=PATIENCE_S)

        await eventually(
            lambda: is_let_in(identity_server.url, authority.mint("agt_undone", 1, 600)), lambda let_in: not let_in
        )


@asynccontextmanager
async def standing_in(nats_url: str) -> AsyncGenerator[tuple[ResolverDouble, Revoker, str, Bus]]:
    """Yield a double of the server, an authority that revokes there, and a revoked user."""
    async with (
        open_bus(nats_url, "server") as server,
        open_bus(nats_url, "authority") as bus,
        resolver_double(server) as double,
    ):
        revoker, user = double.revoker(bus), new_key("user").public
        async with revoker.watching(), asyncio.timeout(PATIENCE_S):
            await revoker.revoke(user, until=int(bus.now().timestamp()) + 600)
            yield double, revoker, user, server


async def test_temporarily_refused_revocation_is_sent_again(nats_url: str) -> None:
    """A server with a full disk refuses updates for some time."""
    async with standing_in(nats_url) as (double, revoker, _, _):
        double.refusals, another = 7, new_key("user").public
        with pytest.raises(Fault, match="no space left"):
            await revoker.revoke(another, until=2**40)
        await eventually(lambda: another in read_claims(double.obeyed).revocations)


async def test_update_applied_after_the_lookup_is_repaired(nats_url: str) -> None:
    """A busy server acknowledges an update before it applies the update."""
    async with standing_in(nats_url) as (double, _, user, server):
        undone, asked = double.without(), double.asked
        await server.send(UPDATE, undone.encode())
        await eventually(lambda: double.asked != asked)
        double.stored = double.obeyed = undone
        await eventually(lambda: user in read_claims(double.obeyed).revocations)


@pytest.mark.parametrize("where", ["stored", "obeyed"])
async def test_stored_claims_and_claims_in_effect_are_both_repaired(nats_url: str, where: str) -> None:
    """After two concurrent updates a server may store one and apply the other."""
    async with standing_in(nats_url) as (double, _, user, _):
        setattr(double, where, double.without())
        await eventually(lambda: all(user in read_claims(text).revocations for text in (double.stored, double.obeyed)))


@pytest.mark.parametrize(
    "agent_id", ["", "*", ">", "agt.x", "agt x", "a" * 65, "{{name()}}", "manager", "status", "agent_manager", "admin"]
)
async def test_no_credentials_for_a_name_that_matches_other_subjects(
    identity_server: IdentityServer, agent_id: str
) -> None:
    authority = AgentAuthority(identity_server.authority)
    with pytest.raises(InvalidMessage) as refused:
        authority.mint(agent_id, 1, 60)
    assert refused.value.field == "$.agent_id"
    with pytest.raises(InvalidMessage):
        await authority.revoke(agent_id, 1)


@pytest.mark.parametrize("public", ["*", "", "U", "A" * 56])
async def test_revocation_of_all_users_at_once_is_refused(identity_server: IdentityServer, public: str) -> None:
    async with AgentAuthority(identity_server.authority) as authority:
        with pytest.raises(InvalidMessage):
            await authority.revoke_user(public)


async def test_without_operator_settings_no_agent_credentials_are_created(nats_url: str) -> None:
    settings = AuthoritySettings(nats_url=nats_url)  # pyright: ignore[reportArgumentType]
    async with AgentAuthority(settings) as authority:
        assert authority.mint("agt_plain", 1, 60) == ""
        await authority.revoke("agt_plain", 1)
