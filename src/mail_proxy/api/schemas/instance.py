"""The settings of the instance that answers, its encryption keys and its admin token."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mail_proxy.api.schemas.answer import Answer, Time


class SettingOut(BaseModel):
    """One setting."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Its name: in the environment in capitals, behind `GMP_`.", examples=["port"])
    value: bool | int | float | str | list[str | float] | None = Field(
        description="What holds now; null where nothing is set, and always for a secret.", examples=[8000]
    )
    secret: bool = Field(description="True: its value is never shown.", examples=[False])
    is_set: bool = Field(description="Whether there is a value.", examples=[True])
    source: str = Field(
        description="Where the value comes from: `environment`, `command line`, `config.toml`, `default`, `database` "
        "(changed while running), or the name of a file that holds nothing else.",
        examples=["environment"],
    )


class EncryptionOut(BaseModel):
    """The keys that the secrets in the database are sealed with. Their ids tell nothing about them."""

    model_config = ConfigDict(extra="forbid")

    key_id: str = Field(description="The key that this instance was given as its own.", examples=["9f2c61d0"])
    key_in_use: str = Field(
        description="The key that secrets are sealed with now: this instance's, once all instances have it.",
        examples=["9f2c61d0"],
    )
    old_keys: list[str] = Field(description="Keys of `GMP_ENCRYPTION_KEYS_OLD`.", examples=[["41b7e0aa"]])
    secrets_with_old_keys: int = Field(
        description="What this instance needs those for: 0 when they can be left out. The database itself counts as "
        "one.",
        examples=[0],
    )
    waits_for: list[str] = Field(
        description="Instances that have another key as their own: the change to this one waits for them.",
        examples=[[]],
    )


class InstanceAnswer(Answer):
    """The instance that answers, and its settings."""

    version: str = Field(description="The version of the software.", examples=["0.1.0"])
    instance_name: str = Field(description="The instance's name.", examples=["mail-proxy"])
    scheduler_active: bool = Field(description="False while the whole scheduler is suspended.", examples=[True])
    database: Literal["sqlite", "postgresql"] = Field(description="The kind of database.", examples=["sqlite"])
    workers: int = Field(description="Processes that answer on this address.", examples=[1])
    started_ts: Time = Field(description="When it started, in Unix seconds.")
    encryption: EncryptionOut = Field(description="How far a change of the encryption key has come.")
    settings: list[SettingOut] = Field(description="Every setting.")


class ApiTokenAnswer(Answer):
    """A new admin token."""

    api_token: str = Field(
        description="The token. Shown this once.", examples=["t5Y0bG3mZ6pVxq2LwKcR8nJdHfSaUeQi1oT7yXzA4vM"]
    )
