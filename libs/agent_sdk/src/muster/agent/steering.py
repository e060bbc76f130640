"""Marks of steering messages inside a conversation. The gateway finds the marks, and derives the receipts from them."""

from muster.common.contracts.doors import InboxMessage

_SENDER = "muster:"


def sender(message: InboxMessage) -> str:
    """Return the `sender` of the MessageEvent that holds this steering message."""
    return _SENDER + message.message_id


def marked_text(message: InboxMessage) -> str:
    """Return the text for the model. Its first line holds the message id, which the gateway finds in model requests."""
    return f"[{_SENDER}{message.message_id}]\n{message.text}"


def message_id(sender: str | None) -> str | None:
    """Return the id of the steering message from a MessageEvent's `sender`; None for other messages."""
    return sender.removeprefix(_SENDER) if sender and sender.startswith(_SENDER) else None
