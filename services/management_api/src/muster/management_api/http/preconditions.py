"""`If-Match`: a change names the version that it was made from."""

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
        description="The `ETag` of the version that is to be changed, or `*` for any.",
        examples=['"3"'],
    ),
]


async def if_match(given: Given) -> int | None:
    """Return the version that the request names; None for `*`.

    Raises `PreconditionFailed` for an ETag that no version has.
    """
    if given == "*":
        return None
    if (found := _OURS.fullmatch(given)) is None:
        raise PreconditionFailed(f"no version has the ETag {given[:80]}; read it again", field=FIELD)
    return int(found[1])


Version = Annotated[int | None, Depends(if_match)]


def versioned(view: AgentView, response: Response) -> AgentView:
    """Set the response's `ETag` to the version of the view (RFC 9110, 8.8.3)."""
    response.headers["ETag"] = f'"{view.version}"'
    return view
