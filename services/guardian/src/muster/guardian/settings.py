"""What the guardian is told by its environment."""

from typing import ClassVar

from pydantic import Field, field_validator

from muster.common.settings import Days, ServiceSettings

LEAST_KEPT_DAYS = 7
"""Longer than a sandbox lives: what was decided about one must be there as long as it runs."""


class GuardianSettings(ServiceSettings):
    """Each is `MUSTER_<NAME>`."""

    section: ClassVar[str] = "guardian"

    beat_ttl_running_s: float = Field(default=15.0, gt=0)
    """A running sandbox silent for this long is unresponsive: three beat intervals."""
    beat_ttl_idle_s: float = Field(default=30.0, gt=0)
    beat_ttl_starting_s: float = Field(default=60.0, gt=0)
    """From `opened` to the first sign of life: cloning and importing take their time."""
    gateway_alive_s: float = Field(default=5.0, gt=0)
    """Longer without a gateway's word, and the path was not up: everybody gets a full time to live again."""
    storm_share: float = Field(default=0.5, gt=0, le=1)
    """See `storm_at_least`."""
    storm_at_least: int = Field(default=5, ge=1)
    """More than this share of at least so many silent at once: held for one more time to live."""

    repeat_threshold: int = Field(default=4, ge=2)
    """The same action with the same result so many times in a row is a finding."""
    ignored_after: int = Field(default=3, ge=1)
    """Repeats after a message was seen that make it ignored."""
    most_interventions: int = Field(default=3, ge=0)
    """The guardian's own messages to one sandbox; later findings are only recorded."""
    message_ttl_s: float = Field(default=600.0, gt=0)
    """A message that no worker took by then expires."""

    lease_ttl_s: float = Field(default=5.0, gt=0)
    """How long a dead leader is waited for."""

    guardian_kept_days: Days = 400
    """Findings, interventions and what they rest on: stream `GUARDIAN`."""

    @field_validator("guardian_kept_days")
    @classmethod
    def _outlasts_a_sandbox(cls, days: int) -> int:
        if 0 < days < LEAST_KEPT_DAYS:
            raise ValueError(f"keep them for {LEAST_KEPT_DAYS} days or more, or for ever (0)")
        return days
