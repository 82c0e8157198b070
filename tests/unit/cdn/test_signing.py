"""The two signatures, and the forgeries that live on lenient checks."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from cdn import keyfiles
from cdn.errors import DocumentError, HashMismatchError, SignatureError
from cdn.hashing import Algorithm, digest_of
from cdn.signing import DOCUMENT_BYTES_MAX, SIGNATURE_BYTES_MAX, Scheme, SignedText, body_of, check_key
from tests.fakes.signer import key

BODY = b"Cabc\nS1\n"
SHA1_INFO = bytes.fromhex("3021300906052b0e03021a05000414")


def unsigned(algorithm: Algorithm = Algorithm.SHA1) -> SignedText:
    return SignedText.of("tested", BODY, algorithm)


def forged(block: bytes) -> SignedText:
    """What opens to exactly this block under the master key, made with its private exponent."""
    numbers = key("master").private_numbers()
    size = 256
    value = pow(int.from_bytes(block, "big"), numbers.d, numbers.public_numbers.n)
    text = unsigned()
    return SignedText(text.document, text.body, text.digest, value.to_bytes(size, "big"))


def block(payload: bytes, head: bytes = b"\x00\x01", fill: bytes = b"\xff", after: bytes = b"") -> bytes:
    return head + fill * (256 - len(head) - 1 - len(payload) - len(after)) + b"\x00" + payload + after


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("algorithm", Algorithm)
def test_what_was_signed_is_taken_apart_and_verified(scheme: Scheme, algorithm: Algorithm) -> None:
    data = unsigned(algorithm).signed(key("master"), scheme).to_bytes()
    text = SignedText.parse("tested", data)
    text.verify(key("master").public_key(), scheme)
    assert text.body == BODY
    assert text.to_bytes() == data


def test_the_digest_line_is_over_everything_up_to_and_including_the_line_feed_before_the_separator() -> None:
    data = unsigned().signed(key("master"), Scheme.MANIFEST).to_bytes()
    body, text, signature = data[: len(BODY)], data[len(BODY) + 3 : len(BODY) + 43], data[len(BODY) + 44 :]
    assert data[len(BODY) : len(BODY) + 3] == b"--\n"
    assert hashlib.sha1(body).hexdigest().encode() == text
    assert len(signature) == 256


def test_a_manifest_signature_is_the_one_openssl_verifies(tmp_path: Path) -> None:
    text = unsigned(Algorithm.SHAKE128).signed(key("master"), Scheme.MANIFEST)
    keyfiles.write_public_key(tmp_path / "pub", key("master").public_key())
    (tmp_path / "text").write_bytes(text.signed_bytes)
    (tmp_path / "signature").write_bytes(text.signature)
    command = ["openssl", "dgst", "-sha1", "-verify", "pub", "-signature", "signature", "text"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "Verified OK\n", done.stderr
    key("master").public_key().verify(text.signature, text.signed_bytes, padding.PKCS1v15(), hashes.SHA1())


def test_a_whitelist_signature_opens_to_the_digest_text_itself(tmp_path: Path) -> None:
    text = unsigned().signed(key("master"), Scheme.WHITELIST)
    keyfiles.write_public_key(tmp_path / "pub", key("master").public_key())
    (tmp_path / "signature").write_bytes(text.signature)
    command = ["openssl", "pkeyutl", "-verifyrecover", "-pubin", "-inkey", "pub", "-in", "signature"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == text.digest.text.encode()


def test_a_signature_made_elsewhere_with_openssl_is_accepted(tmp_path: Path) -> None:
    keyfiles.write_private_key(tmp_path / "key", key("master"))
    (tmp_path / "text").write_bytes(unsigned().signed_bytes)
    command = ["openssl", "pkeyutl", "-sign", "-inkey", "key", "-in", "text"]
    signature = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    complete = unsigned().with_signature(signature, key("master").public_key(), Scheme.WHITELIST)
    assert complete == unsigned().signed(key("master"), Scheme.WHITELIST)


def test_a_signature_made_elsewhere_by_another_key_is_refused() -> None:
    signature = unsigned().signed(key("other"), Scheme.WHITELIST).signature
    with pytest.raises(SignatureError):
        unsigned().with_signature(signature, key("master").public_key(), Scheme.WHITELIST)


@pytest.mark.parametrize(("made", "read"), [(Scheme.MANIFEST, Scheme.WHITELIST), (Scheme.WHITELIST, Scheme.MANIFEST)])
def test_a_signature_of_one_kind_is_not_taken_for_the_other(made: Scheme, read: Scheme) -> None:
    with pytest.raises(SignatureError, match="was not made by the key"):
        unsigned().signed(key("master"), made).verify(key("master").public_key(), read)


def test_a_changed_body_is_refused_and_its_digest_named() -> None:
    data = unsigned().signed(key("master"), Scheme.MANIFEST).to_bytes().replace(b"S1", b"S2")
    with pytest.raises(HashMismatchError) as caught:
        SignedText.parse("tested", data).verify(key("master").public_key(), Scheme.MANIFEST)
    assert caught.value.actual == digest_of(Algorithm.SHA1, BODY.replace(b"S1", b"S2")).text


def test_a_changed_body_with_a_digest_line_to_match_is_refused() -> None:
    signature = unsigned().signed(key("master"), Scheme.MANIFEST).signature
    other = SignedText.of("tested", b"Cabc\nS2\n", Algorithm.SHA1)
    forgery = SignedText("tested", other.body, other.digest, signature)
    with pytest.raises(SignatureError):
        forgery.verify(key("master").public_key(), Scheme.MANIFEST)


PAYLOAD = unsigned().digest.text.encode()
DIGEST_INFO = SHA1_INFO + hashlib.sha1(PAYLOAD).digest()


@pytest.mark.parametrize("scheme", Scheme)
def test_the_block_that_must_come_out_is_accepted(scheme: Scheme) -> None:
    forged(block(scheme.payload(PAYLOAD))).verify(key("master").public_key(), scheme)


@pytest.mark.parametrize(
    ("scheme", "opened"),
    [
        (Scheme.WHITELIST, block(PAYLOAD, after=b"\x00")),
        (Scheme.WHITELIST, block(PAYLOAD + b"\n")),
        (Scheme.WHITELIST, block(PAYLOAD[:-1])),
        (Scheme.WHITELIST, block(PAYLOAD, head=b"\x00\x02")),
        (Scheme.WHITELIST, block(PAYLOAD, head=b"\x00\x00", fill=b"\x00")),
        (Scheme.WHITELIST, block(PAYLOAD, fill=b"\xfe")),
        (Scheme.WHITELIST, b"\x00\x01" + b"\xff" * 8 + b"\x00" + PAYLOAD + b"x" * (245 - len(PAYLOAD))),
        (Scheme.WHITELIST, b"\x00\x01\x00" + PAYLOAD + b"x" * (253 - len(PAYLOAD))),
        (Scheme.MANIFEST, b"\x00\x01" + b"\xff" * 8 + b"\x00" + DIGEST_INFO + b"x" * (245 - len(DIGEST_INFO))),
        (Scheme.MANIFEST, block(hashlib.sha1(PAYLOAD).digest())),
        (Scheme.MANIFEST, block(bytes.fromhex("301f300706052b0e03021a0414") + hashlib.sha1(PAYLOAD).digest())),
        (Scheme.MANIFEST, block(DIGEST_INFO[:-1] + bytes([DIGEST_INFO[-1] ^ 1]))),
    ],
    ids=[
        "byte after the text",
        "line feed after the text",
        "text too short",
        "encryption padding",
        "zero padding",
        "other fill",
        "short padding and garbage (Bleichenbacher 2006)",
        "no padding and garbage",
        "DigestInfo with garbage (Bleichenbacher 2006)",
        "no DigestInfo",
        "DigestInfo without parameters",
        "another digest",
    ],
)
def test_a_forged_block_is_refused(scheme: Scheme, opened: bytes) -> None:
    with pytest.raises(SignatureError):
        forged(opened).verify(key("master").public_key(), scheme)


def test_a_signature_of_other_length_or_plus_the_modulus_is_refused() -> None:
    text = unsigned().signed(key("master"), Scheme.WHITELIST)
    public = key("master").public_key()
    plus_modulus = int.from_bytes(text.signature, "big") + public.public_numbers().n
    for signature in (
        text.signature[:-1],
        text.signature + b"\x00",
        b"\x00" + text.signature,
        b"\x00" * 256,
        plus_modulus.to_bytes(257, "big"),
    ):
        with pytest.raises(SignatureError):
            SignedText(text.document, text.body, text.digest, signature).verify(public, Scheme.WHITELIST)


def test_a_curve_key_signs_manifests_but_no_whitelists() -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    text = unsigned().signed(curve, Scheme.MANIFEST)
    text.verify(curve.public_key(), Scheme.MANIFEST)
    curve.public_key().verify(text.signature, text.signed_bytes, ec.ECDSA(hashes.SHA1()))
    with pytest.raises(SignatureError, match="a whitelist needs an RSA key"):
        unsigned().signed(curve, Scheme.WHITELIST)
    with pytest.raises(SignatureError):
        text.verify(curve.public_key(), Scheme.WHITELIST)
    with pytest.raises(SignatureError):
        text.verify(ec.generate_private_key(ec.SECP256R1()).public_key(), Scheme.MANIFEST)


def test_a_key_of_unused_kind_is_refused() -> None:
    with pytest.raises(DocumentError, match=r"neither RSA .* nor of curve P-256"):
        check_key(ec.generate_private_key(ec.SECP384R1()).public_key(), "tested")


def test_an_old_key_of_1024_bits_has_room_for_the_longest_digest_text() -> None:
    small = key("small", 1024)
    unsigned(Algorithm.SHAKE128).signed(small, Scheme.WHITELIST).verify(small.public_key(), Scheme.WHITELIST)


@pytest.mark.parametrize("body", [b"", b"S1", b"--\n", b"S1\n--\nS2\n"])
def test_a_body_that_could_not_be_told_from_what_follows_is_never_signed(body: bytes) -> None:
    with pytest.raises(ValueError, match="a signed body"):
        SignedText.of("tested", body, Algorithm.SHA1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        BODY,
        b"--\n" + b"0" * 40 + b"\nx",
        BODY + b"--\n",
        BODY + b"--\n" + b"0" * 40,
        BODY + b"--\n" + b"0" * 40 + b"\n",
        BODY + b"--\n" + b"0" * 41 + b"\nx",
        BODY + b"--\n" + b"G" * 40 + b"\nx",
        BODY + b"--\n" + b"0" * 40 + b"\n" + b"x" * (SIGNATURE_BYTES_MAX + 1),
        BODY + b"x" * DOCUMENT_BYTES_MAX + b"\n--\n" + b"0" * 40 + b"\nx",
    ],
    ids=[
        "empty",
        "body",
        "no body",
        "separator",
        "no line feed",
        "no signature",
        "long",
        "no hex",
        "signature",
        "size",
    ],
)
def test_bytes_without_the_parts_of_an_envelope_are_damaged(data: bytes) -> None:
    with pytest.raises(DocumentError):
        SignedText.parse("tested", data)


def test_the_first_separator_counts_whatever_the_signature_holds() -> None:
    data = BODY + b"--\n" + b"0" * 40 + b"\n" + b"\n--\n" * 20
    text = SignedText.parse("tested", data)
    assert text.body == body_of(data) == BODY
    assert text.signature == b"\n--\n" * 20
    assert body_of(b"no separator") == b"no separator"
