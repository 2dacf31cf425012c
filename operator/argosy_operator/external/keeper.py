"""Keeps the serving certificate in its Secret, and the APIService trusting it. One operator does, the one that leads.

A new certificate is trusted before it is served: the bundle of the APIService gets it first, beside the former one,
then the Secret, from which all operators take it. Whatever happens in between, what is served is trusted.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import quote

from argosy_api.backoff import Backoff
from argosy_kube.reflector import WatchError
from argosy_operator.external import certificates
from argosy_operator.external.certificates import Pair
from argosy_operator.external.documents import GROUP, VERSION
from argosy_operator.settings import ExternalMetrics

log = logging.getLogger(__name__)

LOOK_S = 60.0
"""Between two looks at whether all is as it should be: somebody may change the APIService, or delete the Secret."""
API_SERVICE = f"/apis/apiregistration.k8s.io/v1/apiservices/{VERSION}.{GROUP}"
CERTIFICATE, KEY = "tls.crt", "tls.key"
_BACKOFF = Backoff(first=0.5, cap=30.0)
_MOST_TRUSTED = 2
"""The present one and the former."""
_MANAGER = "?fieldManager=argosy-operator-external"

Object = dict[str, Any]


class ObjectApi(Protocol):
    """What is asked of the API server. Everything raises `WatchError`."""

    async def get(self, path: str, params: dict[str, str]) -> Object:
        """One object."""
        ...

    async def write(self, method: str, path: str, document: Object) -> Object:
        """PUT an object; as it is then."""
        ...


def secret_path(settings: ExternalMetrics) -> str:
    """Of the Secret that has the certificate."""
    return f"/api/v1/namespaces/{quote(settings.namespace, safe='')}/secrets/{quote(settings.secret, safe='')}"


def pair_of(secret: Mapping[str, Any]) -> Pair | None:
    """What is in the Secret; None: nothing yet, or nothing that could be read."""
    data = secret.get("data") or {}
    certificate, key = _decoded(data.get(CERTIFICATE)), _decoded(data.get(KEY))
    return Pair(certificate, key) if certificate and key else None


class Keeper:
    """Works as long as this operator leads; `may_write` of its session holds back what comes later."""

    def __init__(
        self, api: ObjectApi, settings: ExternalMetrics, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._api, self._settings, self._clock = api, settings, clock
        self._names = certificates.hosts(settings.service, settings.namespace)
        self._said = ""

    async def run(self) -> None:
        """Runs until it is cancelled."""
        failures = 0
        while True:
            try:
                await self.once()
                failures = 0
            except WatchError as error:
                failures += 1
                self._say(f"the serving certificate is not in order: {error}")
            await asyncio.sleep(_BACKOFF.jittered(failures) if failures else LOOK_S)

    async def once(self) -> None:
        """One look, and what it takes.

        Raises:
            WatchError: the API server refused something, or did not answer. Another look will do.

        """
        now = self._clock()
        secret = await self._api.get(secret_path(self._settings), {})
        service = await self._api.get(API_SERVICE, {})
        if problem := self._not_ours(service):
            self._say(problem)
            return
        pair = pair_of(secret)
        why = "there is none" if pair is None else certificates.why_not(pair, self._names, now)
        if pair is None or why:
            fresh = certificates.make(self._names, now)
            await self._trust(service, fresh, pair, now)
            data = {
                CERTIFICATE: base64.b64encode(fresh.certificate).decode(),
                KEY: base64.b64encode(fresh.key).decode(),
            }
            await self._api.write(
                "PUT",
                secret_path(self._settings) + _MANAGER,
                {**secret, "data": {**(secret.get("data") or {}), **data}},
            )
            log.info("a new serving certificate for %s: %s", self._names[0], why)
        else:
            await self._trust(service, pair, None, now)
        self._said = ""

    def _not_ours(self, service: Object) -> str:
        """An APIService that leads to somebody else is somebody else's."""
        leads = (service.get("spec") or {}).get("service") or {}
        where = f"{leads.get('namespace')}/{leads.get('name')}" if leads else "the API server itself"
        if where == f"{self._settings.namespace}/{self._settings.service}":
            return ""
        return (
            f"{VERSION}.{GROUP} is served by {where}, and one cluster has one provider of it: nothing was changed. "
            "Remove that one, or switch externalMetrics off"
        )

    async def _trust(self, service: Object, pair: Pair, former: Pair | None, now: datetime) -> None:
        """Have the API server trust this pair, and the former one, which others may serve for another moment."""
        spec = service["spec"]
        before = certificates.still_good(_decoded(spec.get("caBundle")), now)
        if pair.certificate in before and len(before) <= _MOST_TRUSTED:
            return
        trusted = [pair.certificate, *(certificates.still_good(former.certificate, now) if former is not None else [])]
        bundle = base64.b64encode(b"".join(trusted)).decode()
        await self._api.write("PUT", API_SERVICE + _MANAGER, {**service, "spec": {**spec, "caBundle": bundle}})

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            log.warning("%s", what)


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(str(text or ""), validate=True)
    except (binascii.Error, ValueError):
        return b""
