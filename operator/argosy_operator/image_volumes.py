"""Whether the API server takes image volumes, which hold oci:// models. One that does not drops them without a word.

So it is asked by a trial: a Deployment with such a volume is applied, to no effect (`dryRun`), and what comes back
either has the volume or not. A version number would not tell: in 1.33 and 1.34 a feature gate decides.
"""

import time
from typing import Any

from argosy_operator.errors import ApiError
from argosy_operator.kube import KubeApi

ASK_AGAIN_S = 60.0
"""A cluster may be upgraded."""
_NAME = "argosy-image-volumes"


class ImageVolumes:
    """Asks an API server once, and again while the answer is no."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._refusal: str | None = None
        self._asked_at = 0.0

    async def refusal(self, namespace: str) -> str:
        """Why oci:// models cannot be served in this cluster; empty where they can.

        Raises:
            ApiError: the API server does not tell.

        """
        if self._refusal is None or (self._refusal and time.monotonic() - self._asked_at > ASK_AGAIN_S):
            self._refusal = "" if await self._are_taken(namespace) else _words(await self._api.version())
            self._asked_at = time.monotonic()
        return self._refusal

    async def _are_taken(self, namespace: str) -> bool:
        try:
            result = await self._api.try_apply(trial(namespace))
        except ApiError as error:
            if "not declared in schema" in error.message:  # before 1.31
                return False
            raise
        volumes = result["spec"]["template"]["spec"].get("volumes") or ()
        return any("image" in volume for volume in volumes)


def trial(namespace: str) -> dict[str, Any]:
    """A Deployment that has an image volume, and is never made."""
    container = {"name": "c", "image": "none", "volumeMounts": [{"name": "image", "mountPath": "/image"}]}
    pod = {"containers": [container], "volumes": [{"name": "image", "image": {"reference": "none"}}]}
    marks = {"app.kubernetes.io/name": _NAME}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": _NAME, "namespace": namespace},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": marks},
            "template": {"metadata": {"labels": marks}, "spec": pod},
        },
    }


def _words(version: str) -> str:
    return (
        f"Models from oci:// are mounted as image volumes, which this API server (Kubernetes {version}) does not take. "
        "Kubernetes 1.35 does; 1.33 and 1.34 with the feature gate ImageVolume, of the API server and of the kubelets. "
        "Until then use hf:// or pvc://."
    )
