"""Size limits count bytes as PostgreSQL returns them, because 64 KiB of numbers could become 3 MiB in a list."""

from typing import Any

import pytest

from muster.agent_manager.fleet.handlers.field_checks import refuse_large_config
from muster.agent_manager.tasks.handlers.submission import refuse_unfit
from muster.common.contracts.tasks import SubmitTask
from muster.common.faults import InvalidMessage


def task(metadata: dict[str, Any]) -> SubmitTask:
    return SubmitTask(task_id="tsk_1", objective="do it", metadata=metadata)


@pytest.mark.parametrize("number", [9e307, -9e307, 5e-324])
def test_numbers_that_postgresql_expands_count_with_all_their_digits(number: float) -> None:
    refuse_unfit(task({"few": [number] * 100}))
    with pytest.raises(InvalidMessage) as refused:
        refuse_unfit(task({"many": {"deep": [[number]] * 1_000}}))
    assert refused.value.field == "$.metadata"

    refuse_large_config({"few": [number] * 10})
    with pytest.raises(InvalidMessage) as refused:
        refuse_large_config({"many": [number] * 1_000})
    assert refused.value.field == "$.config"


def test_usual_numbers_count_as_they_are_written() -> None:
    refuse_unfit(task({"measured": [0.0, 1.5, -2.25, 1e15] * 1_500, "flag": True, "none": None}))
