"""Values of the hot path."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeVar

    from typing_extensions import dataclass_transform

    ClassT = TypeVar("ClassT")

    @dataclass_transform(frozen_default=True, field_specifiers=(field,))
    def value(cls: type[ClassT]) -> type[ClassT]:
        """Make a class a frozen dataclass with slots, whose immutability the type checker sees to.

        To make one that refuses assignments at run time takes five times as long, and a message takes a dozen of them.
        """
        ...

else:
    value = dataclass(slots=True, unsafe_hash=True)
