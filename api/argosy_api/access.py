"""Who may ask the router, and how much: the document that it reads (`--access`), and the form of API keys.

The chart makes the document of its value `access`. Keys lie in a directory of small files, as a mounted Secret is one.
"""

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from argosy_api import limits
from argosy_api.checking import first_problem
from argosy_api.errors import InvalidArgumentError
from argosy_api.spec.strict import Strict

ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that a token may have. None with a shared secret: then a public key could be taken for one."""
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]

TENANT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:@/|-]{0,126}[A-Za-z0-9])?")
"""What a tenant may be called: fit for labels, logs and Redis."""


class TenantLimits(Strict):
    """What one tenant may have. Of what is not given there is no limit."""

    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Requests that begin, on average."""
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Tokens of prompts and answers, on average."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Answers under way at once."""
    kv_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Part of the KV cache of a model's workers that its requests under way may fill."""
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Of the tokens that workers compute, while several tenants wait, as compared with the others'."""
    max_priority: Annotated[int, Field(ge=-limits.MAX_PRIORITY, le=limits.MAX_PRIORITY)] = 0
    """A request that asks for more gets this."""


class Issuer(Strict):
    """Who signs tokens (JWT) that are believed."""

    issuer: Annotated[str, Field(min_length=1, max_length=512)]
    """The claim `iss`."""
    audience: Annotated[str, Field(min_length=1, max_length=512)]
    """The claim `aud` names it: a token for somebody else is refused."""
    jwks_url: Annotated[str, Field(pattern="^https?://", max_length=2048)] = ""
    """Where the issuer's public keys are. Either this or `jwksFile`."""
    jwks_file: Annotated[str, Field(max_length=1024)] = ""
    """A file with them."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1, strict=False)] = ("RS256", "ES256", "EdDSA")
    """Of signatures; all others are refused."""
    tenant_claim: Annotated[str, Field(min_length=1, max_length=128)] = "sub"
    """The claim that names the tenant."""
    tenant_prefix: Annotated[str, Field(max_length=64)] = ""
    """Put in front of what it says, where several issuers could name equal ones."""
    admin_claim: Annotated[str, Field(max_length=128)] = ""
    """A claim, a text or a list of texts, that makes an admin of whoever has `adminValue` in it. Empty: nobody."""
    admin_value: Annotated[str, Field(max_length=256)] = ""

    @model_validator(mode="after")
    def _one_place(self) -> "Issuer":
        if bool(self.jwks_url) == bool(self.jwks_file):
            raise ValueError("give either jwksUrl or jwksFile")
        if bool(self.admin_claim) != bool(self.admin_value):
            raise ValueError("adminClaim and adminValue belong together")
        return self


class Access(Strict):
    """The whole document."""

    required: bool = True
    """Whether a request needs a credential. Without, one that has some is not believed to be anybody either."""
    issuers: Annotated[tuple[Issuer, ...], Field(max_length=16, strict=False)] = ()
    defaults: TenantLimits = TenantLimits()
    """Of tenants that are not named below, and of what is not given for those that are."""
    tenants: Annotated[dict[str, TenantLimits], Field(max_length=limits.MAX_TENANTS)] = {}

    def limits_of(self, tenant: str) -> TenantLimits:
        """What this tenant may have."""
        own = self.tenants.get(tenant)
        if own is None:
            return self.defaults
        return self.defaults.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


def parse(text: str) -> Access:
    """Read the document, as YAML or JSON.

    Raises:
        InvalidArgumentError: naming the field.

    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidArgumentError("access", f"is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(document, dict):
        raise InvalidArgumentError("access", "must be a mapping")
    try:
        made = Access.model_validate(document)
    except ValidationError as error:
        found = first_problem(error, Access, "access document")
        raise InvalidArgumentError(f"access.{found.field}", found.problem) from None
    for name in made.tenants:
        if not TENANT.fullmatch(name):
            raise InvalidArgumentError("access.tenants", f"{name[:64]!r} is no name of a tenant")
    return made


# --- keys

_KEY = re.compile(r"argosy-([a-z0-9]{12})-([A-Za-z0-9]{32,64})")


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """What is kept of a key, in a file that has its id as its name."""

    tenant: str
    sha256: str
    """`digest` of the key."""
    admin: bool = False

    def to_json(self) -> str:
        """One line."""
        more = {"admin": True} if self.admin else {}
        return json.dumps({"tenant": self.tenant, "sha256": self.sha256, **more})


def new_key(tenant: str, *, admin: bool = False) -> tuple[str, str, KeyEntry]:
    """A key for a tenant, its id, and what is kept of it. Raises InvalidArgumentError."""
    if not TENANT.fullmatch(tenant):
        raise InvalidArgumentError("tenant", f"{tenant[:64]!r} must be letters, digits and ._:@/|- (128 at most)")
    key_id, secret = secrets.token_hex(6), secrets.token_hex(24)
    return f"argosy-{key_id}-{secret}", key_id, KeyEntry(tenant, digest(key_id, secret), admin)


def split_key(text: str) -> tuple[str, str] | None:
    """A key's id and its secret; None: it is no key."""
    found = _KEY.fullmatch(text)
    return (found[1], found[2]) if found else None


def digest(key_id: str, secret: str) -> str:
    """What is kept of a secret. It has 128 random bits or more, so no slow hash is needed; the id is the salt."""
    return hashlib.sha256(f"{key_id}:{secret}".encode()).hexdigest()


def parse_entry(text: str) -> KeyEntry:
    """What a key's file says. Raises InvalidArgumentError."""
    try:
        document = json.loads(text)
    except ValueError:
        raise InvalidArgumentError("key", "is no JSON") from None
    if not isinstance(document, dict) or document.keys() - {"tenant", "sha256", "admin"}:
        raise InvalidArgumentError("key", "must be an object of tenant, sha256 and admin")
    tenant, sha256, admin = document.get("tenant"), document.get("sha256"), document.get("admin", False)
    if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
        raise InvalidArgumentError("key.tenant", "is no name of a tenant")
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InvalidArgumentError("key.sha256", "must be 64 hexadecimal digits")
    if not isinstance(admin, bool):
        raise InvalidArgumentError("key.admin", "must be true or false")
    return KeyEntry(tenant, sha256, admin)
