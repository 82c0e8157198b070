"""Certificates are read like real clients read them, and fingerprints are those that openssl prints."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cdn.certificate import CERTIFICATE_BYTES_MAX, Certificate, Fingerprint
from cdn.compression import compress
from cdn.errors import DocumentError
from cdn.hashing import Algorithm, digest_of
from tests.fakes.signer import NOW, Signer, key

CERTIFICATE = Signer().certificate
SHA1_LINE = "93:AB:A3:C4:89:BE:F9:B7:3E:90:8F:42:C1:8A:EF:12:BB:05:C4:15"


def test_the_certificate_says_whose_it_is_and_until_when() -> None:
    assert CERTIFICATE.public_key.public_numbers() == key("manager").public_key().public_numbers()
    assert CERTIFICATE.not_valid_after == NOW + 365 * 86_400
    assert Certificate.parse(CERTIFICATE.pem) == CERTIFICATE
    assert Certificate.from_object(compress(CERTIFICATE.pem)) == CERTIFICATE


def test_openssl_prints_the_same_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "crt").write_bytes(CERTIFICATE.pem)
    command = ["openssl", "x509", "-in", "crt", "-noout", "-fingerprint", "-sha1", "-subject"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert CERTIFICATE.fingerprint(Algorithm.SHA1).text in printed
    assert "sw.example.org" in printed


def test_a_very_long_name_still_gives_a_certificate() -> None:
    Certificate.self_signed("a" * 200, key("manager"), now=NOW)


def test_a_curve_key_gives_a_certificate_too() -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    assert (
        Certificate.self_signed("x", curve, now=NOW).public_key.public_numbers() == curve.public_key().public_numbers()
    )


def test_an_unusable_curve_is_refused() -> None:
    with pytest.raises(DocumentError, match="P-256"):
        Certificate.self_signed("x", ec.generate_private_key(ec.SECP384R1()), now=NOW)


def test_the_first_of_several_certificates_counts() -> None:
    other = Signer(manager="other").certificate
    assert Certificate.parse(b"some text\n" + CERTIFICATE.pem + other.pem) == CERTIFICATE


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_fingerprint_is_over_the_der_encoding_by_any_algorithm(algorithm: Algorithm) -> None:
    fingerprint = CERTIFICATE.fingerprint(algorithm)
    assert fingerprint.digest == digest_of(algorithm, CERTIFICATE.der)
    assert fingerprint.text == fingerprint.text.upper()
    assert Fingerprint.parse(fingerprint.text) == fingerprint
    assert Fingerprint.parse(fingerprint.digest.text) == fingerprint


@pytest.mark.parametrize("after", ["", " ", " # manager", "\t# manager", "#manager", "# a:b:c", "#\tx y"])
def test_a_comment_after_a_fingerprint_is_dropped(after: str) -> None:
    assert Fingerprint.parse(SHA1_LINE + after).text == SHA1_LINE


@pytest.mark.parametrize(
    "line",
    ["", "#", " " + SHA1_LINE, SHA1_LINE[:-1], SHA1_LINE + ":00", SHA1_LINE + "-SHAKE128x", "G" * 40, ":" * 5000],
)
def test_what_is_no_fingerprint_is_refused(line: str) -> None:
    with pytest.raises(DocumentError):
        Fingerprint.parse(line)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n",
        CERTIFICATE.der,
        CERTIFICATE.pem[:-30],
        b"x" * (CERTIFICATE_BYTES_MAX + 1),
    ],
)
def test_what_is_no_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(DocumentError, match="certificate is damaged"):
        Certificate.parse(pem)


def test_a_certificate_of_an_unknown_version_is_refused() -> None:
    der = CERTIFICATE.der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020112"), 1)
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    with pytest.raises(DocumentError, match="certificate is damaged"):
        Certificate.parse(pem)


def test_an_object_that_inflates_to_too_much_is_refused() -> None:
    with pytest.raises(DocumentError, match="certificate is damaged"):
        Certificate.from_object(compress(bytes(100 << 20)))
