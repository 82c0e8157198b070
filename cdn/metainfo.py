"""The metainfo object: who runs a repository and what it is for, as JSON (manifest key M, spec §2.1).

It informs people and decides nothing, so values of unexpected types are passed over; only text that is no JSON object
is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cdn.compression import decompress
from cdn.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]  # typeshed has it from 3.12 on

METAINFO_BYTES_MAX: Final = 1 << 20
_DOCUMENT: Final = "metainfo"


@dataclass(frozen=True, slots=True)
class Metainfo:
    """What a repository says about itself; empty strings where it says nothing.

    Args:
        administrator: a person.
        email: where to write to.
        organisation: who stands behind it.
        description: what it holds.
        url: where to read more.
        recommended_stratum0: URL of the publisher.
        recommended_stratum1s: URLs of replicas.
        custom: anything else, as JSON values.
    """

    administrator: str = ""
    email: str = ""
    organisation: str = ""
    description: str = ""
    url: str = ""
    recommended_stratum0: str = ""
    recommended_stratum1s: tuple[str, ...] = ()
    custom: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Metainfo:
        """Reads the text.

        Raises:
            DocumentError: it is too large or no JSON object.
        """
        if len(data) > METAINFO_BYTES_MAX:
            raise DocumentError(_DOCUMENT, f"it is larger than {METAINFO_BYTES_MAX} bytes")
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DocumentError(_DOCUMENT, "it is no JSON text") from error
        if not isinstance(values, dict):
            raise DocumentError(_DOCUMENT, "it is no JSON object")
        servers = values.get("recommended-stratum1s")
        custom = values.get("custom")
        return cls(
            **{
                name: _text(values.get(name))
                for name in ("administrator", "email", "organisation", "description", "url")
            },
            recommended_stratum0=_text(values.get("recommended-stratum0")),
            recommended_stratum1s=tuple(filter(None, map(_text, servers if isinstance(servers, list) else ()))),
            custom=custom if isinstance(custom, dict) else {},
        )

    @classmethod
    def from_object(cls, stored: Buffer) -> Metainfo:
        """Reads the object as it lies in a store: compressed.

        Raises:
            DocumentError: as `parse`, or it does not inflate.
        """
        return cls.parse(bytes(decompress(stored, size_max=METAINFO_BYTES_MAX, document=_DOCUMENT)))

    def to_bytes(self) -> bytes:
        """The text that is compressed and stored as an object of kind `Kind.METAINFO`."""
        values = {
            "administrator": self.administrator,
            "email": self.email,
            "organisation": self.organisation,
            "description": self.description,
            "url": self.url,
            "recommended-stratum0": self.recommended_stratum0,
            "recommended-stratum1s": list(self.recommended_stratum1s),
            "custom": dict(self.custom),
        }
        return (json.dumps(values, indent=2) + "\n").encode("ascii")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
