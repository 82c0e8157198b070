"""Trust: a set that only ever holds verified documents of one repository, loaded in the one legal order (spec §2.5).

    master keys  ->  whitelist  ->  certificate  ->  manifest  ->  root catalog and everything below, by digest

Each `load_…` takes bytes from anywhere and either adds the document they hold or raises an error that names the attack
and leaves the set as it was. Nothing here fetches, stores or looks at a clock: `now`, what was believed before, and the
bytes are handed in. A set serves one check of one repository; the next check builds a new one.

    certificate = certificate_named_by(manifest_bytes)       # which object to fetch; believes nothing
    trusted = TrustedRepository(fqrn, master_keys, now=now, breadcrumb=breadcrumb)
    trusted.load_whitelist(whitelist_bytes)
    trusted.load_certificate(stored_certificate_bytes)
    manifest = trusted.load_manifest(manifest_bytes)

Two things differ from real clients. They accept a manifest that names the root catalog they already have without
looking at its signature; here its fields would then be believed, and a forged timestamp or revision would make every
later, true manifest look old. So `is_unchanged` only answers that nothing is new, and the caller keeps what it has;
`load_manifest` always verifies. And a manifest with the revision already known but another root catalog is refused:
clients would disagree about what that revision is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from cdn.certificate import Certificate, Fingerprint
from cdn.errors import (
    BlacklistedRevisionError,
    ConfigError,
    DocumentError,
    ExpiredError,
    HashMismatchError,
    NameMismatchError,
    RollbackError,
    SignatureError,
    TrustError,
    UntrustedCertificateError,
)
from cdn.hashing import Digest, digest_of
from cdn.manifest import NUMBER_MAX, Manifest
from cdn.objects import Kind, ObjectName
from cdn.signing import DOCUMENT_BYTES_MAX, Scheme, SignedText, body_of
from cdn.whitelist import Whitelist

if TYPE_CHECKING:
    from collections.abc import Buffer, Sequence  # type: ignore[attr-defined]  # typeshed has it from 3.12 on

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

_Document = TypeVar("_Document")
_BREADCRUMB: Final = re.compile(r"([0-9a-z-]{40,49})(?:T([0-9]{1,19}))?(?:R([0-9]{1,19}))?\n?", re.ASCII)
_REVOKED_REVISIONS: Final = re.compile(r"<\s*([A-Za-z0-9._-]{1,255})[ \t]+([0-9]{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Breadcrumb:
    """The newest state of a repository believed so far, kept between checks (spec §8.3).

    Args:
        root_catalog: digest of its root catalog.
        timestamp: of its manifest, in seconds since the epoch.
        revision: its revision.
    """

    root_catalog: Digest
    timestamp: int = 0
    revision: int = 0

    @classmethod
    def of(cls, manifest: Manifest) -> Breadcrumb:
        """What to keep of a manifest that was loaded."""
        return cls(manifest.root_catalog, manifest.timestamp, manifest.revision)

    @classmethod
    def parse(cls, text: str) -> Breadcrumb:
        """Reads the text that `text` gives and that real clients keep; older ones leave parts out.

        Raises:
            DocumentError: the text is of another form.
        """
        match = _BREADCRUMB.fullmatch(text)
        if match is None:
            raise DocumentError("breadcrumb", f"{text[:100]!r} is not like <root catalog>T<timestamp>R<revision>")
        timestamp, revision = (min(int(part or 0), NUMBER_MAX) for part in match.groups()[1:])
        return cls(Digest.parse(match[1]), timestamp, revision)

    @property
    def text(self) -> str:
        """Digest text, ``T``, timestamp, ``R``, revision."""
        return f"{self.root_catalog.text}T{self.timestamp}R{self.revision}"


@dataclass(frozen=True, slots=True)
class Blacklist:
    """Certificates and revisions that are refused whatever the whitelist says.

    Args:
        fingerprints: of refused certificates.
        revisions_min: for some repositories, the smallest revision that is accepted.
        unread: lines that say neither; an operator should be told, since each was meant to forbid something.
    """

    fingerprints: frozenset[Fingerprint] = frozenset()
    revisions_min: tuple[tuple[str, int], ...] = ()
    unread: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Blacklist:
        """Reads a blacklist file: on each line a fingerprint or ``<``, a repository's name, blanks and a number.

        Raises:
            DocumentError: it is too large.
        """
        if len(data) > DOCUMENT_BYTES_MAX:
            raise DocumentError("blacklist", f"it is larger than {DOCUMENT_BYTES_MAX} bytes")
        fingerprints: set[Fingerprint] = set()
        revisions: dict[str, int] = {}
        unread: list[str] = []
        for line in data.decode("utf-8", "surrogateescape").split("\n"):
            match = _REVOKED_REVISIONS.fullmatch(line)
            if match:
                revisions[match[1]] = max(int(match[2]), revisions.get(match[1], 0))
                continue
            try:
                fingerprints.add(Fingerprint.parse(line))
            except DocumentError:
                unread += [line] if line.partition("#")[0].strip() else []
        return cls(frozenset(fingerprints), tuple(revisions.items()), tuple(unread))

    def __or__(self, other: Blacklist) -> Blacklist:
        """Both together: the local one and that of the config repository."""
        return Blacklist(
            self.fingerprints | other.fingerprints,
            self.revisions_min + other.revisions_min,
            self.unread + other.unread,
        )

    def revision_min(self, fqrn: str) -> int:
        """The smallest revision of this repository that is accepted."""
        return max((revision for name, revision in self.revisions_min if name == fqrn), default=0)

    def check_revision(self, fqrn: str, revision: int) -> None:
        """Returns if this revision of this repository is accepted.

        Raises:
            BlacklistedRevisionError: it is blacklisted.
        """
        least = self.revision_min(fqrn)
        if revision < least:
            raise BlacklistedRevisionError(
                f"revision {revision} of {fqrn} is blacklisted: nothing below {least} is accepted"
            )

    def lists(self, certificate: Certificate) -> bool:
        """Whether this certificate is refused."""
        return any(certificate.fingerprint(entry.digest.algorithm) == entry for entry in self.fingerprints)


class TrustedRepository:
    """The verified whitelist, certificate and manifest of one repository.

    Args:
        fqrn: the name the repository must have.
        master_keys: public keys of which one must have signed the whitelist.
        now: seconds since the epoch.
        breadcrumb: the newest state believed before; nothing older will be.
        blacklist: certificates and revisions that are refused.
        whitelist_created_min: when the newest whitelist believed before was made, in seconds since the epoch; an older
            one may still list a certificate that was withdrawn since. Real clients do not look.

    Raises:
        ConfigError: there is no master key.
    """

    def __init__(
        self,
        fqrn: str,
        master_keys: Sequence[RSAPublicKey],
        *,
        now: float,
        breadcrumb: Breadcrumb | None = None,
        blacklist: Blacklist | None = None,
        whitelist_created_min: int = 0,
    ) -> None:
        if not master_keys:
            raise ConfigError(f"there is no public key for {fqrn}: nothing it publishes could be verified")
        self._fqrn = fqrn
        self._master_keys = tuple(master_keys)
        self._now = now
        self._breadcrumb = breadcrumb
        self._blacklist = blacklist or Blacklist()
        self._whitelist_created_min = whitelist_created_min
        self._whitelist: Whitelist | None = None
        self._certificate: tuple[Certificate, bytes] | None = None
        self._manifest: Manifest | None = None

    @property
    def fqrn(self) -> str:
        """The name the repository must have."""
        return self._fqrn

    @property
    def whitelist(self) -> Whitelist:
        """The verified whitelist.

        Raises:
            RuntimeError: it was not loaded yet; so for the others.
        """
        return _loaded(self._whitelist, "whitelist")

    @property
    def certificate(self) -> Certificate:
        """The certificate that may sign manifests."""
        return _loaded(self._certificate, "certificate")[0]

    @property
    def manifest(self) -> Manifest:
        """The verified manifest."""
        return _loaded(self._manifest, "manifest")

    def is_unchanged(self, manifest_data: bytes) -> bool:
        """Whether a manifest names the root catalog already believed.

        Nothing in it is verified, and nothing of it may be kept.

        Raises:
            DocumentError: it is no manifest.
        """
        claimed = Manifest.parse(SignedText.parse("manifest", manifest_data).body)
        return self._breadcrumb is not None and claimed.root_catalog == self._breadcrumb.root_catalog

    def load_whitelist(self, data: bytes) -> Whitelist:
        """Adds the whitelist.

        Raises:
            DocumentError: the bytes are no whitelist.
            HashMismatchError: the text was changed after it was signed.
            SignatureError: no master key signed it, or it is signed in the PKCS#7 form.
            NameMismatchError: it is for another repository.
            ExpiredError: its time has passed.
            RollbackError: it is older than one believed before.
        """
        if len(data) <= DOCUMENT_BYTES_MAX and Whitelist.parse(body_of(data)).uses_pkcs7:
            raise SignatureError(
                f"the whitelist of {self._fqrn} has a PKCS#7 signature (Vpkcs7), which is not supported: "
                "ask its publisher for one signed by the master key"
            )
        signed = SignedText.parse("whitelist", data)
        self._verify_by_any_master_key(signed)
        whitelist = Whitelist.parse(signed.body)
        self._check_name("whitelist", whitelist.fqrn)
        if whitelist.created_at < self._whitelist_created_min:
            raise RollbackError(
                f"the whitelist of {self._fqrn} is older than one already seen: this server is out of date"
            )
        if whitelist.is_expired(self._now):
            raise ExpiredError(f"the whitelist of {self._fqrn} has expired: its publisher must sign a new one")
        self._whitelist = whitelist
        self._certificate = self._manifest = None
        return whitelist

    def load_certificate(self, stored: Buffer) -> Certificate:
        """Adds the certificate.

        Args:
            stored: the object's bytes as they lie in a store, compressed.

        Raises:
            DocumentError: the bytes are no certificate.
            UntrustedCertificateError: it is blacklisted, not on the whitelist, or the whitelist asks for more than can
                be checked.
        """
        whitelist = self.whitelist
        certificate = Certificate.from_object(stored)
        name = f"the certificate {certificate.fingerprint()} of {self._fqrn}"
        if self._blacklist.lists(certificate):
            raise UntrustedCertificateError(f"{name} is blacklisted")
        if not any(certificate.fingerprint(e.fingerprint.digest.algorithm) == e.fingerprint for e in whitelist.entries):
            raise UntrustedCertificateError(f"{name} is not on its whitelist")
        if whitelist.verify_ca_chain:  # less than its publisher demands is not enough
            raise UntrustedCertificateError(
                f"{name} must be checked against certificate authorities (Wcachain), which is not supported"
            )
        self._certificate = certificate, bytes(stored)
        self._manifest = None
        return certificate

    def load_manifest(self, data: bytes) -> Manifest:
        """Adds the manifest.

        Raises:
            DocumentError: the bytes are no manifest.
            HashMismatchError: the text was changed after it was signed, or it names another certificate than the one
                loaded.
            SignatureError: the certificate's key did not sign it.
            NameMismatchError: it is for another repository.
            RollbackError: it is older than what was believed before, contradicts it, or is of a blacklisted revision.
        """
        certificate, stored = _loaded(self._certificate, "certificate")
        signed = SignedText.parse("manifest", data)
        signed.verify(certificate.public_key, Scheme.MANIFEST)
        manifest = Manifest.parse(signed.body)
        self._check_name("manifest", manifest.fqrn)
        if manifest.certificate is None:
            raise DocumentError("manifest", "it names no certificate (key X)")
        actual = digest_of(manifest.certificate.algorithm, stored)
        if actual != manifest.certificate:  # verifies here, but nobody who fetches what it names could verify it
            raise HashMismatchError(ObjectName(manifest.certificate, Kind.CERTIFICATE).path, actual.text)
        self._check_freshness(manifest)
        self._manifest = manifest
        return manifest

    def _verify_by_any_master_key(self, signed: SignedText) -> None:
        failure: TrustError | None = None
        for key in self._master_keys:
            try:
                return signed.verify(key, Scheme.WHITELIST)
            except SignatureError as error:
                failure = error
        raise SignatureError(
            f"the whitelist of {self._fqrn} was signed by none of the {len(self._master_keys)} configured master keys: "
            "either the key is not that of this repository, or the server is not to be trusted"
        ) from failure

    def _check_name(self, document: str, name: str | None) -> None:
        if name != self._fqrn:
            raise NameMismatchError(f"the {document} is for {name or 'no repository'}, not for {self._fqrn}")

    def _check_freshness(self, manifest: Manifest) -> None:
        self._blacklist.check_revision(self._fqrn, manifest.revision)
        known = self._breadcrumb
        if known is None:
            return
        if manifest.timestamp < known.timestamp:
            raise RollbackError(
                f"the manifest of {self._fqrn} is from {manifest.timestamp}, "
                f"older than the known one from {known.timestamp}"
            )
        if manifest.revision < known.revision:
            raise RollbackError(
                f"the manifest of {self._fqrn} goes back from revision {known.revision} to {manifest.revision}"
            )
        if manifest.revision == known.revision != 0 and manifest.root_catalog != known.root_catalog:
            raise RollbackError(
                f"the manifest of {self._fqrn} has another root catalog for the known revision {known.revision}"
            )


def certificate_named_by(manifest_data: bytes) -> ObjectName:
    """The object that a manifest says holds its certificate: what to fetch before anything can be verified.

    Raises:
        DocumentError: the bytes are no manifest, or it names none.
    """
    claimed = Manifest.parse(SignedText.parse("manifest", manifest_data).body)
    if claimed.certificate is None:
        raise DocumentError("manifest", "it names no certificate (key X)")
    return ObjectName(claimed.certificate, Kind.CERTIFICATE)


def _loaded(document: _Document | None, name: str) -> _Document:
    if document is None:  # a mistake of the caller: the order is the rule
        raise RuntimeError(f"the {name} must be loaded first")
    return document
