"""The texts of a delivery (commit message and pull request), and the meaning of git's answer to a push."""

import re
from typing import Final

from muster.common.contracts.gateway import DeliverResult
from muster.common.faults import Fault, Forbidden, InvalidMessage, Unavailable
from muster.sandbox_gateway.repositories.domain.addresses import RemoteAddress
from muster.sandbox_gateway.repositories.domain.git_errors import told

BRANCH_FIELD: Final = "$.deliver.branch"
DELIVER_FIELD: Final = "$.deliver"
_MOST_CHARS = 30_000
_REFUSED = re.compile(
    r"returned error: 40[134]|denied|Authentication failed|could not read (Username|Password)|not found"
    r"|remote rejected|pre-receive hook declined|protected branch|not allowed to",
    re.IGNORECASE,
)
_PASSING = re.compile(r"remote rejected.*\((Internal Server Error|failed to update ref)\)", re.IGNORECASE)
"""Rejections by which a forge says that it has a fault itself."""
_MENTION = re.compile(r"@(?=[A-Za-z0-9])")


def marker(task_id: str) -> str:
    """Return the line that names the task in its commit and in its pull request."""
    return f"Muster-Task: {task_id}"


def commit_message(result: DeliverResult) -> str:
    """Return the message of the commit with a task's result."""
    return "\n\n".join(
        filter(None, [_line(result.title), result.summary.strip()[:_MOST_CHARS], marker(result.task_id)])
    )


def pull_request_title(result: DeliverResult) -> str:
    """Return the title of a task's pull request."""
    return _line(result.title)


def pull_request_text(result: DeliverResult) -> str:
    """Return the text of a task's pull request: the summary of the agent, and the output of the test command.

    The agent has written both, so mentions are changed in such a way that they notify nobody.
    """
    summary = result.summary.strip()[:_MOST_CHARS] or "The agent wrote no summary."
    validation = result.validation.strip()[-_MOST_CHARS:]
    fence = "`" * (3 + max((len(run) for run in re.findall("`{3,}", validation)), default=0))
    tested = f"**Validation**\n\n{fence}text\n{validation}\n{fence}" if validation else ""
    text = "\n\n".join(filter(None, [summary, tested, "---", marker(result.task_id)]))
    return _MENTION.sub("@\N{ZERO WIDTH SPACE}", text)


def push_error(said: str, address: RemoteAddress, branch: str, *, field: str | None = None) -> Fault:
    """Return the fault for a failed push: `Forbidden` with `field` without the right to push, else `Unavailable`."""
    text = told(said)
    if "stale info" in said or "cannot lock ref" in said:
        return Unavailable(f"the branch {branch} of {address.name} was changed meanwhile; it is compared again")
    if _REFUSED.search(said) and not _PASSING.search(said):
        return Forbidden(
            f"{address.host} refuses the push to the branch {branch} of {address.name}: {text}. Give the credential in "
            "git.toml the right to push, or choose another branch",
            field=field,
        )
    return Unavailable(f"{address.host} did not take the branch {branch} of {address.name}: {text}")


def branch_taken(repository: str, branch: str) -> InvalidMessage:
    """Return the refusal to overwrite a branch with commits of others."""
    return InvalidMessage(
        f"the repository {repository} has a branch {branch} with other commits; name another branch",
        field=BRANCH_FIELD,
    )


def _line(text: str) -> str:
    return " ".join(text.split())[:250] or "Result of a task"
