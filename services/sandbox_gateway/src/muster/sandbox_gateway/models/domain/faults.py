"""How a model call is refused. The status says whether trying again helps: 4xx other than 408, 409, 429 are final."""

from muster.common.faults import Fault


class ModelRefused(Fault):
    """This request can never work: the provider says so, or the gateway does not pass it on."""

    status, code = 400, "model_refused"


class ModelKeyRefused(Fault):
    """The provider refuses this deployment's key, or there is none: trying again changes nothing."""

    status, code = 403, "model_key_refused"


class ModelUnknown(Fault):
    """No provider that may be called has a model of that name: trying again changes nothing."""

    status, code = 404, "model_unknown"


class ModelTooSlow(Fault):
    """The model had no answer in time, too often in this attempt: the gateway asks it no more."""

    status, code = 400, "model_too_slow"


class ModelFailed(Fault):
    """The model's provider failed; a person may have to look."""

    status, code = 502, "model_failed"
