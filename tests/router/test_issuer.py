"""Tokens of issuers: whose they are, and which are not to be believed."""

import base64
import hashlib
import hmac
import json
import time

import pytest
from access_kit import AUDIENCE, ISSUER, Signer, key_set
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from argosy_api.access import Issuer
from argosy_api.errors import UnauthenticatedError, UnavailableError
from argosy_router.tenants import issuers as issuers_module
from argosy_router.tenants.issuer import PublicKeys, UnknownKeyError, verified
from argosy_router.tenants.issuers import Issuers

SIGNERS = {kind: Signer(kind) for kind in ("RSA", "EC", "OKP")}
RSA = SIGNERS["RSA"]
TRUSTED = Issuer(issuer=ISSUER, audience=AUDIENCE, jwks_file="keys.json")


def check(token: str, issuer: Issuer = TRUSTED, keys: str | None = None) -> tuple[str, bool]:
    return verified(token, issuer, PublicKeys(keys or key_set(RSA)))


@pytest.mark.parametrize("kind", SIGNERS)
def test_a_sound_token_names_its_tenant(kind):
    signer = SIGNERS[kind]
    assert check(signer.token(), keys=key_set(signer)) == ("team-a", False)


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _unsigned() -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "team-a", "exp": int(time.time()) + 300}
    return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}."


def _signed_with_the_public_key() -> str:
    """HS256, with the public key's text as the shared secret: the classic confusion."""
    public = RSA.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "team-a", "exp": int(time.time()) + 300}
    body = f"{_part({'alg': 'HS256', 'typ': 'JWT', 'kid': 'k1'})}.{_part(claims)}"
    mac = hmac.new(public, body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


HOUR = 3600
BAD = {
    "no signature": _unsigned,
    "HMAC with the public key": _signed_with_the_public_key,
    "another key of the same name": lambda: Signer("RSA").token(),
    "an algorithm that is not allowed": SIGNERS["EC"].token,
    "another issuer": lambda: RSA.token(iss="https://evil.example"),
    "another audience": lambda: RSA.token(aud="somebody-else"),
    "no audience": lambda: RSA.token(aud=None),
    "expired": lambda: RSA.token(exp=int(time.time()) - HOUR),
    "no end": lambda: RSA.token(exp=None),
    "not yet": lambda: RSA.token(nbf=int(time.time()) + HOUR),
    "no tenant": lambda: RSA.token(sub=None),
    "a tenant that is no name": lambda: RSA.token(sub="a\nb"),
    "a tenant that is a list": lambda: RSA.token(tenant=["a"], sub=None),
    "a key's name that is a path": lambda: RSA.token(headers={"kid": "../../etc/passwd"}),
    "cut off": lambda: RSA.token()[:-8],
    "altered": lambda: RSA.token().replace(".", ".e30", 1),
    "no token": lambda: "a.b.c",
}


@pytest.mark.parametrize("what", BAD)
def test_others_are_refused(what):
    only_rsa = TRUSTED.model_copy(update={"algorithms": ("RS256",)})
    with pytest.raises(UnauthenticatedError):
        check(BAD[what](), only_rsa)


@given(st.text(max_size=60))
def test_any_text_is_refused(text):
    with pytest.raises(UnauthenticatedError):
        check(text)


def test_who_is_an_admin_the_issuer_says():
    issuer = TRUSTED.model_copy(update={"admin_claim": "roles", "admin_value": "operators", "tenant_prefix": "corp:"})
    assert check(RSA.token(roles=["users", "operators"]), issuer) == ("corp:team-a", True)
    assert check(RSA.token(roles="operators"), issuer) == ("corp:team-a", True)
    assert check(RSA.token(roles="operators-not"), issuer) == ("corp:team-a", False)
    assert check(RSA.token(), issuer) == ("corp:team-a", False)


def test_a_key_that_is_too_short_counts_for_nothing():
    from cryptography.hazmat.primitives.asymmetric import rsa

    weak = Signer("RSA")
    weak.private = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    with pytest.raises(ValueError, match="no key"):
        PublicKeys(key_set(weak))


def test_of_two_keys_without_names_none_is_guessed():
    one, other = Signer("RSA", kid="a"), Signer("RSA", kid="b")
    with pytest.raises(UnknownKeyError):
        check(one.token(headers={"kid": None}), keys=key_set(one, other))
    assert check(one.token(headers={"kid": None}), keys=key_set(one)) == ("team-a", False)


class Page:
    """An issuer's key set on HTTP."""

    def __init__(self) -> None:
        self.text, self.status, self.asked = "", 200, 0

    async def __aenter__(self):
        async def keys(_):
            self.asked += 1
            return web.Response(text=self.text, status=self.status)

        app = web.Application()
        app.router.add_get("/jwks", keys)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/jwks"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()


async def test_a_new_key_is_found_and_an_unknown_one_asks_seldom(monkeypatch):
    time_now = 1000.0
    monkeypatch.setattr(issuers_module, "now", lambda: time_now)
    old, new = Signer(kid="old"), Signer(kid="new")
    async with Page() as page:
        page.text = key_set(old)
        known = Issuers((Issuer(issuer=ISSUER, audience=AUDIENCE, jwks_url=page.url),))
        assert await known.who(old.token()) == ("team-a", False)
        page.text = key_set(new)
        for _ in range(3):  # at once again: the set was read a moment ago
            with pytest.raises(UnauthenticatedError):
                await known.who(new.token())
        assert page.asked == 1
        time_now += 60
        assert await known.who(new.token()) == ("team-a", False)
        with pytest.raises(UnauthenticatedError):  # withdrawn
            await known.who(old.token())
        assert page.asked == 2
        page.status = 500
        time_now += 60
        with pytest.raises(UnauthenticatedError):
            await known.who(old.token())
        assert await known.who(new.token()) == ("team-a", False)  # an issuer that is away takes no key away


async def test_without_any_key_set_it_is_said_to_be_away():
    async with Page() as page:
        page.text = "<html>"
        known = Issuers((Issuer(issuer=ISSUER, audience=AUDIENCE, jwks_url=page.url),))
        with pytest.raises(UnavailableError):
            await known.who(RSA.token())
        with pytest.raises(UnauthenticatedError):
            await known.who(RSA.token(iss="https://evil.example"))
