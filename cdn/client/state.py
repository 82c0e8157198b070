"""What a client remembers of a repository between runs: the last documents it verified (spec §8.3).

They keep a client from going back to an older revision after a restart, and let it read what is cached when no source
answers. They are written by atomic renames, under a lock, and never go back, whichever of several processes writes.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

from cdn.client.bootstrap import NOTHING_KNOWN, Authority, Known, Verified, verify
from cdn.errors import CdnError, DocumentError
from cdn.keyfiles import write_file
from cdn.manifest import NUMBER_MAX, Manifest
from cdn.signing import DOCUMENT_BYTES_MAX, SignedText, body_of
from cdn.telemetry import event
from cdn.trust import Breadcrumb
from cdn.whitelist import Whitelist

_Document = TypeVar("_Document")
_NEWEST: Final = "newest"
_DOCUMENTS: Final = ("manifest", "whitelist", "certificate")
_MODE: Final = 0o600


class RepositoryState:
    """The memory of one repository in a folder.

    Args:
        folder: made when needed.
        fqrn: the repository's name.
    """

    def __init__(self, folder: str | os.PathLike[str], fqrn: str) -> None:
        self.folder: Final = os.path.join(os.path.abspath(os.fspath(folder)), fqrn)
        self._fqrn = fqrn

    def known(self) -> Known:
        """What was believed before, as the documents kept say, or the note where one of them is damaged."""
        noted = self._noted()
        manifest, whitelist = self.manifest(), self._kept("whitelist", Whitelist.parse)
        return Known(
            noted.breadcrumb if manifest is None else Breadcrumb.of(manifest),
            noted.whitelist_created if whitelist is None else whitelist.created_at,
        )

    def manifest(self) -> Manifest | None:
        """The manifest kept, None if there is none that is whole; `last_verified` says whether it holds."""
        return self._kept("manifest", Manifest.parse)

    def _noted(self) -> Known:
        """What the note says; a damaged one is reported and counts as none."""
        try:
            text = self._read(_NEWEST).decode("ascii")
        except OSError:
            return NOTHING_KNOWN
        except ValueError:
            text = ""
        try:
            return _parse(text)
        except DocumentError as error:
            event("client.state.damaged", level="warning", repository=self._fqrn, reason=str(error))
            return NOTHING_KNOWN

    def _kept(self, name: str, parse: Callable[[bytes], _Document]) -> _Document | None:
        """A document kept, if it is whole; it was verified before it was written."""
        try:
            signed = SignedText.parse(name, self._read(name))
            signed.check_body()
            return parse(signed.body)
        except (OSError, CdnError):
            return None

    def remember(self, verified: Verified) -> None:
        """Notes what was verified, unless something newer is noted.

        That it cannot be noted is reported but no error: reading goes on without.
        """
        try:
            with self._locked():
                before = self.known()
                if before.breadcrumb is not None and before.breadcrumb.revision > verified.manifest.revision:
                    return
                created = max(before.whitelist_created, verified.whitelist.created_at)
                for name, content in zip(_DOCUMENTS, _contents(verified), strict=True):
                    write_file(f"{self.folder}/{name}", content, _MODE, replace=True)
                text = _text(Known(Breadcrumb.of(verified.manifest), created))
                write_file(f"{self.folder}/{_NEWEST}", text.encode(), _MODE, replace=True)
        except OSError as error:
            event("client.state.unusable", level="warning", repository=self._fqrn, reason=str(error))

    def last_verified(self, authority: Authority, *, now: float) -> Verified | None:
        """The documents noted last, verified once more; None if there are none, or they do not hold.

        That the whitelist expired meanwhile does not count: what was believed is still what it was.
        """
        try:
            manifest, whitelist, certificate = (self._read(name) for name in _DOCUMENTS)
            return verify(
                authority, manifest, whitelist, certificate, now=min(now, _still_valid(whitelist)), known=NOTHING_KNOWN
            )
        except OSError:
            return None
        except CdnError as error:
            event("client.state.damaged", level="warning", repository=self._fqrn, reason=str(error))
            return None

    def _read(self, name: str) -> bytes:
        with open(f"{self.folder}/{name}", "rb") as file:
            return file.read(DOCUMENT_BYTES_MAX + 1)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        fd = os.open(f"{self.folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _contents(verified: Verified) -> tuple[bytes, bytes, bytes]:
    return verified.manifest_bytes, verified.whitelist_bytes, verified.certificate_bytes


def _still_valid(whitelist: bytes) -> float:
    """A time at which the whitelist is not expired yet."""
    return Whitelist.parse(body_of(whitelist)).expires_at - 1


def _text(known: Known) -> str:
    crumb = known.breadcrumb.text if known.breadcrumb else ""
    return json.dumps({"breadcrumb": crumb, "whitelist_created": known.whitelist_created})


def _parse(text: str) -> Known:
    """Reads the note.

    Raises:
        DocumentError: it is none.
    """
    document: object = None
    with suppress(ValueError, RecursionError):
        document = json.loads(text)
    if not isinstance(document, dict):
        raise DocumentError("the note of the newest revision", "it is no JSON object")
    created, crumb = document.get("whitelist_created"), document.get("breadcrumb")
    if not isinstance(created, int) or not 0 <= created <= NUMBER_MAX or not isinstance(crumb, str):
        raise DocumentError("the note of the newest revision", "its fields are not of their kind")
    return Known(Breadcrumb.parse(crumb) if crumb else None, created)
