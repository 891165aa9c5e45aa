"""The tables, once for both databases. Narrow rows change, wide rows don't.

Times are Unix seconds as double precision. Text states are the values of the domain's enums, so that an operator can
read a row. `migrations/` builds exactly this, which a test compares.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)

HAS_BODY = "finished_ts IS NOT NULL AND NOT body_removed"
IS_WAITING = "state IN ('held', 'ready', 'scheduled')"
"""SQLite takes a partial index only for a condition in the very words of the index."""
ANY_MESSAGE = "pk > 0"
ANY_EVENT = "event_id > 0"
POISON_BATCH = ""
"""In `suspended_batches`: what is held of a tenant because instances ended over it is to be put back."""

NAMING = {"ix": "ix_%(table_name)s_%(column_0_name)s", "uq": "uq_%(table_name)s_%(column_0_name)s"}
metadata = MetaData(naming_convention=NAMING)

Serial = BigInteger().with_variant(Integer, "sqlite")
"""A number that the database gives; on SQLite only INTEGER PRIMARY KEY is the row's own number."""

SEALED = {"sealed": True}
"""The `info` of a column whose texts are sealed: it is re-sealed when the encryption key changes."""
IDENTITY = {"tenants": ("id",), "accounts": ("tenant_id", "id"), "file_storages": ("tenant_id", "url")}
"""The columns that a sealed text is bound to, besides table and column; of a content, those of its message."""

settings = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

instances = Table(
    "instances",
    metadata,
    Column("id", Text, primary_key=True),
    Column("counter", BigInteger, nullable=False),
    Column("started_ts", Double, nullable=False),
    Column("key_id", Text),  # of the encryption key that it has as its own
)

sync_leases = Table(
    "sync_leases",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("instance_id", Text),  # who reports to the tenant now, or did last
    Column("token", Text),  # of its turn; NULL: nobody has it
    Column("told_by", Text),  # who handed on what follows
    Column("failures", Integer, nullable=False),
    Column("retry_at", Double),
    Column("quiet_until", Double),
    Column("synced_ts", Double),
    Column("due", Double),  # when the next sync was due
    Column("last_error", Text),  # why the last sync failed, if it did
    Column("place", Text),  # a mark of the endpoint that this is about
    Column("gone", Boolean, nullable=False, server_default=false()),  # which said that it is gone for good
)

tenants = Table(
    "tenants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("client_base_url", Text),
    Column("client_sync_path", Text, nullable=False),
    Column("client_attachment_path", Text, nullable=False),
    Column("client_auth", Text, info=SEALED),  # JSON
    Column("active", Boolean, nullable=False),
    Column("on_uncertain", Text, nullable=False),
    Column("api_key_hash", Text, unique=True),  # SHA-256 of the token
    Column("api_key_expires_at", Double),
    Column("suspended", Boolean, nullable=False),
    Column("created_ts", Double, nullable=False),
    Column("limit_per_hour", Integer),
    Column("limit_per_day", Integer),
    Column("signing", Text, info=SEALED),  # JSON
    Column("large_files", Text, info=SEALED),  # JSON
)

file_storages = Table(
    "file_storages",
    metadata,
    Column("pk", Serial, primary_key=True, autoincrement=True),
    Column("tenant_id", Text, nullable=False),  # which may be gone: its files still have to be removed
    Column("url", Text, nullable=False),
    Column("access", Text, nullable=False, info=SEALED),  # JSON: credentials, and the key of its links
    UniqueConstraint("tenant_id", "url", name="uq_file_storages"),
)

kept_files = Table(
    "kept_files",
    metadata,
    Column("pk", Serial, primary_key=True, autoincrement=True),
    Column("storage_pk", BigInteger, ForeignKey("file_storages.pk"), nullable=False),
    Column("key", Text, nullable=False),  # its name in the storage
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("state", Text, nullable=False),  # reserved, ready, doomed
    Column("until", Double, nullable=False),  # when the last of its links ends; else when somebody else may take it up
    Index("ix_kept_files_content", "storage_pk", "sha256"),
    Index("ix_kept_files_until", "until"),
)

file_links = Table(
    "file_links",
    metadata,
    Column("pk", Serial, primary_key=True, autoincrement=True),
    Column("file_pk", BigInteger, ForeignKey("kept_files.pk", ondelete="CASCADE"), nullable=False),
    Column("message_pk", BigInteger, nullable=False),  # which may be gone
    Column("message_ts", Double, nullable=False),
    Column("n", SmallInteger, nullable=False),
    Column("filename", Text, nullable=False),
    Column("mime_type", Text, nullable=False),
    Column("until", Double, nullable=False),
    Column("lifespan", Double),  # seconds after the first download
    Column("downloaded_ts", Double),
    UniqueConstraint("message_pk", "message_ts", "n", "file_pk", name="uq_file_links"),
    Index("ix_file_links_file", "file_pk"),
)

suspended_batches = Table(
    "suspended_batches",
    metadata,
    Column("tenant_id", Text, ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True),
    Column("batch_code", Text, primary_key=True),  # "", which is no batch's code: what is held as poison
    Column("ending", Boolean, nullable=False),  # activated; its held messages are being put back
)

accounts = Table(
    "accounts",
    metadata,
    Column("pk", Serial, primary_key=True, autoincrement=True),
    Column("tenant_id", Text, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("id", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("user", Text),
    Column("password", Text, info=SEALED),
    Column("auth", Text, nullable=False),
    Column("tls", Text, nullable=False),
    Column("verify_tls", Boolean, nullable=False),
    Column("ttl", Double, nullable=False),
    Column("max_connections", Integer, nullable=False),
    Column("batch_size", Integer),
    Column("on_uncertain", Text),
    Column("is_default", Boolean, nullable=False),
    Column("hold_reason", Text),
    Column("hold_since", Double),
    Column("created_ts", Double, nullable=False),
    Column("limit_per_minute", Integer),
    Column("limit_per_hour", Integer),
    Column("limit_per_day", Integer),
    Column("limit_behavior", Text, nullable=False, server_default="defer"),
    Column("limited_until", Double),  # a rate limit lets nothing through before; of the account, not of its messages
    Column("limited_reason", Text),
    Column("fallback_account_id", Text),
    Column("oauth", Text, info=SEALED),  # JSON
    Column("host_by_tenant", Boolean, nullable=False, server_default=false()),
    Column("token_url_by_tenant", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("tenant_id", "id"),
    Index("ix_accounts_id", "id"),
    sqlite_autoincrement=True,
)

messages = Table(
    "messages",
    metadata,
    Column("pk", Serial, primary_key=True, autoincrement=True),
    Column("tenant_id", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("account_pk", BigInteger, nullable=False),
    Column("account_id", Text, nullable=False),  # stays readable when the account is gone
    Column("priority", SmallInteger, nullable=False),
    Column("batch_code", Text),
    Column("state", Text, nullable=False),
    Column("due", Double),
    Column("expires_ts", Double),
    Column("attempts", Integer, nullable=False),
    Column("token", Text),  # of the claim that holds it, or of the last one that a dead instance left
    Column("instance_id", Text),
    Column("digest", Text, nullable=False),
    Column("size", Integer, nullable=False),  # bytes of the submission, so that a claim can be bounded
    Column("reply", Text),
    Column("created_ts", Double, nullable=False),
    Column("first_attempt_ts", Double),
    Column("finished_ts", Double),
    Column("reported_ts", Double),
    Column("reserved", Boolean, nullable=False, server_default=false()),  # its claim counts for a rate limit
    Column("limit_told", Boolean, nullable=False, server_default=false()),  # that a limit holds it up was reported
    Column("crashes", Integer, nullable=False, server_default="0"),  # instances that ended while they sent it
    Column("body_removed", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("tenant_id", "id"),
    sqlite_autoincrement=True,
)

contents = Table(
    "contents",
    metadata,
    Column("message_pk", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("fields", Text, nullable=False),  # the submission, JSON
    Column("message_id", Text, nullable=False),
    Column("date", Double, nullable=False),
    Column("auths", Text, info=SEALED),  # credentials of attachments, JSON
    Column("by_tenant", Boolean, nullable=False, server_default=true()),  # it came with a tenant's token
)

recipients = Table(
    "recipients",
    metadata,
    Column("message_pk", BigInteger, primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("address", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text),  # NULL: the message's
    Column("reply", Text),
    Column("ts", Double),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    Column("event_id", Serial, primary_key=True, autoincrement=True),
    Column("tenant_id", Text, nullable=False),
    Column("message_pk", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("ts", Double, nullable=False),
    Column("entry", Text, nullable=False),  # the report's entry, JSON
    Column("reported_ts", Double),
    Column("left_behind", Boolean, nullable=False, server_default=false()),  # its message was removed by hand
    Index("ix_events_message", "message_pk"),
    sqlite_autoincrement=True,
)

feed_horizons = Table(
    "feed_horizons",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("event_id", BigInteger, nullable=False),  # the highest one that retention has removed
)

usage = Table(
    "usage",
    metadata,
    Column("scope", Text, primary_key=True),  # an account or a tenant, and the length of the window
    Column("until", Double, primary_key=True),  # when it leaves the window
    Column("used", Integer, nullable=False),  # SMTP transactions
    sqlite_with_rowid=False,
)

command_log = Table(
    "command_log",
    metadata,
    Column("pk", Serial, primary_key=True, autoincrement=True),
    Column("key", Text, nullable=False),  # the entry's own, to find it again after a lost answer
    Column("ts", Double, nullable=False),
    Column("by_admin", Boolean, nullable=False),
    Column("tenant_id", Text),  # no reference: the log outlives the tenant
    Column("method", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("status", Integer),
    Column("code", Text),
    Column("address", Text),
    Column("details", Text, nullable=False),  # JSON
    Index("ix_command_log_ts", "ts", "pk"),
    sqlite_autoincrement=True,
)


def _partial(name: str, table: Table, *columns: str, where: str) -> Index:
    condition = text(where)
    return Index(name, *(table.c[column] for column in columns), sqlite_where=condition, postgresql_where=condition)


_partial("ix_messages_ready", messages, "account_pk", "priority", "pk", where="state = 'ready'")
_partial("ix_messages_scheduled", messages, "priority", "due", where="state = 'scheduled'")
_partial("ix_messages_held", messages, "tenant_id", "batch_code", where="state = 'held'")
_partial(
    "ix_messages_sending",
    messages,
    *("instance_id", "tenant_id", "created_ts", "pk"),
    where="state = 'sending'",
)
_partial("ix_messages_expiring", messages, "expires_ts", where=f"expires_ts IS NOT NULL AND {IS_WAITING}")
_partial("ix_messages_reported", messages, "finished_ts", where="finished_ts IS NOT NULL AND reported_ts IS NOT NULL")
_partial(
    "ix_messages_unreported",
    messages,
    *("tenant_id", "finished_ts"),
    where="finished_ts IS NOT NULL AND reported_ts IS NULL",
)
_partial("ix_messages_bodies", messages, "finished_ts", where=HAS_BODY)
_partial("ix_messages_reserved", messages, "tenant_id", "account_pk", where="reserved")
# By number, for what is done with a tenant's messages one after the other.
_partial("ix_messages_tenant", messages, "tenant_id", "pk", where=ANY_MESSAGE)
# The lists that `search.py` walks, newest first; what a tenant has is in the first two together. A condition that is
# true for every row keeps them out of other statements: where PostgreSQL thinks that a tenant has few messages, it
# would walk through them to find one by its id.
for _name, _columns, _where in (
    ("unfinished", (), "finished_ts IS NULL AND "),
    ("finished", ("state",), "finished_ts IS NOT NULL AND "),
    ("account", ("account_id",), ""),
    ("batch", ("batch_code",), "batch_code IS NOT NULL AND "),
):
    _partial(
        f"ix_messages_list_{_name}",
        messages,
        *("tenant_id", *_columns, "created_ts", "pk"),
        where=f"{_where}{ANY_MESSAGE}",
    )
# finished_ts, always NULL here, lets SQLite count without looking at the rows
_partial(
    "ix_messages_unfinished",
    messages,
    *("account_pk", "batch_code", "finished_ts"),
    where="finished_ts IS NULL",
)
# few messages have credentials: they are found without a look at all the others
_partial("ix_contents_auths", contents, "message_pk", where="auths IS NOT NULL")
_partial("ix_events_unreported", events, "tenant_id", "event_id", where="reported_ts IS NULL")
# The feed; for no other statement, see above.
_partial("ix_events_feed", events, "tenant_id", "event_id", where=ANY_EVENT)
_partial("ix_events_left_told", events, "ts", where="left_behind AND reported_ts IS NOT NULL")
_partial("ix_events_left_untold", events, "tenant_id", "ts", where="left_behind AND reported_ts IS NULL")
_partial("ix_command_log_tenant", command_log, "tenant_id", "ts", "pk", where="tenant_id IS NOT NULL")
