"""Exception classes for refused model calls. A worker may repeat a call only after the statuses 408, 409, 429, 5xx."""

from muster.common.faults import Fault


class ModelRefused(Fault):
    """A model request is invalid: the provider refuses it, or the gateway does not send it. A retry fails too."""

    status, code = 400, "model_refused"


class ModelKeyRefused(Fault):
    """The model's provider refuses this deployment's API key, or no API key is set. A retry fails too."""

    status, code = 403, "model_key_refused"


class ModelUnknown(Fault):
    """No allowed provider has a model with the requested name. A retry fails too."""

    status, code = 404, "model_unknown"


class ModelTooSlow(Fault):
    """Too many model calls of an attempt timed out in a row, so the gateway makes no more calls for this attempt."""

    status, code = 400, "model_too_slow"


class ModelFailed(Fault):
    """A model provider failed in a way that no other fault describes. The fault contains the provider's error text."""

    status, code = 502, "model_failed"
