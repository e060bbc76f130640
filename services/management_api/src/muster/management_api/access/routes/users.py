"""The routes below `/api/v1/users`, which list, create, read, change and delete users."""

from typing import Annotated

from fastapi import Body, Query, Response

from muster.common.contracts.access import UserPage, UserView
from muster.common.contracts.access_bodies import NewUser, UserChange
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.domain.users import given_fields, refuse_built_in, refuse_provided
from muster.management_api.access.routes.authentication import Callers
from muster.management_api.access.routes.requires import requires
from muster.management_api.access.store.users import UserStore
from muster.management_api.http.application_parts import part
from muster.management_api.http.idempotency.requests import Idempotent
from muster.management_api.http.ids import UserId
from muster.management_api.http.openapi import BODY, LOCATION, refuses
from muster.management_api.http.queries import PageQuery
from muster.management_api.http.route import routes_of

USERS = "/api/v1/users"

Stored = Annotated[UserStore, part(UserStore)]
Reader = Annotated[Principal, requires("admin", "users:read")]
Writer = Annotated[Principal, requires("admin", "users:write")]

router = routes_of(USERS, "access")


@router.get("", responses=refuses(422))
async def list_users(query: Annotated[PageQuery, Query()], _: Reader, stored: Stored) -> UserPage:
    """List all users, newest first. `next_cursor` is the cursor of the next page."""
    return await stored.page(query.cursor, query.limit)


@router.post("", status_code=201, responses=BODY | {201: LOCATION})
async def create_user(
    new: Annotated[NewUser, Body(examples=[{"name": "Ada", "email": "ada@example.org", "role": "operator"}])],
    _: Writer,
    new_id: Idempotent,
    stored: Stored,
    response: Response,
) -> UserView:
    """Create a user. An admin then issues API keys for the user, which are the user's credentials."""
    user = await stored.add(new_id("usr"), name=new.name, email=new.email, role=new.role)
    response.headers["Location"] = f"{USERS}/{user.user_id}"
    return user


@router.get("/{user_id}", responses=refuses(404, 422))
async def get_user(user_id: UserId, _: Reader, stored: Stored) -> UserView:
    """Return one user of the API."""
    return await stored.get(user_id)


@router.patch("/{user_id}", responses=BODY | refuses(404))
async def change_user(
    user_id: UserId,
    change: Annotated[UserChange, Body(examples=[{"role": "viewer"}])],
    _: Writer,
    stored: Stored,
    callers: Annotated[Callers, part(Callers)],
) -> UserView:
    """Change the given fields of a user. Keys and tokens of a disabled user are refused at once."""
    refuse_built_in(user_id)
    user = await stored.get(user_id)
    refuse_provided(user.issuer, change, role_claimed=callers.role_claimed)
    return await stored.change(user_id, **given_fields(change))


@router.delete("/{user_id}", status_code=204, response_class=Response, responses=refuses(404, 409, 422))
async def delete_user(user_id: UserId, _: Writer, stored: Stored) -> None:
    """Delete a user and all keys of the user.

    A user of an identity provider is created again by the user's next token. Disable such a user instead.
    """
    refuse_built_in(user_id)
    await stored.remove(user_id)
