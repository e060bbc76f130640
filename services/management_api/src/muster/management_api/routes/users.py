"""`/api/v1/users`: who there is, and what they may."""

from collections.abc import Iterable

from starlette.responses import Response

from muster.common.contracts.identity import UserPage, UserView
from muster.common.ids import NewId
from muster.management_api.domain.users import NewUser, UserChange, UserQuery, refuse_built_in, refuse_provided
from muster.management_api.routes.answers import answer
from muster.management_api.routes.operation import Asked, Operation
from muster.management_api.store.paging import Place
from muster.management_api.store.users import Users as Stored

USERS, ONE = "/api/v1/users", "/api/v1/users/{user_id}"


class Users:
    """Users, for admins. `role_claimed`: the identity provider says what its users may."""

    def __init__(self, stored: Stored, *, new_id: NewId, role_claimed: bool) -> None:
        self._stored, self._new_id, self._role_claimed = stored, new_id, role_claimed

    def operations(self) -> Iterable[Operation]:
        """The table."""
        return [
            Operation("GET", USERS, self.list, "list-users", "Users, newest first", reply=UserPage),
            Operation(
                *("POST", USERS, self.add, "create-user", "A new user"),
                reply=UserView,
                status=201,
                refusals=(409,),
            ),
            Operation("GET", ONE, self.get, "get-user", "One user", reply=UserView),
            Operation(
                *("PATCH", ONE, self.change, "change-user", "Give a role, take it, disable"),
                reply=UserView,
                refusals=(409,),
            ),
            Operation(
                *("DELETE", ONE, self.remove, "delete-user", "Forget a user and end all its keys"),
                reply=(),
                status=204,
                refusals=(409,),
            ),
        ]

    async def list(self, asked: Asked[UserQuery, None]) -> Response:
        """Users, newest first; `next_cursor` continues."""
        after = Place.parse(asked.query.cursor) if asked.query.cursor else None
        users, place = await self._stored.page(after, asked.query.limit)
        return answer(UserPage(users=users, next_cursor=place.cursor() if place else None))

    async def add(self, asked: Asked[None, NewUser]) -> Response:
        """A user made here. It gets in by keys that are issued for it."""
        new = asked.body
        user = await self._stored.add(asked.mint("usr", self._new_id), name=new.name, email=new.email, role=new.role)
        return answer(user, 201, {"Location": f"{USERS}/{user.user_id}"})

    async def get(self, asked: Asked[None, None]) -> Response:
        """One user."""
        return answer(await self._stored.get(asked.id("user_id")))

    async def change(self, asked: Asked[None, UserChange]) -> Response:
        """Change what is said; what is absent stays. A disabled user's keys and tokens are refused at once."""
        user_id = asked.id("user_id")
        refuse_built_in(user_id)
        user = await self._stored.get(user_id)
        refuse_provided(user.issuer, asked.body, role_claimed=self._role_claimed)
        return answer(await self._stored.change(user_id, **asked.body.fields))

    async def remove(self, asked: Asked[None, None]) -> Response:
        """Forget a user. One of an identity provider is known again at the next sight: disable it instead."""
        user_id = asked.id("user_id")
        refuse_built_in(user_id)
        await self._stored.remove(user_id)
        return Response(status_code=204)
