"""Names of attachments: made safe for whoever saves them, and written into headers (RFC 2183, RFC 2231)."""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST_OCTETS = 200
"""Octets of a name in UTF-8; file systems allow 255."""
UNNAMED = "attachment"

# What file systems or shells take for something else than a part of a name.
_UNSAFE = re.compile(r'["<>:|?*/\\]')
_PLAIN = re.compile(r"[A-Za-z0-9!#$&+,;=@~._()\[\] -]+\Z")
_JOINERS = "\u200c\u200d"
"""Not printable by themselves, and part of the spelling of some scripts and of emoji."""
_SAFE_OCTETS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`{}~")
# Devices that some systems see in a name, whatever stands behind its dot.
_DEVICES = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z)")
_LINE = 70

# Not the machine's table, so that all instances say the same.
_TYPES = {
    extension: media
    for media, extensions in {
        "application/epub+zip": "epub",
        "application/gzip": "gz tgz",
        "application/json": "json",
        "application/msword": "doc dot",
        "application/pdf": "pdf",
        "application/pkcs7-signature": "p7s",
        "application/postscript": "ps eps ai",
        "application/rtf": "rtf",
        "application/vnd.ms-excel": "xls",
        "application/vnd.ms-outlook": "msg",
        "application/vnd.ms-powerpoint": "ppt",
        "application/vnd.oasis.opendocument.presentation": "odp",
        "application/vnd.oasis.opendocument.spreadsheet": "ods",
        "application/vnd.oasis.opendocument.text": "odt",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
        "application/x-7z-compressed": "7z",
        "application/x-tar": "tar",
        "application/xml": "xml xsd xsl",
        "application/zip": "zip",
        "audio/mp4": "m4a",
        "audio/mpeg": "mp3",
        "audio/ogg": "oga ogg opus",
        "audio/x-wav": "wav",
        "image/avif": "avif",
        "image/bmp": "bmp",
        "image/gif": "gif",
        "image/heic": "heic",
        "image/jpeg": "jpg jpeg jpe",
        "image/png": "png",
        "image/svg+xml": "svg",
        "image/tiff": "tif tiff",
        "image/vnd.microsoft.icon": "ico",
        "image/webp": "webp",
        "text/calendar": "ics",
        "text/css": "css",
        "text/csv": "csv",
        "text/html": "html htm",
        "text/javascript": "js mjs",
        "text/markdown": "md",
        "text/plain": "txt log text",
        "text/tab-separated-values": "tsv",
        "text/vcard": "vcf",
        "video/mp4": "mp4 m4v",
        "video/mpeg": "mpeg mpg",
        "video/quicktime": "mov qt",
        "video/webm": "webm",
    }.items()
    for extension in extensions.split()
}
ANYTHING = "application/octet-stream"


def safe_name(given: str) -> str:
    """Return the last part of a path as a name that no file system, shell or header reads as anything else."""
    name = re.split(r"[/\\]", given.rstrip("/\\"))[-1]
    name = "".join(each for each in name if each.isprintable() or each in _JOINERS)
    name = _UNSAFE.sub("_", name).strip(" ").rstrip(". ")
    if not name.strip("."):
        return UNNAMED
    if _DEVICES.match(name):
        name = f"_{name}"
    return _shortened(name)


def _shortened(name: str) -> str:
    """Cut a name in its middle, so that its extension stays."""
    if len(name.encode("utf-8")) <= MOST_OCTETS:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode("utf-8")) > 20:
        stem, dot, extension = name, "", ""
    room = MOST_OCTETS - len((dot + extension).encode("utf-8"))
    return stem.encode("utf-8")[:room].decode("utf-8", "ignore").rstrip(". ") + dot + extension


def media_type(name: str) -> str:
    """Return the type that a name's extension stands for, `application/octet-stream` where it says nothing."""
    stem, _, extension = name.rpartition(".")
    return _TYPES.get(extension.lower(), ANYTHING) if stem else ANYTHING


def disposition(kind: str, name: str) -> str:
    """Write a Content-Disposition header with a name in any script, in lines that fit."""
    quoted = f'Content-Disposition: {kind}; filename="{name}"\r\n'
    if _PLAIN.match(name) and "=?" not in name:
        if len(quoted) <= 78:
            return quoted
        quoted = f'Content-Disposition: {kind};\r\n filename="{name}"\r\n'
        if len(name) + 12 <= 76:
            return quoted
    parts = list(_parts("utf-8''" + _percent(name)))
    if len(parts) == 1:
        return f"Content-Disposition: {kind};\r\n filename*={parts[0]}\r\n"
    lines = ";\r\n".join(f" filename*{n}*={part}" for n, part in enumerate(parts))
    return f"Content-Disposition: {kind};\r\n{lines}\r\n"


def http_disposition(name: str) -> str:
    """Write the value of an HTTP Content-Disposition header for a download (RFC 6266, appendix D)."""
    ascii_name = "".join(each if " " <= each <= "~" and each not in '"\\%' else "_" for each in name)
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{_percent(name)}"


def _percent(name: str) -> str:
    return "".join(chr(octet) if octet in _SAFE_OCTETS else f"%{octet:02X}" for octet in name.encode("utf-8"))


def _parts(text: str) -> Iterator[str]:
    """Divide a percent-encoded text to lines, never within an octet."""
    room = _LINE - len(" filename*00*=;")
    while len(text) > room:
        end = room
        if "%" in text[end - 2 : end]:
            end = text.rindex("%", 0, end)
        yield text[:end]
        text = text[end:]
    yield text
