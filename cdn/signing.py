"""Signed text: the envelope of manifest and whitelist, and the two ways in which they are signed (spec §2.1, §2.4).

A signed document is a body of lines, the line ``--``, one line with the text of the body's digest, and the bytes of a
signature over that text. What is signed is never the body itself:

- a **manifest** signature is ordinary RSA PKCS#1 v1.5 with SHA-1 over the digest text (or ECDSA with SHA-1 and curve
  P-256);
- a **whitelist** signature is RSA PKCS#1 v1.5 padding directly around the digest text, without any DigestInfo.

Verification never parses what an RSA signature opens to. The one block that may come out is built and compared as a
whole, so that none of the forgeries which live on lenient padding checks (Bleichenbacher 2006 and its kin) has anything
to work with. SHA-1 is computed here and handed over as data, so that hosts whose OpenSSL forbids SHA-1 signatures sign
and verify like any other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed

from cdn.errors import DocumentError, HashMismatchError, SignatureError
from cdn.hashing import Digest, digest_of

if TYPE_CHECKING:
    from cdn.hashing import Algorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

DOCUMENT_BYTES_MAX: Final = 1 << 20
"""The limit real clients have for a manifest (spec §2.5)."""
SIGNATURE_BYTES_MAX: Final = 2048
KEY_BITS_MIN: Final = 1024
KEY_BITS_MAX: Final = 8 * SIGNATURE_BYTES_MAX
_CURVE: Final = "secp256r1"

_SEPARATOR: Final = b"\n--\n"
_DIGEST_TEXT_MAX: Final = 49
_SHA1_DIGEST_INFO: Final = bytes.fromhex("3021300906052b0e03021a05000414")
"""DER of DigestInfo up to the digest itself (RFC 8017, section 9.2, note 1)."""
_ECDSA: Final = ec.ECDSA(Prehashed(hashes.SHA1()))  # noqa: S303  # the format's choice
_PADDING_BYTES_MIN: Final = 11
"""00 01, at least eight FF, 00 (RFC 8017, section 9.2)."""


class Scheme(Enum):
    """What is put between padding and digest text."""

    MANIFEST = "manifest"
    WHITELIST = "whitelist"

    def payload(self, text: bytes) -> bytes:
        """What the padding surrounds in a signature over this digest text."""
        if self is Scheme.WHITELIST:
            return text
        return _SHA1_DIGEST_INFO + _sha1(text)


@dataclass(frozen=True, slots=True)
class SignedText:
    """A body, its digest, and a signature that nobody has verified yet.

    Args:
        document: what to call it in an error.
        body: the lines before ``--``, the last line feed included.
        digest: what the digest line says.
        signature: raw bytes; empty where it is still to be made.
    """

    document: str
    body: bytes
    digest: Digest
    signature: bytes = b""

    @classmethod
    def of(cls, document: str, body: bytes, algorithm: Algorithm) -> SignedText:
        """An unsigned envelope around this body.

        Raises:
            ValueError: the body could not be told apart from what follows it.
        """
        if not body.endswith(b"\n") or body.startswith(b"--\n") or _SEPARATOR in body:
            raise ValueError("a signed body ends with a line feed and has no line '--'")
        return cls(document, body, digest_of(algorithm, body))

    @classmethod
    def parse(cls, document: str, data: bytes) -> SignedText:
        """Takes an envelope apart; believes nothing.

        Raises:
            DocumentError: it is too large or has no such parts.
        """
        if len(data) > DOCUMENT_BYTES_MAX:
            raise DocumentError(document, f"it is larger than {DOCUMENT_BYTES_MAX} bytes")
        end = data.find(_SEPARATOR)
        if end < 0:
            raise DocumentError(document, "it has no line '--' before a signature")
        rest = data[end + len(_SEPARATOR) :]
        text, line_feed, signature = rest[: _DIGEST_TEXT_MAX + 1 + SIGNATURE_BYTES_MAX + 1].partition(b"\n")
        if not line_feed or not signature or len(signature) > SIGNATURE_BYTES_MAX:
            raise DocumentError(document, "the line '--' is not followed by a digest line and a signature")
        return cls(document, data[: end + 1], Digest.parse(text.decode("latin-1")), signature)

    def to_bytes(self) -> bytes:
        """The envelope as it is published."""
        return self.body + b"--\n" + self.signed_bytes + b"\n" + self.signature

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over, and what an offline master key gets to sign: the digest text, no line feed."""
        return self.digest.text.encode("ascii")

    def signed(self, key: PrivateKey, scheme: Scheme) -> SignedText:
        """The same text with a signature by this key.

        Raises:
            SignatureError: the key cannot be used for this, or made a signature that does not verify.
        """
        return self.with_signature(_sign(self, key, scheme), key.public_key(), scheme)

    def with_signature(self, signature: bytes, key: PublicKey, scheme: Scheme) -> SignedText:
        """The same text with a signature made elsewhere.

        Raises:
            SignatureError: it does not verify with this key. For signatures made here that means a fault of the
                machine, and publishing the result of a faulty RSA operation can give the key away.
        """
        complete = replace(self, signature=signature)
        complete.verify(key, scheme)
        return complete

    def check_body(self) -> None:
        """Returns if the body has the digest it names, which says that it is whole and not who wrote it.

        Raises:
            HashMismatchError: the body was changed.
        """
        actual = digest_of(self.digest.algorithm, self.body)
        if actual != self.digest:
            raise HashMismatchError(self.document, actual.text)

    def verify(self, key: PublicKey, scheme: Scheme) -> None:
        """Returns if the body has the digest it names and the key signed that digest.

        Raises:
            HashMismatchError: the body was changed.
            SignatureError: the signature is not by this key.
        """
        self.check_body()
        check_key(key, self.document)
        if isinstance(key, rsa.RSAPublicKey):
            is_valid = _rsa_opens_to(key, self.signature, scheme.payload(self.signed_bytes))
        else:
            is_valid = scheme is Scheme.MANIFEST and _ecdsa_is_valid(key, self.signature, self.signed_bytes)
        if not is_valid:
            raise SignatureError(f"the signature of {self.document} was not made by the key it must be made by")


def body_of(data: bytes) -> bytes:
    """The lines before ``--``, or everything where that line is missing."""
    end = data.find(_SEPARATOR)
    return data if end < 0 else data[: end + 1]


def check_key(key: object, document: str) -> PublicKey:
    """This key, if its kind and size are among those that may sign.

    Raises:
        DocumentError: the key belongs to a kind or size nobody uses here; larger ones only serve to keep a verifier
            busy.
    """
    if isinstance(key, rsa.RSAPublicKey) and KEY_BITS_MIN <= key.key_size <= KEY_BITS_MAX:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == _CURVE:
        return key
    raise DocumentError(document, f"its key is neither RSA of {KEY_BITS_MIN} to {KEY_BITS_MAX} bits nor of curve P-256")


def generate_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """A new RSA key, of the size that the tools of the format use unless told otherwise (spec §2.3)."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def _sign(text: SignedText, key: PrivateKey, scheme: Scheme) -> bytes:
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            # Without DigestInfo the library pads and blinds but does not hash, so no policy about SHA-1 stands in the
            # way.
            return key.sign(scheme.payload(text.signed_bytes), padding.PKCS1v15(), NoDigestInfo())
        if scheme is Scheme.MANIFEST:
            return key.sign(_sha1(text.signed_bytes), _ECDSA)
    except (UnsupportedAlgorithm, ValueError) as error:
        raise SignatureError(f"{text.document} could not be signed: {error}") from error
    raise SignatureError(f"{text.document} could not be signed: a whitelist needs an RSA key")


def _rsa_opens_to(key: rsa.RSAPublicKey, signature: bytes, payload: bytes) -> bool:
    size = (key.key_size + 7) // 8
    if len(signature) != size or len(payload) + _PADDING_BYTES_MIN > size:
        return False
    numbers = key.public_numbers()
    value = int.from_bytes(signature, "big")
    if value >= numbers.n:  # a second form of the same signature
        return False
    expected = b"\x00\x01" + b"\xff" * (size - 3 - len(payload)) + b"\x00" + payload
    return (
        pow(value, numbers.e, numbers.n).to_bytes(size, "big") == expected
    )  # all of this is public: no secret to leak by time


def _ecdsa_is_valid(key: ec.EllipticCurvePublicKey, signature: bytes, text: bytes) -> bool:
    try:
        key.verify(signature, _sha1(text), _ECDSA)
    except InvalidSignature:
        return False
    except UnsupportedAlgorithm as error:
        raise SignatureError(f"this machine's OpenSSL does not verify ECDSA signatures with SHA-1: {error}") from error
    return True


def _sha1(text: bytes) -> bytes:
    return hashlib.sha1(text, usedforsecurity=False).digest()
