"""The rules that refuse changes of users."""

import msgspec

from muster.common.contracts.access_bodies import UserChange
from muster.common.faults import Conflict
from muster.management_api.access.domain.principals import ADMIN_ID


def given_fields(change: UserChange) -> dict[str, object]:
    """Return the names and new values of the user's fields that the request changes."""
    fields = {name: getattr(change, name) for name in change.__struct_fields__}
    return {name: value for name, value in fields.items() if value is not msgspec.UNSET}


def refuse_built_in(user_id: str) -> None:
    """Raise `Conflict` for a change of the stack's administrator, who must always be able to create users."""
    if user_id == ADMIN_ID:
        raise Conflict("the stack's administrator cannot be changed; its key is set by MUSTER_ADMIN_KEY")


def refuse_provided(issuer: str | None, change: UserChange, *, role_claimed: bool) -> None:
    """Raise `Conflict` for a change that the user's next token of the identity provider would undo."""
    if issuer is None:
        return
    if change.name is not msgspec.UNSET or change.email is not msgspec.UNSET:
        raise Conflict("name and email of this user are set by the identity provider; change them there")
    if role_claimed and change.role is not msgspec.UNSET:
        raise Conflict("the role of this user is set by the identity provider; change it there", field="$.role")
