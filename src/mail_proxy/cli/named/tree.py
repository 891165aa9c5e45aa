"""The tree of commands: `mail-proxy COMMAND`, `mail-proxy NAME COMMAND`, `mail-proxy NAME TENANT COMMAND`.

What stands at NAME and TENANT is looked up when a command is resolved; the words of commands are none's names.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import click
from click.shell_completion import CompletionItem
from typing_extensions import override

from mail_proxy.cli.instances import InstanceError, every, existing, instance
from mail_proxy.cli.named.completion import account_ids, tenant_ids
from mail_proxy.cli.named.place import Place
from mail_proxy.cli.told import complain, ended
from mail_proxy.domain.tenant import id_problem
from mail_proxy.runtime import environment

MEASURES = "bench"
"""The one command whose word may be the id of a tenant."""
BEFORE_A_NAME = frozenset({"start", "stop", "restart", "status", "delete"})
"""Commands that have the name of an instance behind them."""
OTHER_WORDS = {"remove": "delete", "rm": "delete", "create": "add", "new": "add", "ls": "list"}
"""Words that other programs have for what is meant."""
SETTINGS: Mapping[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Commands(click.Group):
    """A group that suggests the nearest command for one that is not there."""

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            raise self.unknown(ctx, args[0])
        found = super().resolve_command(ctx, args)
        root = ctx.find_root().command
        if isinstance(root, Root):
            root.reached = f"{ctx.command_path} {found[0]}"
        return found

    def unknown(self, ctx: click.Context, word: str) -> click.UsageError:
        """Say that there is no such command."""
        commands = self.list_commands(ctx)
        meant = OTHER_WORDS.get(word)
        hint = f"; did you mean {meant}?" if meant in commands else _near(word, commands)
        return click.UsageError(f"there is no command {word!r}{hint}", ctx)


class Root(Commands):
    """`mail-proxy`: its own commands, and behind the name of an instance those of the instance."""

    def __init__(
        self,
        of_instance: Sequence[click.Command],
        of_tenant: Sequence[click.Command],
        **settings: Any,  # noqa: ANN401 - as click has them
    ) -> None:
        super().__init__(**settings)
        self.of_instance = of_instance
        self.of_tenant = of_tenant
        self.reached = "mail-proxy"

    @override
    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        if environment.current().get("NO_COLOR"):  # https://no-color.org
            extra["color"] = False
        return super().make_context(info_name, args, parent, **extra)

    @override
    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; wrong usage is told in one sentence, with exit code 2."""
        try:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.UsageError as error:
            if isinstance(error, _ASKS_FOR_HELP):
                error.show()
            else:
                _complain_of_usage(error, self.reached)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo(err=True)
            sys.exit(130)
        except BrokenPipeError:  # who reads has enough, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        try:
            chosen = existing(cmd_name, environment.current())
        except InstanceError:
            return None
        return OfInstance(Place(chosen), self.of_instance, self.of_tenant)

    @override
    def unknown(self, ctx: click.Context, word: str) -> click.UsageError:
        behind = ["NAME"] if word in {each.name for each in self.of_instance} else []
        behind += ["NAME TENANT"] if word in {each.name for each in self.of_tenant} else []
        if behind:
            meant = " or ".join(f"mail-proxy {each} {word}" for each in behind)
            return click.UsageError(f"{word!r} stands behind the name of an instance: {meant}", ctx)
        names = [each.name for each in every(environment.current())]
        commands = self.list_commands(ctx)
        near = get_close_matches(word, sorted({*commands, *names}), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        if not near or near[0] not in names:  # a command that looks alike is hardly meant by an instance's name
            with suppress(InstanceError):
                hint = f": mail-proxy start {instance(word, environment.current()).name} makes it{hint}"
        return click.UsageError(f"there is no command and no instance {word!r}{hint}", ctx)

    @override
    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = (each.name for each in every(environment.current()))
        return [*super().shell_complete(ctx, incomplete), *_beginning(names, incomplete, "instance")]


class OfInstance(Commands):
    """`mail-proxy NAME`."""

    def __init__(self, place: Place, own: Sequence[click.Command], of_tenant: Sequence[click.Command]) -> None:
        super().__init__(
            place.instance.name,
            commands=list(own),
            help=f"The instance {place.instance.name}. Behind the id of a tenant: the commands of that tenant, "
            f"`mail-proxy {place.instance.name} TENANT --help`.",
            subcommand_metavar="COMMAND | TENANT COMMAND …",
            context_settings={**SETTINGS, "obj": place},
        )
        self.place = place
        self.of_tenant = of_tenant

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # Load tools call their tenant so; a command of it has a word behind it, which the command has not.
        if args[0] == MEASURES and len(args) > 1 and not args[1].startswith("-"):
            return args[0], OfTenant(self.place.of_tenant(args[0]), self.of_tenant), args[1:]
        return super().resolve_command(ctx, args)

    @override
    def unknown(self, ctx: click.Context, word: str) -> click.UsageError:
        """Say which command is meant that stands before the name."""
        if word in BEFORE_A_NAME:
            name = self.place.instance.name
            return click.UsageError(f"there is no command {word!r}; did you mean: mail-proxy {word} {name}?", ctx)
        if word in {each.name for each in self.of_tenant}:
            meant = f"mail-proxy {self.place.instance.name} TENANT {word}"
            return click.UsageError(f"{word!r} stands behind the id of a tenant: {meant}", ctx)
        return super().unknown(ctx, word)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is not None or id_problem(cmd_name) is not None:
            return found
        return OfTenant(self.place.of_tenant(cmd_name), self.of_tenant)

    @override
    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        own = super().shell_complete(ctx, incomplete)
        return [*own, *_beginning(tenant_ids(self.place), incomplete, "tenant")]


class OfTenant(Commands):
    """`mail-proxy NAME TENANT`."""

    def __init__(self, place: Place, own: Sequence[click.Command]) -> None:
        super().__init__(
            place.tenant_id,
            commands=list(own),
            help=f"The tenant {place.tenant_id} of {place.instance.name}.",
            context_settings={**SETTINGS, "obj": place},
        )

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show no help of a tenant that is not there, as far as the others are known."""
        place = ctx.find_object(Place)
        if not args and place is not None and place.tenant_id is not None and ctx.parent is not None:
            ids = tenant_ids(replace(place, tenant_id=None))
            if (ids or place.database is not None) and place.tenant_id not in ids:
                known = (
                    [*ids, *ctx.parent.command.list_commands(ctx.parent)]
                    if isinstance(ctx.parent.command, click.Group)
                    else ids
                )
                sentence = f"{place.instance.name} has no command and no tenant {place.tenant_id!r}"
                raise click.UsageError(f"{sentence}{_near(place.tenant_id, known)}", ctx.parent)
        return super().parse_args(ctx, args)

    @override
    def unknown(self, ctx: click.Context, word: str) -> click.UsageError:
        """Say what is not there; what looks like a command was hardly meant for a tenant."""
        place, parent = ctx.find_object(Place), ctx.parent
        if place is not None and place.tenant_id is not None and parent is not None:
            commands = parent.command.list_commands(parent) if isinstance(parent.command, click.Group) else []
            near = get_close_matches(place.tenant_id, commands, 1, 0.75)
            if near:
                sentence = f"there is no command {place.tenant_id!r}; did you mean {near[0]}?"
                return click.UsageError(sentence, parent)
        return super().unknown(ctx, word)


_ASKS_FOR_HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""A group without a command; older releases of click have no error for it."""


def _complain_of_usage(error: click.UsageError, reached: str) -> None:
    path = reached if error.ctx is None else error.ctx.command_path
    complain(f"{ended(error.format_message())} See {path} --help")


def _near(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, sorted(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _beginning(names: Iterable[str], incomplete: str, what: str) -> list[CompletionItem]:
    return [CompletionItem(each, help=what) for each in names if each.startswith(incomplete)]


class AccountId(click.types.StringParamType):
    """The id of an account, which shells can complete."""

    @override
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        place = ctx.find_object(Place)
        return [] if place is None else _beginning(account_ids(place), incomplete, "account")


class TenantId(click.types.StringParamType):
    """The id of a tenant, which shells can complete."""

    @override
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        place = ctx.find_object(Place)
        return [] if place is None else _beginning(tenant_ids(place), incomplete, "tenant")
