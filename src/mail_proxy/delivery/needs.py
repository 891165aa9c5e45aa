"""The ports that delivery works through."""

from __future__ import annotations

from dataclasses import dataclass

from mail_proxy.ports import (
    AttachmentSource,
    Cipher,
    Clock,
    Directory,
    FileLedger,
    Meter,
    Queue,
    Registry,
    ReportSink,
    Storages,
    Tracer,
    Transport,
)


@dataclass(frozen=True, slots=True)
class Needs:
    """What delivery is given by the composition root."""

    instance_id: str
    queue: Queue
    directory: Directory
    registry: Registry
    transport: Transport
    attachments: AttachmentSource
    ledger: FileLedger
    storages: Storages
    cipher: Cipher
    sink: ReportSink
    clock: Clock
    meter: Meter
    tracer: Tracer
