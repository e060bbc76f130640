"""Bodies of requests about users, and which changes of users are refused."""

from typing import Annotated

import msgspec

from muster.common.contracts.fields import storable
from muster.common.contracts.identity import Role
from muster.common.faults import Conflict
from muster.management_api.access.domain.principals import ADMIN_ID
from muster.management_api.http.bodies import RequestBody

PersonName = Annotated[str, storable(255)]
Email = Annotated[
    str,
    msgspec.Meta(
        min_length=3,
        max_length=255,
        pattern=r"^[^@\x00-\x20\x7f-\xa0]+@[^@\x00-\x20\x7f-\xa0]+$",
        description="must be an address such as ada@example.org",
    ),
]


class NewUser(RequestBody):
    """A user created here: a person without an identity provider, or a program. Keys are issued for it."""

    name: PersonName
    email: Email | None = None
    role: Role | None = None


class UserChange(RequestBody):
    """A change of a user; an absent field keeps its value."""

    name: PersonName | msgspec.UnsetType = msgspec.UNSET
    email: Email | msgspec.UnsetType | None = msgspec.UNSET
    role: Role | msgspec.UnsetType | None = msgspec.UNSET
    disabled: bool | msgspec.UnsetType = msgspec.UNSET

    @property
    def fields(self) -> dict[str, object]:
        """Return the given fields."""
        said = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in said.items() if value is not msgspec.UNSET}


def refuse_built_in(user_id: str) -> None:
    """Raise `Conflict` for the administrator of the stack, who must always be able to admit others."""
    if user_id == ADMIN_ID:
        raise Conflict("the stack's administrator cannot be changed; the setting MUSTER_ADMIN_KEY holds the key")


def refuse_provided(issuer: str | None, change: UserChange, *, role_claimed: bool) -> None:
    """Raise `Conflict` if the identity provider's next token would undo the change."""
    if issuer is None:
        return
    if change.name is not msgspec.UNSET or change.email is not msgspec.UNSET:
        raise Conflict("name and email of this user come from the identity provider; change them there")
    if role_claimed and change.role is not msgspec.UNSET:
        raise Conflict("the role of this user comes from the identity provider; change it there", field="$.role")
