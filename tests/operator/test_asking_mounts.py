"""Of what a kubelet says of a volume that does not mount, the cause is told."""

import time

from argosy_operator.asking import ask_starting
from argosy_operator.observe import PodView

CAUSE = 'MountVolume.SetUp failed for volume "models" : hostPath type check failed'
IN_VAIN = "Unable to attach or mount volumes: unmounted volumes=[models]: context deadline exceeded"


class Api:
    """Has said these things of a pod: a message, or one with the second in which it was said last."""

    def __init__(self, *messages):
        self.messages = [said if isinstance(said, tuple) else (said, 0) for said in messages]

    async def events_of(self, namespace, uid):
        return [
            {"reason": "FailedMount", "message": text, "lastTimestamp": f"2026-01-01T00:00:{second:02}Z"}
            for text, second in self.messages
        ]


async def told(*messages):
    waiting = {"name": "worker", "state": {"waiting": {"reason": "ContainerCreating"}}}
    scheduled = {"type": "PodScheduled", "status": "True"}
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 600))
    body = {
        "metadata": {"name": "stored", "uid": "u", "creationTimestamp": made},
        "spec": {"nodeName": "node-1"},
        "status": {"conditions": [scheduled], "containerStatuses": [waiting], "phase": "Pending"},
    }
    found = await ask_starting(None, Api(*messages), "default", (PodView.from_body(body),))
    return found.mount_problems.get("stored")


async def test_the_cause_is_told_also_after_the_kubelet_has_waited_in_vain():
    assert await told(CAUSE, IN_VAIN) == CAUSE
    assert await told(IN_VAIN, CAUSE) == CAUSE


async def test_that_it_has_waited_is_told_when_it_says_no_more():
    assert await told(IN_VAIN) == IN_VAIN
    assert await told() is None


async def test_what_was_said_last_is_told_whatever_was_said_first():
    once = (
        'MountVolume.SetUp failed for volume "key" : failed to sync secret cache: timed out waiting for the condition'
    )
    assert await told((CAUSE, 40), (once, 2)) == CAUSE
    assert await told((CAUSE, 1), (once, 2)) == once
