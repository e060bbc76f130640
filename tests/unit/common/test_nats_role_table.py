"""The table of roles covers all contracts: a new contract needs a role that may use it."""

import importlib
import pkgutil

import pytest

import muster.common.bus.deadletters
import muster.common.contracts
from muster.common.agent_credentials.authority import TAKEN
from muster.common.contract import CONTRACTS, Command, wildcard
from muster.common.contracts.agents import RESERVED
from muster.common.nats_identity.roles import ROLES, NatsRole

for module in pkgutil.iter_modules(muster.common.contracts.__path__):
    importlib.import_module(f"muster.common.contracts.{module.name}")
assert muster.common.bus.deadletters  # This module defines a contract too.

WIRE = sorted(subject for subject, contract in CONTRACTS.items() if contract.__module__.startswith("muster."))


SOME = "agt_some"


def matches(pattern: str, subject: str) -> bool:
    """Return whether a right of the user `SOME` covers a contract's subject with `SOME` in all placeholders."""
    mine = pattern.replace("{{name()}}", SOME).split(".")
    theirs = wildcard(subject.replace("{service}", NatsRole.MANAGEMENT_API)).replace("*", SOME).split(".")
    if mine[-1] == ">":
        return len(theirs) >= len(mine) and all(a in ("*", b) for a, b in zip(mine[:-1], theirs, strict=False))
    return len(mine) == len(theirs) and all(a in ("*", b) for a, b in zip(mine, theirs, strict=True))


def who_may(act: str, subject: str) -> set[NatsRole]:
    roles = set(NatsRole) - {NatsRole.ADMIN}
    return {role for role in roles if any(matches(pattern, subject) for pattern in getattr(ROLES[role], act))}


@pytest.mark.parametrize("subject", WIRE)
def test_every_contract_has_a_sender_and_every_command_a_responder(subject: str) -> None:
    assert who_may("publish", subject)
    if issubclass(CONTRACTS[subject], Command):
        owners = who_may("subscribe", subject) & {
            *(
                NatsRole.AGENT_MANAGER,
                NatsRole.GUARDIAN,
                NatsRole.SANDBOX_GATEWAY,
                NatsRole.MANAGEMENT_API,
                NatsRole.AGENT,
            )
        }
        assert len(owners) == 1, f"{subject} is answered by {owners}: exactly one role owns a command"


@pytest.mark.parametrize("subject", [subject for subject in WIRE if ".event." in subject and "{" in subject])
def test_exactly_one_role_publishes_each_event(subject: str) -> None:
    assert len(who_may("publish", subject)) == 1


def test_observer_role_has_no_right_to_change_anything() -> None:
    rights = ROLES[NatsRole.OBSERVER].publish
    assert all(".query" in right or right.startswith("$SRV.") for right in rights)


def test_no_agent_can_have_the_name_of_another_role() -> None:
    assert set(NatsRole) | RESERVED <= TAKEN
    inboxes = {
        right for role in set(NatsRole) - {NatsRole.ADMIN} for right in ROLES[role].subscribe if "_INBOX" in right
    }
    assert inboxes == {"_INBOX.{{name()}}.>"}
