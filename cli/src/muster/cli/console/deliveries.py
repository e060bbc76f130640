"""Formats the delivery of a task's accepted result as one line of text."""

import msgspec

from muster.common.contracts.tasks import Delivery


def delivery_line(delivery: object) -> str:
    """Return the state of a delivery with its branch, commit and pull request; an empty string if there is none."""
    try:
        found = msgspec.convert(delivery, Delivery)
    except msgspec.ValidationError:
        return ""
    match found.state:
        case "pending":
            return f"accepted; the result is being delivered to the branch {found.branch}"
        case "delivered":
            commit = f" (commit {found.commit[:12]})" if found.commit else ""
            return f"delivered to the branch {found.branch}{commit}{f': {found.url}' if found.url else ''}"
        case "failed":
            return f"not delivered to the branch {found.branch}: {found.error}"
