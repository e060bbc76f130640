"""A list of sandboxes fits into one reply, for any number of sandboxes and errors."""

from datetime import UTC, datetime

from muster.common.bus.service import MAX_REPLY_BYTES
from muster.common.contract import encode
from muster.common.contracts.gateway import SandboxPage, SandboxView
from muster.common.contracts.limits import SHORT_TEXT
from muster.sandbox_gateway.sandboxes.handlers.queries import views_that_fit


def view(number: int, error: str | None) -> SandboxView:
    return SandboxView(
        sandbox_id=f"sbx_{number}",
        task_id="tsk_1",
        agent_id="agt_1",
        epoch=1,
        state="error",
        provider="local",
        isolation="plain",
        package="echo",
        model="none",
        created_at=datetime(2026, 11, 30, tzinfo=UTC),
        error=error,
    )


def test_list_of_five_thousand_sandboxes_with_long_errors_fits_into_one_reply() -> None:
    listed = views_that_fit(view(number, "é" * 100_000) for number in range(5_000))

    assert len(encode(SandboxPage(sandboxes=listed))) <= MAX_REPLY_BYTES
    assert [one.sandbox_id for one in listed] == [f"sbx_{number}" for number in range(len(listed))]
    assert len(listed) > 1_000
    assert {one.error for one in listed} == {"é" * (SHORT_TEXT - 1) + "…"}


def test_few_sandboxes_are_listed_with_complete_texts() -> None:
    few = [view(1, None), view(2, "no such model")]
    assert views_that_fit(few) == few
