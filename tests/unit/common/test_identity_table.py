"""The table of roles against the wire: whoever adds a contract has to say who may use it."""

import importlib
import pkgutil

import pytest

import muster.common.bus.deadletters
import muster.common.contracts
from muster.common.contract import CONTRACTS, Command, wildcard
from muster.common.contracts.agents import RESERVED
from muster.common.identity.authority import TAKEN
from muster.common.identity.roles import ROLES, Role

for module in pkgutil.iter_modules(muster.common.contracts.__path__):
    importlib.import_module(f"muster.common.contracts.{module.name}")
assert muster.common.bus.deadletters  # it has a contract too

WIRE = sorted(subject for subject, contract in CONTRACTS.items() if contract.__module__.startswith("muster."))


SOME = "agt_some"


def matches(pattern: str, subject: str) -> bool:
    """Whether a right of somebody called `SOME` covers a contract's subject with that in all its places."""
    mine = pattern.replace("{{name()}}", SOME).split(".")
    theirs = wildcard(subject.replace("{service}", Role.MANAGEMENT_API)).replace("*", SOME).split(".")
    if mine[-1] == ">":
        return len(theirs) >= len(mine) and all(a in ("*", b) for a, b in zip(mine[:-1], theirs, strict=False))
    return len(mine) == len(theirs) and all(a in ("*", b) for a, b in zip(mine, theirs, strict=True))


def who_may(act: str, subject: str) -> set[Role]:
    roles = set(Role) - {Role.ADMIN}
    return {role for role in roles if any(matches(pattern, subject) for pattern in getattr(ROLES[role], act))}


@pytest.mark.parametrize("subject", WIRE)
def test_somebody_may_send_every_contract_and_a_command_has_who_answers(subject: str) -> None:
    assert who_may("publish", subject)
    if issubclass(CONTRACTS[subject], Command):
        owners = who_may("subscribe", subject) & {
            *(Role.AGENT_MANAGER, Role.GUARDIAN, Role.SANDBOX_GATEWAY, Role.MANAGEMENT_API, Role.AGENT)
        }
        assert len(owners) == 1, f"{subject} is answered by {owners}: exactly one role owns a command"


@pytest.mark.parametrize("subject", [subject for subject in WIRE if ".event." in subject and "{" in subject])
def test_exactly_one_role_tells_each_event(subject: str) -> None:
    assert len(who_may("publish", subject)) == 1


def test_who_may_only_look_has_no_right_to_anything_that_changes() -> None:
    rights = ROLES[Role.OBSERVER].publish
    assert all(".query" in right or right.startswith("$SRV.") for right in rights)


def test_no_agent_can_be_called_what_is_somebody_elses() -> None:
    assert set(Role) | RESERVED <= TAKEN
    inboxes = {right for role in set(Role) - {Role.ADMIN} for right in ROLES[role].subscribe if "_INBOX" in right}
    assert inboxes == {"_INBOX.{{name()}}.>"}
