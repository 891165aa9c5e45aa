"""The ports that delivery works through."""

from __future__ import annotations

from dataclasses import dataclass

from mail_proxy.ports.attachments import AttachmentSource
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import Directory, Registry
from mail_proxy.ports.file_storage import FileLedger, Storages
from mail_proxy.ports.observers import Meter, Tracer
from mail_proxy.ports.queue import Queue
from mail_proxy.ports.report_sink import ReportSink
from mail_proxy.ports.secrets import Cipher
from mail_proxy.ports.transport import Transport


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
