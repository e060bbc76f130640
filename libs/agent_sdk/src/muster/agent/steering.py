"""How a steering message is marked inside a conversation, so that its receipts can be read off the log."""

from muster.common.contracts.doors import InboxMessage

_SENDER = "muster:"


def sender(message: InboxMessage) -> str:
    """The `sender` of the MessageEvent that holds this message."""
    return _SENDER + message.message_id


def marked(message: InboxMessage) -> str:
    """The text as the model reads it; the first line is what the gateway looks for in a model request."""
    return f"[{_SENDER}{message.message_id}]\n{message.text}"


def message_id(sender: str | None) -> str | None:
    """The id behind a MessageEvent's `sender`, if it is a steering message at all."""
    return sender.removeprefix(_SENDER) if sender and sender.startswith(_SENDER) else None
