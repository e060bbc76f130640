"""Permissions of each role on a real NATS server: every listed right works, and every other one is refused."""

import re
from collections.abc import Iterator

import pytest

from muster.common.bus.connection import Incoming
from muster.common.bus.service import Service
from muster.common.contract import Command, Message
from muster.common.nats_identity.roles import ROLES, NatsRole
from tests.support.identity import IdentityServer, probing

NAMES = {**{role: str(role) for role in NatsRole}, NatsRole.AGENT: "agt_own"}
EXTRA_PUBLISH = (
    *("agent.agt_other.status", "agent.agt_other.metrics", "agent.agt_other.response", "agent.agt_other.command"),
    *("$JS.API.STREAM.DELETE.SANDBOX_LOG_00", "$JS.API.STREAM.PURGE.AUDIT", "$JS.API.STREAM.MSG.DELETE.AUDIT"),
    *("$JS.API.CONSUMER.CREATE.AUDIT", "$JS.API.STREAM.NAMES", "$JS.API.DIRECT.GET.KV_fence", "$KV.fence.sbx_x"),
    *("$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING", "stored.task.tsk_x.event.queued", "_INBOX.admin.x.y"),
)
EXTRA_HEAR = (
    *(">", "*", "agent.>", "agent.*.command", "agent.*.query", "agent.agt_other.command", "agent.agt_other.query"),
    *("agent.agt_other.status", "agent.manager.>", "task.>", "sandbox.>", "stored.>", "$JS.>", "$KV.>", "$SYS.>"),
    *(
        "_INBOX.>",
        "_INBOX.*.x",
        "_INBOX.agent_manager.>",
        "_INBOX.agt_other.>",
        "$JS.EVENT.>",
        "deadletter.*",
        "tool.x",
    ),
)


def allowed(role: NatsRole, act: str) -> list[str]:
    return [subject.replace("{{name()}}", NAMES[role]) for subject in getattr(ROLES[role], act)]


def concrete(pattern: str) -> str:
    """Return a subject that the pattern allows."""
    return ".".join({"*": "some", ">": "some.thing"}.get(part, part) for part in pattern.split("."))


def covers(pattern: str, subject: str) -> bool:
    """Return whether `pattern` covers every subject of `subject`; written independently of the tested code."""
    mine, theirs = pattern.split("."), subject.split(".")
    for place, part in enumerate(mine):
        if part == ">":
            return len(theirs) > place
        if place >= len(theirs) or theirs[place] == ">" or (part != "*" and part != theirs[place]):
            return False
    return len(mine) == len(theirs)


def everything(act: str) -> Iterator[str]:
    """Return a subject for every right of any role, and subjects that no role may use."""
    for role in NatsRole:
        yield from (concrete(pattern) for pattern in allowed(role, act) if pattern != ">")
    yield from EXTRA_PUBLISH if act == "publish" else EXTRA_HEAR


def forbidden(role: NatsRole, act: str) -> set[str]:
    return {subject for subject in everything(act) if not any(covers(each, subject) for each in allowed(role, act))}


@pytest.mark.parametrize("role", NatsRole)
async def test_role_has_exactly_the_permissions_of_its_row(identity_server: IdentityServer, role: NatsRole) -> None:
    async with probing(identity_server.url, identity_server.credentials(role, NAMES[role])) as probe:
        refused = await probe.refused_publishing(everything("publish"))
        unheard = await probe.refused_hearing({*everything("subscribe"), *allowed(role, "subscribe")})

    assert refused == forbidden(role, "publish")
    assert unheard == forbidden(role, "subscribe")
    assert role is NatsRole.ADMIN or (
        len(refused) > 100 and len(unheard) > 40
    )  # Neither of the compared sets is empty.


async def test_an_agent_reaches_nothing_of_another_agent_nor_of_jetstream(identity_server: IdentityServer) -> None:
    async with probing(identity_server.url, identity_server.credentials(NatsRole.AGENT, "agt_own")) as probe:
        said = {f"agent.{who}.{what}" for who in ("agt_other", "manager") for what in ("status", "response", "command")}
        reads = {"$JS.API.STREAM.MSG.GET.AGENT_LOGS", "$JS.API.DIRECT.GET.AGENT_LOGS", "$JS.ACK.AGENT_LOGS.x.1.1.1.1.1"}
        assert await probe.refused_publishing(said | reads) == said | reads

        heard = {"agent.agt_other.command", "agent.*.query", "agent.manager.response", "_INBOX.agt_other.x", "$JS.>"}
        assert await probe.refused_hearing(heard) == heard

        own = {"agent.agt_own.status", "agent.agt_own.metrics", "agent.agt_own.response", "tool.search"}
        assert await probe.refused_publishing(own) == set()


async def test_agent_may_answer_requests_and_receives_replies_in_its_own_inbox(identity_server: IdentityServer) -> None:
    async with identity_server.bus() as admin, identity_server.bus(NatsRole.AGENT, "agt_answers") as agent:

        async def answer(message: Incoming) -> None:
            await agent.send(message.reply, b"here")

        async def echo(message: Incoming) -> None:
            await admin.send(message.reply, message.data)

        await agent.subscribe("agent.agt_answers.query", answer)
        await agent.flush()
        assert (await admin.call("agent.agt_answers.query", b"", timeout_s=30)).data == b"here"

        # Replies to an agent's requests arrive in its own inbox, to which no other user may subscribe.
        await admin.subscribe("tool.echo", echo)
        await admin.flush()
        assert (await agent.call("tool.echo", b"mine", timeout_s=30)).data == b"mine"


class Probed(Message):
    n: int


class ProbeTool(Command[Probed], subject="tool.probe"):
    n: int


async def test_no_service_replies_to_a_subject_that_the_requesting_agent_may_not_publish(
    identity_server: IdentityServer,
) -> None:
    heard: list[str] = []

    async def hear(message: Incoming) -> None:
        heard.append(message.subject)

    async def answer(asked: ProbeTool) -> Probed:
        return Probed(n=asked.n)

    async with identity_server.bus() as admin, identity_server.bus(NatsRole.AGENT, "agt_asks") as agent:
        tool = Service("tool", admin)
        tool.handles(ProbeTool, answer)
        await admin.subscribe("agent.manager.command.*", hear)
        async with tool:
            await agent.send("tool.probe", b'{"n":1}', reply="agent.manager.command.delete")
            assert await agent.request(ProbeTool(n=2), timeout_s=30) == Probed(n=2)
        await admin.flush()
    assert heard == []


def test_no_role_but_the_owner_may_write_to_a_stream() -> None:
    """Only the owner of a stored subject may publish on it, by the table of roles."""
    owners = {
        "sandbox.00.sbx_x.log": {NatsRole.SANDBOX_GATEWAY},
        "task.tsk_x.event.queued": {NatsRole.AGENT_MANAGER},
        "agent.agt_x.event.started": {NatsRole.AGENT_MANAGER},
        "agent.agt_x.log": {NatsRole.AGENT_MANAGER},
        "guardian.log.sbx_x": {NatsRole.GUARDIAN},
        "audit.management_api.login": {NatsRole.MANAGEMENT_API},
        "$KV.fence.sbx_x": {NatsRole.SANDBOX_GATEWAY},
        "$KV.leases.guardian": {NatsRole.GUARDIAN},
        "$O.payloads.C.sbx_x.digest": {NatsRole.SANDBOX_GATEWAY},
    }
    for subject, owner in owners.items():
        may = {role for role in NatsRole if any(covers(pattern, subject) for pattern in allowed(role, "publish"))}
        assert may - {NatsRole.ADMIN} == owner, subject


def test_only_the_administrator_may_delete_stored_messages() -> None:
    destroys = re.compile(r"\$JS\.API\.(STREAM\.(DELETE|PURGE|MSG\.DELETE|RESTORE)|CONSUMER\.DELETE)")
    for role in set(NatsRole) - {NatsRole.ADMIN}:
        assert not [pattern for pattern in allowed(role, "publish") if destroys.match(pattern) or pattern == "$JS.>"]
