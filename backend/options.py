"""What a client may ask for when it submits a task, in addition to its arguments."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Self
from unicodedata import category

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    model_validator,
)

from backend.errors import YEAR

# The usual priority, and the highest one.
PRIORITY = 4
HIGHEST = 9
MAX_TAGS = 10
# The options that the ledger stores as JSON; it has columns for the others.
STORED_AS_JSON = frozenset({"priority", "countdown", "time_limit", "max_attempts", "tags"})

_ISO = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d(:?\d\d)?)")


def _iso(value: object) -> datetime:
    """Return the instant of a text. Raises ValueError if it is not ISO 8601 with an offset."""
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(UTC)
    if not (isinstance(value, str) and _ISO.fullmatch(value)):
        raise ValueError("must be ISO 8601 with Z or an offset, such as 2030-01-31T08:00:00Z")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not a date and time of the calendar") from None


def _printable(tag: str) -> str:
    """Return a tag. Raises ValueError for a blank one, control characters, lone surrogates."""
    if not tag.strip():
        raise ValueError("must not be blank")
    if any(category(letter) in {"Cc", "Cs"} for letter in tag):
        raise ValueError("must not have control characters")
    return tag


def _once(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tags, each once. Raises ValueError for more than MAX_TAGS."""
    once = tuple(sorted(set(tags)))
    if len(once) > MAX_TAGS:
        raise ValueError(f"must be at most {MAX_TAGS}")
    return once


def _no_truth_value(value: object) -> object:
    """Return a number as it is. Raises ValueError for true and false, which Pydantic accepts."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - Pydantic handles this one
    return value


_Number = BeforeValidator(_no_truth_value)


Priority = Annotated[
    int,
    Field(
        ge=0,
        le=HIGHEST,
        description="0 to 9; waiting tasks with the highest priority start first",
        examples=[9],
    ),
    _Number,
]
Countdown = Annotated[
    FiniteFloat,
    Field(ge=0, le=YEAR, description="Seconds from now until it may start", examples=[60]),
    _Number,
]
# ISO 8601 with Z or an offset; in UTC.
Instant = Annotated[datetime, BeforeValidator(_iso)]
Eta = Annotated[
    Instant,
    Field(
        description="When it may start: ISO 8601 with Z or an offset, at most a year ahead",
        examples=["2030-01-31T08:00:00Z"],
    ),
]
Expires = Annotated[
    FiniteFloat,
    Field(
        gt=0,
        le=YEAR,
        description="Seconds after the time from which it may start; then no attempt starts",
        examples=[600],
    ),
    _Number,
]
TimeLimit = Annotated[
    FiniteFloat,
    Field(
        gt=0, description="Seconds for each attempt; at most the task's own limit", examples=[30]
    ),
    _Number,
]
MaxAttempts = Annotated[
    int, Field(ge=1, description="At most the task's own number", examples=[3]), _Number
]
Tag = Annotated[
    str,
    StringConstraints(max_length=100),
    AfterValidator(_printable),
]
Tags = Annotated[
    tuple[Tag, ...],
    Field(description="Up to ten labels to find it by", examples=[["nightly"]]),
    AfterValidator(_once),
]


class Options(BaseModel):
    """The options of a submission. Limits that are not given are those that the task declares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    priority: Priority = PRIORITY
    countdown: Countdown = 0
    eta: Eta | None = Field(None, examples=["2030-01-31T08:00:00Z"])
    expires: Expires | None = Field(None, examples=[600])
    time_limit: TimeLimit | None = Field(None, examples=[30])
    max_attempts: MaxAttempts | None = Field(None, examples=[3])
    tags: Tags = ()

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.eta is None:
            return self
        if self.countdown:
            raise ValueError("give countdown or eta, not both")
        if (self.eta - datetime.now(UTC)).total_seconds() > YEAR:
            raise ValueError("eta must be at most a year ahead")
        return self

    def __bool__(self) -> bool:
        """Return whether anything differs from the defaults."""
        return bool(self.model_fields_set) and bool(self.given())  # the first one is faster

    @property
    def starts_later(self) -> bool:
        """Return whether the task has to wait for its start time."""
        return self.countdown > 0 or (self.eta is not None and self.eta > datetime.now(UTC))

    def given(self) -> dict[str, Any]:
        """Return what differs from the defaults, as values of JSON; equal for equal options."""
        return self.model_dump(mode="json", exclude_defaults=True)
