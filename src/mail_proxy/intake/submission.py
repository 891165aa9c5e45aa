"""The shape of a submission, as it is checked and as the API's documentation shows it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from mail_proxy.domain.attachment import MAX_ATTACHMENTS, MAX_NAME
from mail_proxy.domain.message import Priority
from mail_proxy.domain.submission import MAX_HEADERS, MAX_RECIPIENTS, MAX_SUBJECT

MAX_ID = 255
MAX_METADATA = 4096
"""Octets of the metadata as JSON without spaces, in UTF-8."""
MAX_ADDRESSES = 512 * 1024
"""Characters of one address field that is a text: a thousand addresses with their names."""

PriorityLabel = Literal["immediate", "high", "medium", "low"]
PriorityIn = Annotated[int, Field(ge=0, le=3)] | PriorityLabel
# Entries are looked at where they are read, which ends at the first that is wrong.
Mailboxes = (
    Annotated[str, Field(max_length=MAX_ADDRESSES)]
    | Annotated[list[SkipValidation[str]], Field(max_length=MAX_RECIPIENTS)]
)

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, validate_default=False)


class AttachmentAuthIn(BaseModel):
    """Credentials for the URL of one attachment. They are stored encrypted, and never shown."""

    model_config = _STRICT

    method: Literal["bearer", "basic"] = Field(description="How to log in.", examples=["bearer"])
    token: str | None = Field(None, description="For `bearer`.", examples=["ey…"])
    user: str | None = Field(None, description="For `basic`; without a colon.", examples=["us"])
    password: str | None = Field(None, description="For `basic`.", examples=["a password"])


class AttachmentIn(BaseModel):
    """One file to send along. A field that is null counts as absent."""

    model_config = _STRICT

    filename: str = Field(
        max_length=MAX_NAME,
        description="Its name. Paths, quotes and control characters are taken out; a marker `{MD5:…}` of 8 to 32 hex "
        "digits names the content, and goes as well.",
        examples=["invoice-1042.pdf"],
    )
    storage_path: str = Field(
        description="Where its bytes are: base64 of them (with or without `base64:` before it), a URL, a path, or "
        "parameters for the endpoint, as `fetch_mode` says.",
        examples=["base64:SGVsbG8="],
    )
    fetch_mode: Literal["base64", "http_url", "filesystem", "endpoint"] | None = Field(
        None,
        description="Without it: `base64` where `storage_path` begins with `base64:`, `http_url` for `http://` and "
        "`https://`, `filesystem` for `/`, else `endpoint`.",
        examples=["base64"],
    )
    mime_type: str | None = Field(
        None, description="`type/subtype`. Without it, by the name's extension.", examples=["application/pdf"]
    )
    content_md5: str | None = Field(
        None,
        description="32 hex digits. Other content is not sent. Wins over a marker in the name.",
        examples=["8b1a9953c4611296a827abf8c47804d7"],
    )
    content_sha256: str | None = Field(
        None,
        description="64 hex digits. Other content is not sent.",
        examples=["185f8db32271fe25f561a6fc938b2e264306ec304eda518007d1764826381969"],
    )
    auth: AttachmentAuthIn | None = Field(
        None, description="Credentials for a URL.", examples=[{"method": "bearer", "token": "ey…"}]
    )
    content_id: str | None = Field(
        None,
        description='A name without `<` and `>`, by which the HTML shows an image: `<img src="cid:logo">`.',
        examples=["logo"],
    )


class MessageIn(BaseModel):
    """One message to send. A field that is null counts as absent."""

    model_config = _STRICT

    id: str = Field(
        min_length=1,
        max_length=MAX_ID,
        description="Your id for the message, unique per tenant: printable, without `/`. Sending the same message "
        "with the same id again is safe. Goes out as `X-Genro-Mail-ID`.",
        examples=["order-1042-confirmation"],
    )
    tenant_id: str | None = Field(
        None,
        description="The tenant whose message this is. Implied by a tenant token; with the admin token needed unless "
        "there is one tenant only, or only one has the account named in `account_id`.",
        examples=["acme"],
    )
    account_id: str | None = Field(
        None,
        description="The SMTP account to send by. Default: the tenant's default account, else its only one.",
        examples=["main"],
    )
    from_: str = Field(
        alias="from",
        description="The author: `addr` or `Name <addr>`; a name with commas or other specials in quotation marks.",
        examples=["Acme Shop <shop@acme.example>"],
    )
    to: Mailboxes | None = Field(
        None,
        description=f"Recipients: a list, or one text with commas between them. At least one recipient is needed in "
        f"`to`, `cc` and `bcc`, and at most {MAX_RECIPIENTS} in all.",
        examples=[["Anna Rossi <anna@example.org>", "bob@example.net"]],
    )
    cc: Mailboxes | None = Field(
        None, description="Recipients of a copy, written like `to`.", examples=[["carla@example.org"]]
    )
    bcc: Mailboxes | None = Field(
        None,
        description="Recipients that no other recipient sees, written like `to`. Never on the wire.",
        examples=[["archive@acme.example"]],
    )
    subject: str | None = Field(
        None,
        max_length=MAX_SUBJECT,
        description="Required, unless there is `raw`: one line of text in any script.",
        examples=["Your order 1042"],
    )
    body: str | None = Field(
        None,
        description="The text of the message, of the kind that `content_type` says. Either this, or `text` or `html`.",
        examples=["Thank you for your order."],
    )
    content_type: Literal["plain", "html"] | None = Field(
        None, description="What `body` is; default `plain`.", examples=["plain"]
    )
    text: str | None = Field(
        None,
        description="The plain text, instead of `body`; with `html` as well the receiver's program chooses.",
        examples=["Thank you for your order."],
    )
    html: str | None = Field(
        None, description="The HTML, instead of `body`.", examples=["<p>Thank you for your <b>order</b>.</p>"]
    )
    reply_to: Mailboxes | None = Field(
        None, description="Where answers go: one address or several, written like `to`.", examples=["help@acme.example"]
    )
    return_path: str | None = Field(
        None,
        description="The envelope's sender, to which bounces go. Default: the address in `from`. Empty: the null "
        "sender, for messages that must not bounce.",
        examples=["bounces@acme.example"],
    )
    message_id: str | None = Field(
        None,
        description="The `Message-ID`, with or without angle brackets. Default: a new one.",
        examples=["<order-1042@acme.example>"],
    )
    headers: dict[str, SkipValidation[str]] | None = Field(
        None,
        max_length=MAX_HEADERS,
        description=f"Extra headers, at most {MAX_HEADERS}. Those that make up the message (From, To, Subject, Date, "
        "Content-*, MIME-*, Received, DKIM-*, …) are refused.",
        examples=[{"List-Unsubscribe": "<https://acme.example/unsubscribe/1042>"}],
    )
    attachments: list[AttachmentIn] | None = Field(
        None,
        max_length=MAX_ATTACHMENTS,
        description=f"Files to send along, at most {MAX_ATTACHMENTS}.",
        examples=[[{"filename": "hello.txt", "storage_path": "base64:SGVsbG8="}]],
    )
    raw: str | None = Field(
        None,
        description="Instead of `subject`, bodies, `headers`, `reply_to`, `message_id` and `attachments`: a complete "
        "message (RFC 5322) in base64, with padding and without line breaks. Sent byte for byte: only `Bcc` is taken "
        "out, and line ends are made CRLF. `from` (or `return_path`), `to`, `cc` and `bcc` are its envelope.",
        examples=["RnJvbTogc2hvcEBhY21lLmV4YW1wbGUNClN1YmplY3Q6IFlvdXIgb3JkZXINCg0KVGhhbmsgeW91Lg0K"],
    )
    priority: PriorityIn | None = Field(
        None,
        description="0 or `immediate`, 1 or `high`, 2 or `medium`, 3 or `low`. Default: the batch's, else the "
        "instance's, which is 2 unless it was set.",
        examples=["high"],
    )
    deferred_ts: float | None = Field(
        None, description="Not sent before this time: Unix seconds (not milliseconds).", examples=[1785492000]
    )
    expires_ts: float | None = Field(
        None,
        description="Not sent after this time, but reported as `expired`: Unix seconds (not milliseconds).",
        examples=[1785578400],
    )
    batch_code: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_ID,
        description="A campaign's id, for suspending and for filtering: printable.",
        examples=["newsletter-2026-07"],
    )
    metadata: dict[str, Any] | None = Field(
        None,
        description=f"Your own data, at most {MAX_METADATA} octets as JSON. Never sent; comes back in reports.",
        examples=[{"customer": 4711}],
    )


class BatchIn(BaseModel):
    """A request of `add-messages`. The messages are checked one by one: one that is wrong spoils no other."""

    model_config = _STRICT

    messages: list[SkipValidation[MessageIn]] = Field(description="The messages, taken or refused one by one.")
    default_priority: PriorityIn | None = Field(
        None, description="For messages that give no priority of their own.", examples=["medium"]
    )

    @property
    def priority(self) -> Priority | None:
        """The default priority as a number, or None where none was given."""
        return priority_of(self.default_priority)


def priority_of(value: int | str | None) -> Priority | None:
    """Read a checked priority, given as number or label."""
    if value is None:
        return None
    return Priority[value.upper()] if isinstance(value, str) else Priority(value)
