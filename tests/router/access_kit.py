"""Keys and tokens for the tests of who may ask."""

import json
import time
from pathlib import Path

import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from argosy_api.access import new_key

ISSUER = "https://login.example"
AUDIENCE = "argosy"


class Access:
    """A document and a directory of keys, as a router reads them."""

    def __init__(self, folder: Path, **document: object) -> None:
        self.document = folder / "access.yaml"
        self.keys = folder / "keys"
        self.keys.mkdir()
        self.write(**document)

    def write(self, **document: object) -> None:
        self.document.write_text(yaml.safe_dump(document))

    def key(self, tenant: str, *, admin: bool = False) -> str:
        key, key_id, entry = new_key(tenant, admin=admin)
        (self.keys / key_id).write_text(entry.to_json())
        return key

    @property
    def settings(self) -> dict[str, str]:
        return {"access": str(self.document), "api_keys": str(self.keys)}


class Signer:
    """An issuer of tokens: its keys, and what is signed with them."""

    def __init__(self, kind: str = "RSA", kid: str = "k1") -> None:
        self.kid = kid
        if kind == "RSA":
            self.private, self.algorithm = rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256"
        elif kind == "EC":
            self.private, self.algorithm = ec.generate_private_key(ec.SECP256R1()), "ES256"
        else:
            self.private, self.algorithm = ed25519.Ed25519PrivateKey.generate(), "EdDSA"

    def jwk(self) -> dict[str, object]:
        made = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        return {**made, "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def token(self, *, headers: dict[str, object] | None = None, **claims: object) -> str:
        now = int(time.time())
        made = {"iss": ISSUER, "aud": AUDIENCE, "sub": "team-a", "exp": now + 300, "iat": now, **claims}
        made = {name: value for name, value in made.items() if value is not None}
        given = {"kid": self.kid, **(headers or {})}
        return jwt.encode(made, self.private, self.algorithm, headers={k: v for k, v in given.items() if v is not None})


def key_set(*signers: Signer) -> str:
    return json.dumps({"keys": [signer.jwk() for signer in signers]})


def bearer(credential: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credential}"}
