"""One cached response as one file: the body from the first byte on, then what is known about it, then a fixed footer.

The body comes first because it is written while it arrives, before anybody knows its length, and so that it can be sent
with offsets of its own. The footer comes last because a file that was cut short then has none:

    body | JSON document | length of the document, CRC-32 of it, 8 bytes of magic

Nothing else than the file tells what is cached: there is no index that could contradict it.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cdn.errors import DocumentError
from edge.http.caching import StoredHead
from edge.http.headers import Headers

MAGIC: Final = b"stratoc1"
_FOOTER: Final = struct.Struct("<II8s")
DOCUMENT_BYTES_MAX: Final = 1 << 18
_DOCUMENT: Final = "cache file"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a cache file says about its body.

    Args:
        key: what it is cached under; compared, so that no accident of naming serves one thing for another.
        head: status and fields.
        size: of the body in bytes.
        checksum: SHA-256 of the body in hex, where its name does not say its digest; else empty.
    """

    key: str
    head: StoredHead
    size: int
    checksum: str = ""

    def to_bytes(self) -> bytes:
        """What follows the body."""
        head = self.head
        document = {
            "key": self.key,
            "size": self.size,
            "checksum": self.checksum,
            "status": head.status,
            "headers": head.headers.pairs,
            "asked_at": head.asked_at,
            "answered_at": head.answered_at,
            "selecting": head.selecting,
        }
        data = _document(document)
        return data + _FOOTER.pack(len(data), zlib.crc32(data), MAGIC)


def _document(document: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(document, enc_hook=str)  # names of fields may be of a kind of `str`
    except UnicodeEncodeError:  # a field that is no UTF-8, which only the slow encoder can write
        return json.dumps(document, separators=(",", ":")).encode()


def _parsed(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except ValueError:
        return json.loads(data)


def read_facts(descriptor: int) -> FileFacts:
    """Reads what follows the body of an open cache file.

    Raises:
        DocumentError: it is damaged or cut short.
        OSError: it cannot be read.
    """
    file_size = os.fstat(descriptor).st_size
    start = file_size - _FOOTER.size
    footer = os.pread(descriptor, _FOOTER.size, start) if start >= 0 else b""
    if len(footer) != _FOOTER.size:
        raise DocumentError(_DOCUMENT, "it is too short")
    length, checksum, magic = _FOOTER.unpack(footer)
    if magic != MAGIC or length > min(DOCUMENT_BYTES_MAX, start):
        raise DocumentError(_DOCUMENT, "it has no footer")
    data = os.pread(descriptor, length, start - length)
    if zlib.crc32(data) != checksum:
        raise DocumentError(_DOCUMENT, "its document has another checksum")
    facts = parse_facts(data)
    if facts.size != start - length:
        raise DocumentError(_DOCUMENT, "its body has another size")
    return facts


def parse_facts(data: bytes) -> FileFacts:
    """Reads the JSON document of a cache file.

    Raises:
        DocumentError: it is not of its form.
    """
    try:
        document = _parsed(data)
        head = StoredHead(
            status=int(document["status"]),
            headers=Headers.of((str(name), str(value)) for name, value in document["headers"]),
            asked_at=float(document["asked_at"]),
            answered_at=float(document["answered_at"]),
            selecting=tuple(
                (str(name), None if value is None else str(value)) for name, value in document["selecting"]
            ),
        )
        return FileFacts(str(document["key"]), head, int(document["size"]), str(document["checksum"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DocumentError(_DOCUMENT, f"its document is malformed ({type(error).__name__})") from error
