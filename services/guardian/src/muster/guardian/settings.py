"""The settings of the guardian, from environment variables with the prefix `MUSTER_`."""

from typing import ClassVar

from pydantic import Field, field_validator

from muster.common.settings import Days, ServiceSettings

LEAST_KEPT_DAYS = 7
"""Fewest days that records are kept: longer than a sandbox can run, because the guardian refolds its records."""


class GuardianSettings(ServiceSettings):
    """The settings of one guardian process. The field `name` is read from `MUSTER_NAME`."""

    section: ClassVar[str] = "guardian"

    beat_ttl_running_s: float = Field(default=15.0, gt=0)
    """Seconds of silence after which a running sandbox is unresponsive: three beat intervals."""
    beat_ttl_idle_s: float = Field(default=30.0, gt=0)
    """Seconds of silence after which an idle or waiting sandbox is unresponsive: three beat intervals."""
    beat_ttl_starting_s: float = Field(default=60.0, gt=0)
    """Seconds from `opened` to the first beat or event, in which the worker clones and imports."""
    gateway_alive_s: float = Field(default=5.0, gt=0)
    """Seconds without a message of any gateway after which all silence timeouts restart: the path was interrupted."""
    storm_share: float = Field(default=0.5, gt=0, le=1)
    """Share of sandboxes that may be silent at once before this is taken for a failure of the path."""
    storm_at_least: int = Field(default=5, ge=1)
    """Fewest sandboxes to which `storm_share` applies. In a storm, each silent sandbox gets its timeout once more."""

    repeat_threshold: int = Field(default=4, ge=2)
    """Equal actions with equal results in a row that are a finding."""
    ignored_after: int = Field(default=3, ge=1)
    """Repetitions of the action after a message was seen that make its outcome `ignored`."""
    most_interventions: int = Field(default=3, ge=0)
    """Most messages of the guardian to one sandbox. Later findings are recorded without a message."""
    message_ttl_s: float = Field(default=600.0, gt=0)
    """Seconds after which a message that no worker has taken expires."""

    lease_ttl_s: float = Field(default=5.0, gt=0)
    """Seconds after which the lease of a leader expires that does not renew it."""

    guardian_kept_days: Days = 400
    """Days for which the stream `GUARDIAN` keeps findings, interventions and the records that led to them."""

    @field_validator("guardian_kept_days")
    @classmethod
    def _outlasts_a_sandbox(cls, days: int) -> int:
        if 0 < days < LEAST_KEPT_DAYS:
            raise ValueError(f"keep the records for {LEAST_KEPT_DAYS} days or more, or without an end (0)")
        return days
