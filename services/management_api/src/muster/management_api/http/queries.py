"""Query parameters that several features share, with their bounds."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from muster.common.contracts.fields import NAME, UNSPACED
from muster.common.contracts.limits import DEFAULT_PAGE, LARGEST_PAGE, MOST_CURSOR_CHARS
from muster.common.storable import refuse_outside_calendar

_DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _refuse_numbers(value: str) -> str:
    """Return the text. Raises `ValueError` for a number, which pydantic would read as seconds since 1970."""
    if not _DATE.match(value):
        raise ValueError("must be a time such as 2026-01-31T12:00:00Z")
    return value


def unspaced(most: int) -> StringConstraints:
    """Return the constraint of a word of printable ASCII without spaces, at most `most` characters long."""
    return StringConstraints(min_length=1, max_length=most, pattern=UNSPACED)


Page = Annotated[int, Field(ge=1, le=LARGEST_PAGE)]
Cursor = Annotated[str, unspaced(MOST_CURSOR_CHARS)]
Name = Annotated[str, StringConstraints(pattern=NAME)]
Word = Annotated[str, unspaced(64)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
Label = Annotated[str, StringConstraints(pattern=r"^[^=\x00]+=[^\x00]*$", max_length=256)]
Start = Annotated[str, StringConstraints(pattern="^[ -.0-~]{1,64}$")]
Labels = Annotated[list[Label], Field(max_length=16, description="`key=value`; may be repeated.")]
Moment = Annotated[AwareDatetime, BeforeValidator(_refuse_numbers), AfterValidator(refuse_outside_calendar)]


class Query(BaseModel):
    """A query string. An unknown parameter is refused."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(Query):
    """Which page of a list to return."""

    cursor: Cursor | None = None
    limit: Page = DEFAULT_PAGE


class LabelQuery(PageQuery):
    """A page of entities with labels."""

    label: Labels = []

    @property
    def filters(self) -> dict[str, Any]:
        """Return every given parameter; of two values for one label the last counts."""
        return self.model_dump(exclude={"label"}) | {"labels": dict(label.split("=", 1) for label in self.label)}
