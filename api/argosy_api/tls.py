"""TLS of servers that are ours."""

import os
import ssl


def server_context(certificate: bytes, key: bytes, clients: str | None = None) -> ssl.SSLContext:
    """TLS for a server that shows this certificate (PEM, with those between it and its authority behind it).

    `clients`: PEM of authorities; then nobody without a certificate that one of them signed gets as far as a request.

    Raises:
        ValueError: the key is encrypted.
        ssl.SSLError: certificate, key or authority are not what they should be, or do not belong together.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients)
    # the ssl module reads certificates of one's own from files only: an anonymous one, that no other process can open
    descriptor = os.memfd_create("serving", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, certificate.rstrip() + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    finally:
        os.close(descriptor)
    return context


def _no_password() -> str:
    """Else OpenSSL asks for it at the terminal."""
    raise ValueError("the key is encrypted")
