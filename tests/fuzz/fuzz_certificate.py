"""Certificates: PEM as a client gets it, and the bytes inside, which mutated PEM rarely reaches."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric import ec

from cdn.certificate import Certificate
from cdn.hashing import Algorithm
from tests.fakes.signer import NOW, Signer
from tests.fuzz.driver import main

_BEGIN = b"-----BEGIN CERTIFICATE-----\n"
_END = b"-----END CERTIFICATE-----\n"


def seeds() -> list[bytes]:
    rsa = Signer().certificate
    curve = Certificate.self_signed("sw.example.org", ec.generate_private_key(ec.SECP256R1()), now=NOW)
    return [rsa.der, curve.der, rsa.pem, curve.pem]


def check(data: bytes) -> None:
    pem = data if data.startswith(b"-") else _BEGIN + base64.encodebytes(data) + _END
    certificate = Certificate.parse(pem)
    for algorithm in Algorithm:
        certificate.fingerprint(algorithm)
    assert Certificate.parse(certificate.pem).der == certificate.der


if __name__ == "__main__":
    main("fuzz_certificate", seeds, check, tokens=[b"\x30\x82", b"\x02\x01", b"\x03\x82", _BEGIN, _END, b"\x06\x09"])
