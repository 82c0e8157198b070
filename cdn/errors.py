"""Every error that crosses a module border, in one tree.

The first level says *what kind of thing* went wrong, so that a caller can decide without reading the message:

- `UsageError`: what the user asked for makes no sense; nothing was tried.
- `DocumentError`: bytes from outside do not have the form they must have.
- `TrustError`: well-formed bytes that must not be believed.
- `StorageError`: an object store could not keep or find something.
- `TransportError`: a peer could not be asked or did not answer properly.
- `RepositoryError`: the operation is refused in the repository's present state.

A message is one sentence that names the thing and, where there is something to do, says what. `permanent` answers the
one question retry loops ask: can the same call succeed later? `exit_code` is what the command line returns.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

_LOGIN: Final = re.compile(r"(?<=://)[^/?#\s]*@")


def without_login(text: str) -> str:
    """The text with user name and password taken out of the URLs in it: what people and logs are shown."""
    return _LOGIN.sub("***@", text) if "@" in text else text


class CdnError(Exception):
    """The root of the tree; never raised itself."""

    permanent: ClassVar[bool] = True
    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return without_login(super().__str__())


# --------------------------------------------------------------------------------------------- what the user asked for


class UsageError(CdnError):
    """The request contradicts itself or names something that cannot be."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or variable has a mistake; the message names file, line where known, and key."""


# ------------------------------------------------------------------------------------------------------- hostile bytes


class DocumentError(CdnError):
    """Bytes that claim to be a document of the repository format are damaged.

    Args:
        document: what the bytes claim to be, e.g. ``manifest`` or ``catalog /software``.
        reason: what is wrong with them, without a final stop.
    """

    exit_code = 3

    def __init__(self, document: str, reason: str) -> None:
        super().__init__(f"{document} is damaged: {reason}")
        self.document = document
        self.reason = reason


class TrustError(CdnError):
    """A well-formed document that must not be believed."""

    exit_code = 4


class SignatureError(TrustError):
    """A signature does not verify with the key it must verify with."""


class ExpiredError(TrustError):
    """A document whose time has passed."""


class NameMismatchError(TrustError):
    """A document signed for another repository."""


class UntrustedCertificateError(TrustError):
    """A certificate that the whitelist does not list, or that a blacklist does."""


class RollbackError(TrustError):
    """A document older than one already believed."""


class BlacklistedRevisionError(RollbackError):
    """A revision older than a blacklist allows."""


class HashMismatchError(TrustError):
    """Content that does not have the digest it was asked for by.

    Args:
        name: what was asked for (an object path or a URL).
        actual: the digest text of what came instead.
    """

    def __init__(self, name: str, actual: str) -> None:
        super().__init__(f"{name} has wrong content: its digest is {actual}")
        self.name = name
        self.actual = actual


# ----------------------------------------------------------------------------------------------------- keeping objects


class StorageError(CdnError):
    """An object store could not do what it was asked."""

    permanent = False
    exit_code = 5


class ObjectMissingError(StorageError):
    """The store does not hold an object of this path."""

    permanent = True

    def __init__(self, path: str, where: str) -> None:
        super().__init__(f"{path} is not in {where}")
        self.path = path
        self.where = where


class StorageFullError(StorageError):
    """No room is left."""


class StorageReadOnlyError(StorageError):
    """The store refuses writes."""

    permanent = True


# ---------------------------------------------------------------------------------------------------- talking to peers


class TransportError(CdnError):
    """A peer could not be asked, or did not answer properly.

    Args:
        url: what was asked for.
        reason: what happened, without a final stop.
    """

    permanent = False
    exit_code = 6

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason


class UnreachableError(TransportError):
    """No connection: refused, no route, no such host, or the connection attempt timed out."""


class SlowPeerError(TransportError):
    """The peer stopped sending, or sends too slowly."""


class ShortTransferError(TransportError):
    """The connection ended before the body did."""


class MalformedAnswerError(TransportError):
    """What the peer sent is no HTTP."""


class TooLargeError(TransportError):
    """The body exceeds the limit set by the caller; reading stopped there."""

    permanent = True


class StatusError(TransportError):
    """An HTTP answer other than the one needed.

    Args:
        url: what was asked for.
        status: the HTTP status code.
        retry_after_seconds: the peer's `Retry-After`, where it sent one.
    """

    def __init__(self, url: str, status: int, retry_after_seconds: float | None = None) -> None:
        super().__init__(url, f"the server answered {status}")
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class NotFoundError(StatusError):
    """The peer answered, and does not have it (404 or 410)."""

    permanent = True


class AllSourcesFailedError(TransportError):
    """Every server and proxy was tried; `causes` holds what each said."""

    def __init__(self, url: str, causes: tuple[Exception, ...]) -> None:
        each = list(dict.fromkeys(map(str, causes)))  # a source that is asked again says the same again
        said = "; ".join(each[-4:]) or "no server is configured"
        super().__init__(url, f"every source failed ({said})")
        self.causes = causes


# ---------------------------------------------------------------------------------------------- the repository's state


class RepositoryError(CdnError):
    """The operation is refused in the repository's present state."""

    exit_code = 7


class RepositoryMissingError(RepositoryError):
    """No repository of this name here."""


class RevisionGoneError(RepositoryError):
    """The root catalog of an old revision is at no source any more: its publisher removed it."""

    def __init__(self, root_catalog: str) -> None:
        super().__init__(f"no source has the root catalog {root_catalog} any more")
        self.root_catalog = root_catalog


class PathMissingError(RepositoryError):
    """No such path in the revision looked at (ENOENT)."""

    def __init__(self, path: str) -> None:
        super().__init__(f"no such path in the repository: {path or '/'}")
        self.path = path


class PathExistsError(RepositoryError):
    """The path exists already (EEXIST)."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the path exists already: {path or '/'}")
        self.path = path


class PathKindError(RepositoryError):
    """The path exists but is of another kind than needed (ENOTDIR, EISDIR, EINVAL)."""


class SymlinkLoopError(RepositoryError):
    """Following a path's symlinks never ends (ELOOP)."""

    def __init__(self, path: str) -> None:
        super().__init__(f"too many symlinks on the way to {path or '/'}")
        self.path = path


class ExternalContentError(RepositoryError):
    """The file's content is not in the repository, only its name and digest are."""


class LeaseHeldError(RepositoryError):
    """Somebody else holds a lease on an overlapping subtree; it may be free later."""

    permanent = False
    exit_code = 8


class LockHeldError(RepositoryError):
    """Another process is doing what only one may do at a time; it may be done later."""

    permanent = False
    exit_code = 8


class ConflictError(RepositoryError):
    """The subtree changed since the transaction began; it cannot be rebased."""

    exit_code = 9


class TransactionStateError(RepositoryError):
    """The transaction is not in a state in which this can be done."""


class CheckFailedError(RepositoryError):
    """A check found damage; the report lists it."""

    exit_code = 10
