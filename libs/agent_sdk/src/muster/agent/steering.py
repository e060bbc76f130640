"""Marks steering messages in a conversation. The gateway derives the receipts (recorded stages) from the marks."""

from muster.common.contracts.worker_api import InboxMessage

_SENDER = "muster:"


def sender(message: InboxMessage) -> str:
    """Return the `sender` of the MessageEvent that contains this steering message."""
    return _SENDER + message.message_id


def marked_text(message: InboxMessage) -> str:
    """Return the text for the model.

    The first line contains the message id, which the gateway finds in model requests.
    """
    return f"[{_SENDER}{message.message_id}]\n{message.text}"


def message_id(sender: str | None) -> str | None:
    """Return the id of the steering message from a MessageEvent's `sender`, or None for other messages."""
    return sender.removeprefix(_SENDER) if sender and sender.startswith(_SENDER) else None
