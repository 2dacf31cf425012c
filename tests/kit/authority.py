"""An authority that signs certificates, for tests of TLS."""

import datetime as dt
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


class Authority:
    """Signs certificates of clients and of servers on 127.0.0.1."""

    def __init__(self, name: str = "CN=front-proxy-ca") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name.from_rfc4514_string(name)
        self.pem = self._sign(self._name, self._key.public_key(), ca=True).public_bytes(Encoding.PEM).decode()

    def _sign(self, name, key, *, ca: bool):
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(hours=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if not ca:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def pair(self, common_name: str) -> tuple[bytes, bytes]:
        """Certificate and key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._sign(x509.Name.from_rfc4514_string(f"CN={common_name}"), key.public_key(), ca=False)
        return made.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def client(self, folder: Path, common_name: str) -> Path:
        """A file with certificate and key."""
        path = folder / f"{common_name}.pem"
        path.write_bytes(b"".join(self.pair(common_name)))
        return path


class MountedSecret:
    """A directory as the kubelet mounts a Secret: `put` changes all its files in one moment."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        folder.mkdir()
        self._versions = 0

    def put(self, **files: bytes) -> None:
        """`tls_crt=…` becomes tls.crt."""
        self._versions += 1
        version = self.path / f"..{self._versions}"
        version.mkdir()
        for name, data in files.items():
            (version / name.replace("_", ".")).write_bytes(data)
            link = self.path / name.replace("_", ".")
            if not link.is_symlink():
                link.symlink_to(Path("..data") / link.name)
        fresh = self.path / "..fresh"
        fresh.symlink_to(version.name)
        os.replace(fresh, self.path / "..data")

    def pair(self, authority: Authority, name: str) -> None:
        """A new certificate."""
        certificate, key = authority.pair(name)
        self.put(tls_crt=certificate, tls_key=key)
