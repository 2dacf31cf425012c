"""The certificate that the API server knows us by: signed by itself, so that it vouches for nobody but this Service."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE = dt.timedelta(days=365)
RENEW_BEFORE = dt.timedelta(days=120)
"""A new one is made so long before the end: an operator that was away for a summer finds it still good."""
SKEW = dt.timedelta(hours=1)
"""Clocks of other machines may be behind."""
_MAX_COMMON_NAME = 64


@dataclass(frozen=True, slots=True)
class Pair:
    """Certificate and key, PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def hosts(service: str, namespace: str) -> tuple[str, ...]:
    """Names under which clients of a Service know it; the API server takes the first."""
    return f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local"


def make(names: Sequence[str], now: dt.datetime) -> Pair:
    """A new key, and a certificate for these DNS names that is good from now on."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:_MAX_COMMON_NAME])])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(made.public_bytes(Encoding.PEM), pem)


def why_not(pair: Pair, names: Sequence[str], now: dt.datetime) -> str:
    """Why this pair cannot be served (much longer); empty if it can."""
    try:
        found = x509.load_pem_x509_certificate(pair.certificate)
        key = load_pem_private_key(pair.key, password=None)
        found.verify_directly_issued_by(found)
        told = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        return f"it cannot be read: {error}"
    if not set(names) <= set(told.get_values_for_type(x509.DNSName)):
        return "it is for another name"
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != found.public_key().public_bytes(*form):
        return "its key is another one's"
    if not found.not_valid_before_utc <= now:
        return "it is not valid yet"
    if now > found.not_valid_after_utc - RENEW_BEFORE:
        return f"it ends at {found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    return ""


def still_good(bundle: bytes, now: dt.datetime) -> list[bytes]:
    """The certificates of a bundle that have not ended, PEM each; nothing of what cannot be read."""
    try:
        found = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return []
    return [one.public_bytes(Encoding.PEM) for one in found if one.not_valid_after_utc > now]
