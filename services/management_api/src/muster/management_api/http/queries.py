"""The query parameters that routes of several features share, with their limits."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from muster.common.contracts.fields import NAME, UNSPACED
from muster.common.contracts.limits import DEFAULT_PAGE, LARGEST_PAGE, MOST_CURSOR_CHARS
from muster.common.storable_values import refuse_outside_calendar

_DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _refuse_numbers(value: str) -> str:
    """Return the text if it begins with a date, otherwise raise `ValueError`.

    Without this check pydantic would read a number as seconds.
    """
    if not _DATE.match(value):
        raise ValueError("the value must be a time such as 2026-01-31T12:00:00Z")
    return value


def unspaced(most: int) -> StringConstraints:
    """Return the constraint for a text of 1 to `most` printable ASCII characters without spaces."""
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
    """The query string of a request. An unknown query parameter is refused."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(Query):
    """The query parameters that select one page of a list."""

    cursor: Cursor | None = None
    limit: Page = DEFAULT_PAGE


class LabelQuery(PageQuery):
    """The query parameters that select one page of a list and filter the list by labels."""

    label: Labels = []

    @property
    def filters(self) -> dict[str, Any]:
        """The filters of the query. If the same label has two values, the last value is used."""
        return self.model_dump(exclude={"label"}) | {"labels": dict(label.split("=", 1) for label in self.label)}
