"""What keeps a tenant or an account from being removed, while no force is asked for."""  # G9

from __future__ import annotations

from sqlalchemy import Connection, func, select

from mail_proxy.domain.account import Account
from mail_proxy.domain.backlog import MANY
from mail_proxy.domain.errors import Conflict
from mail_proxy.domain.message import MessageState
from mail_proxy.store.operation import Transaction
from mail_proxy.store.schema import events, messages
from mail_proxy.store.survey import count_unfinished


def refuse_while_untold(transaction: Transaction, tenant_id: str) -> None:
    """Raise `Conflict` while a tenant has unfinished messages or unreported events."""
    connection = transaction.connection
    unfinished = connection.execute(count_unfinished(transaction.dialect, tenant_id)).scalar_one()
    untold = select(events.c.event_id).where(events.c.tenant_id == tenant_id, events.c.reported_ts.is_(None))
    unreported = connection.execute(
        select(func.count()).select_from(untold.limit(MANY).subquery("untold"))
    ).scalar_one()
    if unfinished or unreported:
        raise Conflict(
            f"Tenant '{tenant_id}' has {_up_to_many(unfinished, 'message that is', 'messages that are')} not finished, "
            f"and {_up_to_many(unreported, 'event that was', 'events that were')} not reported: wait for them (where "
            "there is nobody to report to, cleanup-messages removes them), or delete it with force=true.",
            code="tenant_in_use",
        )


def _up_to_many(count: int, one: str, several: str) -> str:
    number = f"{MANY} or more" if count >= MANY else str(count)
    return f"{number} {one if count == 1 else several}"


def refuse_while_in_use(connection: Connection, account: Account) -> None:
    """Raise `Conflict` while messages wait for an account, or one is being sent."""
    unfinished = select(messages.c.state).where(messages.c.account_pk == account.pk, messages.c.finished_ts.is_(None))
    sending = messages.c.state == MessageState.SENDING.value
    if connection.execute(unfinished.where(~sending).limit(1)).first() is not None:
        raise Conflict(
            f"messages wait for account '{account.id}'; let them go out, or delete it with force=true",
            code="account_in_use",
        )
    if connection.execute(unfinished.limit(1)).first() is not None:
        raise Conflict(
            f"a message of account '{account.id}' is being sent at this moment; try again shortly",
            code="account_in_use",
        )
