"""The refusals of a model call. A status of 4xx is final, except 408, 409 and 429: a worker may try those again."""

from muster.common.faults import Fault


class ModelRefused(Fault):
    """The request is not valid: the provider refuses it, or the gateway does not pass it on. Final."""

    status, code = 400, "model_refused"


class ModelKeyRefused(Fault):
    """The provider refuses this deployment's key, or no key is set. Final."""

    status, code = 403, "model_key_refused"


class ModelUnknown(Fault):
    """No allowed provider has a model with this name. Final."""

    status, code = 404, "model_unknown"


class ModelTooSlow(Fault):
    """Too many calls in a row of this attempt timed out, so the gateway makes no more of them. Final."""

    status, code = 400, "model_too_slow"


class ModelFailed(Fault):
    """The provider failed in a way that no other fault describes. An operator may have to look at its error text."""

    status, code = 502, "model_failed"
