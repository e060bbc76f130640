"""The settings of the guardian, read from environment variables with the prefix `MUSTER_`."""

from typing import ClassVar

from pydantic import Field, field_validator

from muster.common.settings import Days, ServiceSettings

LEAST_KEPT_DAYS = 7
"""The shortest time for which records are kept. It exceeds the longest run of a sandbox, whose records are reread."""


class GuardianSettings(ServiceSettings):
    """The settings of one guardian process; each is read from the environment variable `MUSTER_<NAME>`."""

    section: ClassVar[str] = "guardian"

    beat_ttl_running_s: float = Field(default=15.0, gt=0)
    """Seconds of silence after which a running sandbox is unresponsive (three heartbeat intervals)."""
    beat_ttl_idle_s: float = Field(default=30.0, gt=0)
    """Seconds of silence after which an idle or waiting sandbox is unresponsive (three heartbeat intervals)."""
    beat_ttl_starting_s: float = Field(default=60.0, gt=0)
    """Seconds that a sandbox may take from `opened` to the first heartbeat or event, while the worker starts."""
    gateway_alive_s: float = Field(default=5.0, gt=0)
    """Seconds without a sign of life of any gateway after which the guardian restarts all silence timeouts."""
    storm_share: float = Field(default=0.5, gt=0, le=1)
    """Share of silent sandboxes above which each silent sandbox gets its timeout once more."""
    storm_at_least: int = Field(default=5, ge=1)
    """Minimum number of sandboxes for which the guardian applies `storm_share`."""

    repeat_threshold: int = Field(default=4, ge=2)
    """Number of equal actions with equal results in a row after which the guardian records a finding."""
    ignored_after: int = Field(default=3, ge=1)
    """Number of repetitions of an action after which a message that the agent has seen counts as `ignored`."""
    most_interventions: int = Field(default=3, ge=0)
    """Maximum number of the guardian's messages to one sandbox. Later findings are recorded without a message."""
    message_ttl_s: float = Field(default=600.0, gt=0)
    """Seconds after which a steering message expires if no worker has taken it."""

    lease_ttl_s: float = Field(default=5.0, gt=0)
    """Seconds without a renewal after which the lease of the leading guardian expires."""

    guardian_kept_days: Days = 400
    """Days for which the stream `GUARDIAN` keeps findings, interventions and the records that led to them."""

    @field_validator("guardian_kept_days")
    @classmethod
    def _outlasts_a_sandbox(cls, days: int) -> int:
        if 0 < days < LEAST_KEPT_DAYS:
            raise ValueError(f"guardian_kept_days must be at least {LEAST_KEPT_DAYS}, or 0 to keep records permanently")
        return days
