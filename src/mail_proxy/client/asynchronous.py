"""The client for asyncio. `synchronous.py` is made of this file by `tools/make_sync_client.py`; change this one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, cast
from uuid import uuid4

import httpx
from typing_extensions import Self

from .errors import ClientError, NoAnswer, Rejected
from .exchange import Call, NotReached, Patience, path, understand
from .values import (
    Account,
    Cleaned,
    Command,
    Deleted,
    Entry,
    Explanation,
    Fields,
    Instance,
    Message,
    Page,
    PastEvent,
    PriorityName,
    Receipt,
    Retried,
    State,
    Status,
    SyncStatus,
    Tenant,
    Tested,
)

TIMEOUT = 60.0
WAIT = 25.0
"""Seconds that a request for events waits where there is none."""


class AsyncMailProxyClient:
    """Speaks with one service by its API.

        async with AsyncMailProxyClient("http://127.0.0.1:8000", token) as proxy:
            await proxy.messages.add({"from": "a@acme.example", "to": "b@example.org", "subject": "Hi", "body": "Hi"})

    `tenant_id` says whose things are meant; with a tenant's token it is implied. A request that failed on its way is
    repeated where that is safe: `retries` times, with growing pauses. Everything raises `ClientError`.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        tenant_id: str | None = None,
        retries: int = 4,
        timeout: float = TIMEOUT,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """`http`: a client of yours, with certificates or proxies of yours; it stays open."""
        self.url = url.rstrip("/")
        self._headers = {"X-API-Token": token}
        self._patience = Patience(retries)
        self._owns_http = http is None
        self._http = http or httpx.AsyncClient(timeout=timeout)
        self._give_tenant(tenant_id)

    def _give_tenant(self, tenant_id: str | None) -> None:
        self.tenant_id = tenant_id
        self.messages = AsyncMessages(self)
        self.events = AsyncEvents(self)
        self.accounts = AsyncAccounts(self)
        self.tenants = AsyncTenants(self)
        self.command_log = AsyncCommandLog(self)

    def of_tenant(self, tenant_id: str) -> AsyncMailProxyClient:
        """Return a client of the same connections that means this tenant; for the admin token."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _owns_http=False)
        other._give_tenant(tenant_id)
        return other

    async def close(self) -> None:
        """End the connections."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def status(self) -> Status:
        """Return how the instance is doing; `pending_messages` are the tenant's, where one is meant."""
        return cast("Status", await self.ask(Call("GET", "/status", self.query())))

    async def settings(self) -> Instance:
        """Return every setting with its value and where that comes from; for the admin token, as what follows."""
        return cast("Instance", await self.ask(Call("GET", "/instance")))

    async def change(self, **fields: object) -> Instance:
        """Change what can be changed while it runs: `instance_name`, `scheduler_active`."""
        return cast("Instance", await self.ask(Call("PUT", "/instance", body=fields)))

    async def new_token(self) -> str:
        """Make a new admin token and return it, once; the old one, which this client has, ends at once."""
        return str((await self.ask(Call("POST", "/instance/api-token", repeats=False)))["api_token"])

    async def run_now(self) -> None:
        """Have it look at once for what is due, to send and to report."""
        await self.ask(Call("POST", "/commands/run-now", {"tenant_id": self.tenant_id}))

    async def suspend(self, batch_code: str | None = None) -> dict[str, Any]:
        """Hold the tenant, or one of its batches; with the admin token and no tenant, all sending."""
        return await self.ask(Call("POST", "/commands/suspend", self.query(batch_code=batch_code)))

    async def activate(self, batch_code: str | None = None) -> dict[str, Any]:
        """Free what was suspended."""
        return await self.ask(Call("POST", "/commands/activate", self.query(batch_code=batch_code)))

    async def ask(self, call: Call) -> dict[str, Any]:
        """Send a request, again where that is safe and may help, and return the fields of the answer."""
        attempt = 0
        while True:
            try:
                return await self._exchange(call)
            except ClientError as error:
                pause = self._patience.pause(call, attempt, error)
                if pause is None:
                    raise
            await asyncio.sleep(pause)
            attempt += 1

    async def listed(self, route: str, name: str, query: Mapping[str, Any]) -> AsyncIterator[Any]:
        """Go through what a list has under a name, page by page as they are taken."""
        cursor: str | None = None
        while True:
            answer = await self.ask(Call("GET", route, {**query, "cursor": cursor}))
            for each in answer[name]:
                yield each
            cursor = answer["next_cursor"]
            if cursor is None:
                return

    async def lines(self, call: Call) -> AsyncIterator[bytes]:
        """Go through the lines of an answer as they come. Raises `NoAnswer` where it is cut off before its end."""
        try:
            async with self._http.stream(*self._asked(call), **self._with(call)) as answer:
                if answer.status_code != 200:
                    understand(answer.status_code, answer.headers, await answer.aread())
                rest = b""
                async for piece in answer.aiter_bytes():
                    *whole, rest = (rest + piece).split(b"\n")
                    for line in whole:
                        yield line
        except httpx.RequestError as error:
            raise self._no_answer(error) from error

    async def _exchange(self, call: Call) -> dict[str, Any]:
        try:
            answer = await self._http.request(*self._asked(call), **self._with(call))
        except httpx.RequestError as error:
            raise self._no_answer(error) from error
        return understand(answer.status_code, answer.headers, answer.content)

    def _asked(self, call: Call) -> tuple[str, str]:
        return call.method, self.url + call.path

    def _with(self, call: Call) -> dict[str, Any]:
        return {"params": call.parameters, "json": call.body, "headers": self._headers}

    def _no_answer(self, error: httpx.RequestError) -> NoAnswer:
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
            return NotReached(f"{self.url} cannot be reached ({type(error).__name__}): is the service running?")
        return NoAnswer(f"{self.url} did not answer ({type(error).__name__})")

    def query(self, **query: object) -> Mapping[str, Any]:
        """Return a query about the tenant."""
        return {"tenant_id": self.tenant_id, **query}


class AsyncMessages:
    """Messages of a tenant."""

    def __init__(self, proxy: AsyncMailProxyClient) -> None:
        self._proxy = proxy

    async def add(
        self, *messages: Fields, default_priority: int | PriorityName | None = None, strict: bool = True
    ) -> Receipt:
        """Submit messages; when it returns they are written down.

        A message without `id` gets one, so that repeating the request never makes a second copy. `strict`: raise
        `Rejected` where one is not taken (the others are); else look at `rejected` in the receipt.
        """
        named = [{"id": uuid4().hex, **self._with_tenant(each)} for each in messages]
        body: dict[str, Any] = {"messages": named}
        if default_priority is not None:
            body["default_priority"] = default_priority
        receipt = cast("Receipt", await self._proxy.ask(Call("POST", "/commands/add-messages", body=body)))
        if strict and receipt["rejected"]:
            raise Rejected(receipt, named)
        return receipt

    def list(
        self,
        *,
        state: State | None = None,
        status: str | None = None,
        account_id: str | None = None,
        batch_code: str | None = None,
        page: int = 100,
        **others: object,
    ) -> AsyncIterator[Message]:
        """Go through messages, newest first, page by page as they are taken.

        `others`: `recipient`, `sender`, `subject`, `created_from`, `created_to`, as `GET /messages` takes them.
        """
        query = self._proxy.query(
            state=state, status=status, account_id=account_id, batch_code=batch_code, limit=page, **others
        )
        return self._proxy.listed("/messages", "messages", query)

    def pending(self) -> AsyncIterator[Message]:
        """Go through those that wait."""
        return self.list(state="waiting")

    def sent(self) -> AsyncIterator[Message]:
        """Go through those that were sent."""
        return self.list(state="sent")

    def errors(self) -> AsyncIterator[Message]:
        """Go through those that failed or expired."""
        return self.list(status="error")

    async def get(self, message_id: str) -> Message:
        """Return one message with the state of each recipient; raises `NotFound`."""
        return cast("Message", await self._one("", message_id))

    async def history(self, message_id: str) -> Sequence[PastEvent]:
        """Return what happened to a message, oldest first."""
        return cast("Sequence[PastEvent]", (await self._one("/events", message_id))["events"])

    async def explain(self, message_id: str) -> Explanation:
        """Return why a message has not been sent yet."""
        return cast("Explanation", await self._one("/explain", message_id))

    async def delete(self, *ids: str) -> Deleted:
        """Cancel what waits, and remove what is finished. Not repeated by itself: the second time it removes."""
        call = Call("POST", "/commands/delete-messages", self._proxy.query(), {"ids": ids}, repeats=False)
        return cast("Deleted", await self._proxy.ask(call))

    async def retry(self, *ids: str, **matching: object) -> Retried:
        """Send failed messages once more to those whom they failed to reach: by ids, or all that match (`state`, …)."""
        body = {"ids": ids} if ids else matching
        return cast(
            "Retried", await self._proxy.ask(Call("POST", "/commands/retry-messages", self._proxy.query(), body))
        )

    async def cleanup(self, older_than_seconds: float | None = None) -> Cleaned:
        """Remove what is finished and reported: what ended so long ago, or all of it."""
        body = {} if older_than_seconds is None else {"older_than_seconds": older_than_seconds}
        return cast(
            "Cleaned", await self._proxy.ask(Call("POST", "/commands/cleanup-messages", self._proxy.query(), body))
        )

    async def _one(self, what: str, message_id: str) -> dict[str, Any]:
        return await self._proxy.ask(Call("GET", path("/messages/{id}" + what, id=message_id), self._proxy.query()))

    def _with_tenant(self, message: Fields) -> Fields:
        tenant_id = self._proxy.tenant_id
        return message if tenant_id is None else {"tenant_id": tenant_id, **message}


class AsyncEvents:
    """What becomes of a tenant's messages, in order."""

    def __init__(self, proxy: AsyncMailProxyClient) -> None:
        self._proxy = proxy

    async def page(self, after: str | None = None, *, limit: int = 100, wait: float = 0) -> Page:
        """Return what follows on a cursor; with `wait`, an empty page only after so many seconds.

        Raises `Gone` where some of it was removed: go on at its `oldest_cursor`.
        """
        query = self._proxy.query(after=after, limit=limit, wait=wait)
        return cast("Page", await self._proxy.ask(Call("GET", "/events", query)))

    async def follow(self, after: str | None = None) -> AsyncIterator[Entry]:
        """Go through all events after a cursor, and wait for those that come; without an end.

        Keep the `event_id` of the last one that you have handled: it is the cursor to go on with after a restart.
        """
        while True:
            page = await self.page(after, limit=1000, wait=WAIT)
            for entry in page["events"]:
                yield entry
            if not page["events"] and page.get("too_many_wait"):
                await asyncio.sleep(1)
            after = page["next_cursor"]


class AsyncAccounts:
    """SMTP accounts of a tenant."""

    def __init__(self, proxy: AsyncMailProxyClient) -> None:
        self._proxy = proxy

    async def list(self) -> Sequence[Account]:
        """Return all accounts, oldest first."""
        return [each async for each in self.each()]

    def each(self, *, page: int = 1000) -> AsyncIterator[Account]:
        """Go through all accounts, oldest first, so many a request."""
        return self._proxy.listed("/accounts", "accounts", self._proxy.query(limit=page))

    async def get(self, account_id: str) -> Account:
        """Return one account; raises `NotFound`."""
        return cast("Account", await self._proxy.ask(self._about("GET", account_id)))

    async def put(self, account_id: str, **fields: object) -> bool:
        """Make an account (True) or change it (False): what is left out stays."""
        body = {"id": account_id, **fields}
        if self._proxy.tenant_id is not None:
            body["tenant_id"] = self._proxy.tenant_id
        return bool((await self._proxy.ask(Call("POST", "/account", body=body)))["created"])

    async def test(self, account_id: str) -> Tested:
        """Connect and log in, without a message, and say how far that came."""
        return cast("Tested", await self._proxy.ask(self._about("POST", account_id, "/test")))

    async def delete(self, account_id: str, *, force: bool = False) -> None:
        """Remove an account; with `force` its waiting messages are cancelled, else they are a `Conflict`."""
        call = Call("DELETE", path("/account/{id}", id=account_id), self._proxy.query(force=force))
        await self._proxy.ask(call)

    def _about(self, method: str, account_id: str, what: str = "") -> Call:
        return Call(method, path("/account/{id}" + what, id=account_id), self._proxy.query())


class AsyncTenants:
    """Tenants, for the admin token."""

    def __init__(self, proxy: AsyncMailProxyClient) -> None:
        self._proxy = proxy

    async def list(self) -> Sequence[Tenant]:
        """Return all tenants, by id."""
        return [each async for each in self.each()]

    def each(self, *, page: int = 1000) -> AsyncIterator[Tenant]:
        """Go through all tenants, by id, so many a request."""
        return self._proxy.listed("/tenants", "tenants", {"limit": page})

    async def get(self, tenant_id: str) -> Tenant:
        """Return one tenant; raises `NotFound`."""
        return cast("Tenant", await self._proxy.ask(Call("GET", path("/tenant/{id}", id=tenant_id))))

    async def add(self, tenant_id: str, **fields: object) -> str | None:
        """Make a tenant and return its token, which nothing can show again; or change it and return None."""
        answer = await self._proxy.ask(Call("POST", "/tenant", body={"id": tenant_id, **fields}, repeats=False))
        return cast("str | None", answer.get("api_key"))

    async def update(self, tenant_id: str, **fields: object) -> None:
        """Change a tenant: what is left out stays."""
        await self._proxy.ask(Call("PUT", path("/tenant/{id}", id=tenant_id), body=fields))

    async def delete(self, tenant_id: str, *, force: bool = False) -> None:
        """Remove a tenant with all its data; what is unfinished or unreported is a `Conflict`, unless `force`."""
        await self._proxy.ask(Call("DELETE", path("/tenant/{id}", id=tenant_id), {"force": force}, repeats=False))

    async def new_key(self, tenant_id: str) -> str:
        """Give a tenant a new token and return it, once; the old one ends at once."""
        call = Call("POST", path("/tenant/{id}/api-key", id=tenant_id), repeats=False)
        return str((await self._proxy.ask(call))["api_key"])

    def reporting(self) -> AsyncIterator[SyncStatus]:
        """Go through how reporting to each tenant goes, by id."""
        return self._proxy.listed("/tenants/sync-status", "tenants", {"limit": 1000})

    async def revoke_key(self, tenant_id: str) -> None:
        """End a tenant's token."""
        await self._proxy.ask(Call("DELETE", path("/tenant/{id}/api-key", id=tenant_id)))

    async def new_signing_secret(self, tenant_id: str) -> str:
        """Sign a tenant's reports with a new secret and return it, once; the one before it signs along for a day."""
        call = Call("POST", path("/tenant/{id}/signing-secret", id=tenant_id), repeats=False)
        return str((await self._proxy.ask(call))["signing_secret"])


class AsyncCommandLog:
    """Who asked for which change, for the admin token. Times are Unix seconds."""

    def __init__(self, proxy: AsyncMailProxyClient) -> None:
        self._proxy = proxy

    def list(self, *, page: int = 100, **filters: object) -> AsyncIterator[Command]:
        """Go through entries, newest first. `filters`: `tenant_id`, `since`, `until`, `method`, `route`."""
        return self._proxy.listed("/command-log", "entries", {**filters, "limit": page})

    async def export(self, **filters: object) -> AsyncIterator[bytes]:
        """Go through entries, oldest first, each as a line of JSON. Without `NoAnswer` these are all."""
        async for line in self._proxy.lines(Call("GET", "/command-log/export", filters)):
            yield line

    async def purge(self, until: float) -> int:
        """Remove all entries from before a time, and return how many they were."""
        removed = 0
        while True:
            answer = await self._proxy.ask(Call("DELETE", "/command-log", {"until": until}))
            removed += int(answer["removed"])
            if not answer["more"]:
                return removed
