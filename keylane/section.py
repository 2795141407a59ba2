"""What sections of the settings are made of."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo

Seconds: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Number = TypeVar("Number", int, float)
Port: TypeAlias = Annotated[int, Field(ge=0, le=65535)]
#: The type of an error that a field has found, but that is one of the section it stands in.
ABOVE: Final = "above"


def at_least(value: Number, other: str, info: ValidationInfo) -> Number:
    # A bound that is wrong itself is missing here and reported on its own.
    if value < info.data.get(other, value):
        raise ValueError(f"should not be below {other} ({info.data[other]:g})")
    return value


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
