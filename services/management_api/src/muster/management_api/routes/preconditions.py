"""`If-Match`: a change says which version it was made from."""

import re

from starlette.requests import Request

from muster.common.faults import InvalidMessage, PreconditionFailed, PreconditionRequired

_OURS = re.compile(r'"([0-9]{1,9})"')
_ANY = re.compile(r'(W/)?"[!#-~]*"')
FIELD = "If-Match"


def if_match(request: Request) -> int | None:
    """The version that the request names; None for `*`.

    Raises `PreconditionRequired` without one, `PreconditionFailed` for one that no version of ours has.
    """
    given = request.headers.get("if-match", "").strip()
    if not given:
        raise PreconditionRequired("read it, and send the ETag of the answer back as If-Match", field=FIELD)
    if given == "*":
        return None
    if not _ANY.fullmatch(given):
        raise InvalidMessage("send one ETag, quotes included, that of the version you read", field=FIELD)
    if (found := _OURS.fullmatch(given)) is None:
        raise PreconditionFailed(f"no version has the ETag {given[:80]}; read it again", field=FIELD)
    return int(found[1])
