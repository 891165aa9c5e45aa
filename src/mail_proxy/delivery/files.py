"""The attachments of one message: fetched together, all or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from mail_proxy.delivery.in_base64 import InBase64
from mail_proxy.delivery.needs import Needs
from mail_proxy.domain import attachment_auth
from mail_proxy.domain.attachment import Attachment, FetchMode, read_stored
from mail_proxy.domain.attempt import NotFetched
from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.download_link import DownloadLink
from mail_proxy.domain.json_text import from_text
from mail_proxy.domain.reply import printable
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.tenant import ClientAuth
from mail_proxy.ports.attachments import AttachmentSource, Fetched, FetchFailed, Wanted

AT_A_TIME = 8
"""Attachments of one message that are fetched together."""


@dataclass(slots=True)
class Files:
    """The bytes of all attachments of a message, in their order. `on_close` is called once, when they are given up."""

    contents: Sequence[Fetched | None] = ()
    """None where they are inline, and read with the message when it is sent."""
    links: Mapping[int, DownloadLink] = field(default_factory=dict)
    """What is sent instead of large ones, by position."""
    on_close: Callable[[], None] | None = None
    _closed: bool = field(default=False)

    def close(self) -> None:
        """Give them up."""
        if self._closed:
            return
        self._closed = True
        for each in self.contents:
            if each is not None:
                each.close()
        if self.on_close is not None:
            self.on_close()


def auths_of(needs: Needs, claimed: Claimed) -> Mapping[int, ClientAuth]:
    """Open the credentials of a message's attachments."""
    if claimed.sealed_auths is None:
        return {}
    place = attachment_auth.place_of(claimed.tenant_id, claimed.identity.mail_id)
    return attachment_auth.read(Secret(needs.cipher.open(claimed.sealed_auths, place)))


def attachments_of(needs: Needs, claimed: Claimed) -> Sequence[Attachment]:
    """Read what a claimed message has for attachments."""
    return read_stored(from_text(claimed.fields), auths_of(needs, claimed))


async def fetch_all(
    needs: Needs, claimed: Claimed, attachments: Sequence[Attachment], grown: Callable[[int], None]
) -> Files | NotFetched:
    """Fetch the attachments of a message that are elsewhere, or say which one cannot be had.

    Then the others are given up.
    """
    tenant = await needs.directory.tenant(claimed.tenant_id)
    if tenant is None:
        return NotFetched("the tenant is gone", permanent=False)
    fetched = _Fetching(needs.attachments, grown, [None] * len(attachments))
    try:
        async with anyio.create_task_group() as group:
            for n, attachment in enumerate(attachments):
                if attachment.fetch_mode is not FetchMode.BASE64:
                    wanted = Wanted(attachment, tenant, claimed.by_tenant)
                    group.start_soon(fetched.one, n, wanted, group.cancel_scope, name=f"attachment {n}")
        return fetched.result()
    except BaseException:
        fetched.give_up()
        raise


class _Fetching:
    """Attachments of one message that are fetched together."""

    def __init__(self, source: AttachmentSource, grown: Callable[[int], None], contents: list[Fetched | None]) -> None:
        self._source = source
        self._grown = grown
        self._contents = contents
        self._failures: list[NotFetched] = []
        self._bugs: list[Exception] = []
        self._places = anyio.Semaphore(AT_A_TIME)

    async def one(self, n: int, wanted: Wanted, others: anyio.CancelScope) -> None:
        """Fetch one; where that fails, the others are broken off."""
        async with self._places:
            try:
                self._contents[n] = await self._source.fetch(wanted, self._grown)
            except FetchFailed as error:
                text = printable(f"{wanted.attachment.filename}: {error.reason}")
                self._failures.append(NotFetched(text, error.permanent))
                others.cancel()
            except Exception as error:  # noqa: BLE001 - raised by `result`, by itself and not in a group
                self._bugs.append(error)
                others.cancel()

    def result(self) -> Files | NotFetched:
        """Return all of them, or why they cannot be had."""
        if self._bugs:
            raise self._bugs[0]
        if self._failures:
            self.give_up()
            return next((each for each in self._failures if each.permanent), self._failures[0])
        return Files(self._contents)

    def give_up(self) -> None:
        """Give up what has come."""
        for each in self._contents:
            if each is not None:
                each.close()


async def sources(
    needs: Needs, claimed: Claimed, attachments: Sequence[Attachment], files: Files | None
) -> Sequence[ByteSource] | NotFetched:
    """Return the attachments of a message in base64: what was fetched before and what is inline, but nothing linked."""
    tenant = await needs.directory.tenant(claimed.tenant_id) if attachments else None
    if attachments and tenant is None:
        return NotFetched("the tenant is gone", permanent=False)
    found: list[ByteSource] = []
    for n, attachment in enumerate(attachments):
        if files is not None and n in files.links:
            continue
        held = files.contents[n] if files is not None else None
        if held is None and tenant is not None:
            try:
                held = await needs.attachments.fetch(Wanted(attachment, tenant, claimed.by_tenant), lambda _size: None)
            except FetchFailed as error:
                return NotFetched(printable(f"{attachment.filename}: {error.reason}"), error.permanent)
        if held is not None:
            found.append(InBase64(held))
    return found
