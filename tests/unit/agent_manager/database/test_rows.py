"""Statements and structs call a column by its key, whatever its name in the database is."""

import msgspec
import pytest
import sqlalchemy as sa

from muster.agent_manager.database import tables
from muster.agent_manager.database.rows import fields
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.store.launches import Launch
from muster.agent_manager.tasks.domain.attempts import AttemptRecord
from muster.agent_manager.tasks.domain.replacements import ReplacementSaga
from muster.agent_manager.tasks.domain.tasks import TaskRecord


@pytest.mark.parametrize(
    ("table", "struct"),
    [
        (tables.agents, AgentRecord),
        (tables.agent_launches, Launch),
        (tables.tasks, TaskRecord),
        (tables.attempts, AttemptRecord),
        (tables.replacements, ReplacementSaga),
    ],
)
def test_each_field_of_a_row_is_a_column(table: sa.Table, struct: type[msgspec.Struct]) -> None:
    assert set(struct.__struct_fields__) <= set(sa.select(*fields(table)).selected_columns.keys())


def test_columns_of_old_names_are_read_and_written_by_their_keys() -> None:
    read = str(sa.select(*fields(tables.agents)))
    written = str(sa.update(tables.agents).values(min_launch=1, deletions=2, cleanups=3))

    for name, key in {"wished_launch": "min_launch", "deaths": "deletions", "burials": "cleanups"}.items():
        assert f"{name} AS {key}" in read
        assert f"{name}=:{key}" in written
