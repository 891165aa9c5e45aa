"""What all answers have in common, and how a failure looks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Time = Annotated[float, Field(examples=[1785492000.25])]


class Answer(BaseModel):
    """Every answer is an object that says whether it went well."""

    model_config = ConfigDict(extra="forbid")

    ok: Literal[True] = Field(description="True.", examples=[True])


class ProblemOut(BaseModel):
    """One field that is wrong."""

    model_config = ConfigDict(extra="forbid")

    field: str = Field(description="Which one.", examples=["port"])
    problem: str = Field(description="What is wrong with it.", examples=["must be at most 65535"])


class Failure(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(extra="forbid")

    ok: Literal[False] = Field(description="False.", examples=[False])
    error: str = Field(description="One plain sentence for people.", examples=["There is no such tenant."])
    code: str = Field(description="A stable word for programs.", examples=["not_found"])
    detail: list[ProblemOut] | None = Field(None, description="With 422: every field that is wrong.")
    oldest_cursor: str | None = Field(
        None, description="With 410: the cursor from which on the feed can be read.", examples=["4711"]
    )


class Put(Answer):
    """Something was made or changed."""

    created: bool = Field(description="True: it was made. False: it was there, and was changed.", examples=[True])
