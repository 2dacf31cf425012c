"""Tokens (JWT) of one issuer: whose they are. Pure: the caller has the issuer's public keys."""

import json
from collections.abc import Mapping
from typing import Any

import jwt

from argosy_api import limits
from argosy_api.access import TENANT, Issuer
from argosy_api.errors import UnauthenticatedError

LEEWAY_S = 30
"""By so much the clocks of issuer and router may differ."""
LEAST_RSA_BITS = 2048
_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_BAD = "the credential is not valid"


class UnknownKeyError(UnauthenticatedError):
    """The token is of a key that is not known: perhaps of a new one."""


class PublicKeys:
    """An issuer's key set (JWKS)."""

    def __init__(self, text: str) -> None:
        """Raises ValueError: it is none, or has no key that can check a signature."""
        document = json.loads(text)
        found = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(found, list) or len(found) > limits.MAX_JWKS_KEYS:
            raise ValueError(f"is no key set of {limits.MAX_JWKS_KEYS} keys at most")
        self._keys: list[tuple[Mapping[str, Any], Any]] = []
        for item in found:
            if not isinstance(item, dict) or item.get("kty") not in _KINDS.values() or item.get("use") == "enc":
                continue
            try:
                key = jwt.PyJWK(item).key
            except jwt.PyJWTError:
                continue
            if getattr(key, "key_size", LEAST_RSA_BITS) < LEAST_RSA_BITS and item["kty"] == "RSA":
                continue
            self._keys.append((item, key))
        if not self._keys:
            raise ValueError("has no key that can check a signature")

    def find(self, kid: object, algorithm: str) -> Any:
        """The key that a token's header names. Raises UnknownKeyError."""
        kind = _KINDS[algorithm[:2]]
        fit = [
            key
            for item, key in self._keys
            if item["kty"] == kind
            and item.get("alg", algorithm) == algorithm
            and (item.get("kid") == kid if kid is not None else True)
        ]
        if len(fit) != 1:
            raise UnknownKeyError(_BAD)
        return fit[0]


def issued_by(token: str) -> str:
    """Whose token it says it is; nothing of it is checked yet. Raises UnauthenticatedError."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError:
        raise UnauthenticatedError(_BAD) from None
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise UnauthenticatedError(_BAD)
    return issuer


def verified(token: str, issuer: Issuer, keys: PublicKeys) -> tuple[str, bool]:
    """Tenant, and whether it is an admin's token.

    Raises:
        UnknownKeyError: no such key.
        UnauthenticatedError: it is not to be believed.

    """
    try:
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in issuer.algorithms:
            raise UnauthenticatedError(_BAD)
        claims = jwt.decode(
            token,
            keys.find(header.get("kid"), algorithm),
            algorithms=[algorithm],
            audience=issuer.audience,
            issuer=issuer.issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iss", "aud"]},
        )
    except jwt.ExpiredSignatureError:  # its signature was right, so its owner may know
        raise UnauthenticatedError("the token has expired") from None
    except jwt.PyJWTError:
        raise UnauthenticatedError(_BAD) from None
    name = claims.get(issuer.tenant_claim)
    tenant = f"{issuer.tenant_prefix}{name}" if isinstance(name, str) else ""
    if not TENANT.fullmatch(tenant):
        raise UnauthenticatedError(f"the token's claim {issuer.tenant_claim!r} names no tenant")
    return tenant, _is_admin(claims, issuer)


def _is_admin(claims: Mapping[str, Any], issuer: Issuer) -> bool:
    if not issuer.admin_claim:
        return False
    told = claims.get(issuer.admin_claim)
    return issuer.admin_value in (told if isinstance(told, list) else [told])
