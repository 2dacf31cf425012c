"""When a worker's pod may count as ready: the readiness gate `argosy.dev/routable`.

A Deployment ends an old pod for each new one that is ready. With the gate, ready means that every router that answers
has reached the worker, knows its model, and can send the next request there. The condition stays once it is set: a
router that fails later leaves a worker out by itself, and must not make a Deployment replace it.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any

from argosy_api import labels
from argosy_operator.errors import ApiError
from argosy_operator.facts import RouterFacts
from argosy_operator.kube import KubeApi
from argosy_operator.observe import PodView

_AT_ONCE = 8
"""Half of the places that there are for requests: a resource of a thousand workers leaves others theirs."""


def opens(pod: PodView, router: RouterFacts | None) -> bool:
    """Whether the pod's gate is to be opened now.

    Nobody waits for routers that there are none of: where the operator asks none (None), or none answers, the worker's
    own readiness counts. Before the first answer of this process it is not known whether there are any.
    """
    if not (pod.gated and pod.answering and pod.active):
        return False
    if router is None or pod.rank:  # nobody routes to a rank above 0
        return True
    return router.asked and (router.reachable == 0 or pod.name in router.reached)


async def open_gates(
    api: KubeApi, namespace: str, pods: tuple[PodView, ...], router: RouterFacts | None, opened: set[str]
) -> ApiError | None:
    """Open those that are to be opened, each once and several at a time; the first refusal is returned.

    `opened` has uids of pods.
    """
    opened &= {pod.uid for pod in pods}
    due = [pod for pod in pods if pod.uid not in opened and opens(pod, router)]
    condition, places, unanswered = _condition(router), asyncio.Semaphore(_AT_ONCE), asyncio.Event()

    async def open_one(pod: PodView) -> ApiError | None:
        try:
            async with places:
                if unanswered.is_set():  # a thousand time-outs would make the pass endless
                    return None
                await api.apply_pod_condition(namespace, pod.name, pod.uid, condition)
        except ApiError as error:
            if error.status == 0:
                unanswered.set()
            # else the pod is gone, or another one has its name
            return None if error.status in (404, 409, 422) else error
        opened.add(pod.uid)
        return None

    results = await asyncio.gather(*(open_one(pod) for pod in due))
    return next((error for error in results if error is not None), None)


def is_waiting(pods: tuple[PodView, ...]) -> bool:
    """Whether a worker is there that only routers must still reach."""
    return any(pod.gated and pod.answering and pod.active for pod in pods)


def _condition(router: RouterFacts | None) -> dict[str, Any]:
    asked = router is not None and router.reachable
    return {
        "type": labels.ROUTABLE,
        "status": "True",
        "reason": "Reached" if asked else "NobodyToAsk",
        "message": "Every router that answers reaches the worker." if asked else "There is no router that answers.",
        "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
