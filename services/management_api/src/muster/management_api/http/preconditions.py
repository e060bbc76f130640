"""The header `If-Match`: a request that changes an agent sends the version of the agent that the client has read."""

import re
from typing import Annotated

from fastapi import Depends, Header, Response

from muster.common.contracts.agents import AgentView
from muster.common.faults import PreconditionFailed

_OURS = re.compile(r'"([0-9]{1,9})"')
FIELD = "If-Match"
Given = Annotated[
    str,
    Header(
        alias=FIELD,
        pattern=r'^(\*|(W/)?"[!#-~]*")$',
        description="The `ETag` of the version that the client wants to change, or `*` for any version.",
        examples=['"3"'],
    ),
]


async def if_match(given: Given) -> int | None:
    """Return the version in the request's header `If-Match`; None for `*`.

    Raises `PreconditionFailed` for an ETag that no version of an agent has.
    """
    if given == "*":
        return None
    if (found := _OURS.fullmatch(given)) is None:
        raise PreconditionFailed(f"no version has the ETag {given[:80]}; read the agent again", field=FIELD)
    return int(found[1])


Version = Annotated[int | None, Depends(if_match)]


def versioned(view: AgentView, response: Response) -> AgentView:
    """Set the response's header `ETag` to the version of an agent (RFC 9110, 8.8.3), and return the agent's view."""
    response.headers["ETag"] = f'"{view.version}"'
    return view
