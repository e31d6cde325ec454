"""Types of the fields that many requests share."""

import re
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic_core import CoreSchema

T = TypeVar("T")
UUID_FORM = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class WireModel(BaseModel):
    """A request body: strict types (no `"1"` for 1), unknown fields ignored (http.md, 0)."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )


class QueryModel(BaseModel):
    """A query string: everything arrives as text, so types are read leniently."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


def parse_uuid(value: Any) -> UUID:
    """Read the canonical form only; `uuid.UUID` takes braces and urns too.

    Raises:
        ValueError: not a uuid.
    """
    if isinstance(value, UUID):
        return value
    if not isinstance(value, str) or not UUID_FORM.fullmatch(value):
        raise ValueError("must be a UUID")
    return UUID(value)


def refuse_null(value: Any) -> Any:
    """A field may be absent, but a null in its place is an error (http.md, 0)."""
    if value is None:
        raise ValueError("null is not allowed here; leave the field out")
    return value


class RefuseNull(BeforeValidator):
    """Refuses null, and says so in the JSON schema: the type alone, without a null beside it."""

    def __init__(self) -> None:
        super().__init__(refuse_null)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Take the null out of `anyOf`."""
        shown = dict(handler(schema))
        others = [one for one in shown.get("anyOf", []) if one != {"type": "null"}]
        if len(others) == 1:
            del shown["anyOf"]
            return {**others[0], **shown}
        return {**shown, "anyOf": others} if others else shown


def show_words(*words: str) -> WithJsonSchema:
    """Publish the words that mean something, of a text in which others are no error."""
    return WithJsonSchema({"type": "string", "enum": list(words)})


def read_flag(value: Any) -> bool:
    """Read 1, true, yes, on; anything else is false, as on the reference (http.md, 3.2)."""
    return str(value).lower() in {"1", "true", "yes", "on"}


Id = Annotated[UUID, BeforeValidator(parse_uuid)]
Maybe = Annotated[T | None, RefuseNull()]
"""Absent (None) or a T; never null."""
Object = dict[str, Any]
Flag = Annotated[bool, BeforeValidator(read_flag)]
Limit = Annotated[int, Field(ge=1, le=1000)]
Offset = Annotated[int, Field(ge=0, le=2**31 - 1)]
