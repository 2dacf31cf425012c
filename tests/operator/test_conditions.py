"""The status is honest: each thing that can be wrong becomes a reason, and a sentence that says what to do."""

import json
from dataclasses import replace

import fakecluster
import pytest

from argosy_api.status import Condition
from argosy_api.worker_status import Phase, WorkerStatus
from argosy_operator.conditions import status_of
from argosy_operator.events import Announcer
from argosy_operator.facts import Facts, Failure, RouterFacts
from argosy_operator.observe import Children, ChildView, PodView
from argosy_operator.plan import ChildRef
from argosy_operator.words import redact

NOW = "2026-01-01T00:00:00Z"
REVISION = "r1"


def pod(name="m-worker-a", *, status=None, revision=REVISION, volumes=(), **more):
    body = {
        "metadata": {"name": name, "uid": name, "labels": {"serving.argosy.dev/revision": revision}, **more},
        "spec": {"nodeName": "node-1", "volumes": volumes},
        "status": status if status is not None else fakecluster.ready({}),
    }
    scheduled = [c for c in body["status"].get("conditions", ()) if c["type"] == "PodScheduled"]
    if not scheduled or scheduled[0]["status"] == "False":
        del body["spec"]["nodeName"]
    return PodView.from_body(body)


def running(**container):
    status = fakecluster.ready({})
    status["conditions"][1]["status"] = "False"
    status["containerStatuses"][0] |= container
    return status


def status(*pods, previous=(), deployment=(), now=NOW, **facts):
    ref = ChildRef("apps/v1", "Deployment", "m-leader")
    children = Children(tuple(pods), {ref: ChildView(ref, "f", conditions=tuple(deployment))})
    made = Facts(
        **{"name": "m", "generation": 3, "revision": REVISION, "workloads": (ref,), "children": children, **facts}
    )
    return status_of(made, tuple(previous), now)


def condition(found, kind):
    return next(c for c in found.conditions if c.type == kind)


CRASH = {"exitCode": 1, "reason": "Error", "message": "Traceback: boom"}
MODEL = {"exitCode": 78, "reason": "Error", "message": json.dumps({"reason": "ModelInvalid", "message": "bad magic"})}
OOM = {"exitCode": 137, "reason": "OOMKilled", "message": ""}
LOOP = ("CrashLoopBackOff", "back-off 10s restarting failed container")

TABLE = [
    # what Kubernetes says of the pod, reason, condition that is False, words that the message must have
    (fakecluster.unschedulable("0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: none"), "InsufficientGpu", "Scheduled", ["2 Insufficient nvidia.com/gpu", "spec.resources.gpu"]),
    (fakecluster.unschedulable("0/2 nodes are available: 2 Insufficient memory."), "InsufficientMemory", "Scheduled", ["spec.resources.memory"]),
    (fakecluster.unschedulable("0/2 nodes are available: 2 Insufficient cpu."), "InsufficientCpu", "Scheduled", ["spec.resources.cpu"]),
    (fakecluster.unschedulable('persistentvolumeclaim "models" not found'), "ClaimNotFound", "Scheduled", ["Create the PersistentVolumeClaim models"]),
    (fakecluster.unschedulable("pod has unbound immediate PersistentVolumeClaims"), "ClaimNotBound", "Scheduled", ["storage class"]),
    (fakecluster.unschedulable("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."), "Unschedulable", "Scheduled", ["spec.placement"]),
    (fakecluster.waiting("ErrImagePull", 'failed to pull "x:1": not found'), "ImagePullFailed", "Ready", ["x:1", "spec.image"]),
    (fakecluster.waiting("ImagePullBackOff", 'Back-off pulling image "x:1"'), "ImagePullFailed", "Ready", ["x:1"]),
    (fakecluster.waiting("InvalidImageName", "couldn't parse image name"), "ImagePullFailed", "Ready", ["parse image name"]),
    (fakecluster.waiting("ErrImageNeverPull", "not present with pull policy of Never"), "ImagePullFailed", "Ready", ["Never"]),
    (fakecluster.waiting("CreateContainerConfigError", 'secret "hf" not found'), "SecretNotFound", "Ready", ["Create the Secret hf"]),
    (fakecluster.waiting("CreateContainerConfigError", "couldn't find key token in Secret default/hf"), "SecretNotFound", "Ready", ["key token", "Secret hf"]),
    (fakecluster.waiting("CreateContainerConfigError", "container has runAsNonRoot"), "ContainerConfigError", "Ready", ["runAsNonRoot"]),
    (fakecluster.waiting(*LOOP, ended=CRASH, restarts=4), "CrashLooping", "Ready", ["exit code 1", "4 times", "boom", "kubectl logs"]),
    (fakecluster.waiting(*LOOP, ended=MODEL, restarts=2), "ModelInvalid", "ModelLoaded", ["bad magic"]),
    (fakecluster.waiting(*LOOP, ended=OOM, restarts=2), "OutOfMemory", "ModelLoaded", ["spec.resources.memory"]),
    (running(state={"terminated": MODEL}), "ModelInvalid", "ModelLoaded", ["bad magic"]),
    ({"phase": "Failed", "conditions": [{"type": "PodScheduled", "status": "True"}]}, "Starting", "Ready", []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "reason", "kind", "words"), TABLE, ids=[f"{i}-{row[1]}" for i, row in enumerate(TABLE)]
)
def test_what_kubernetes_says_becomes_a_reason(said, reason, kind, words):
    found = status(pod(status=said))
    ready = condition(found, "Ready")
    assert (ready.status, ready.reason) == ("False", reason)
    assert found.reason == reason
    assert condition(found, kind).status == "False"
    assert condition(found, kind).reason == reason
    for word in words:
        assert word in ready.message
        assert word in condition(found, kind).message


@pytest.mark.parametrize(
    ("said", "mount", "reason", "words"),
    [
        (fakecluster.waiting("ImagePullBackOff", 'Back-off pulling image "r.io/m:v1"'), "", "ImagePullFailed", "Check spec.model.uri"),
        (fakecluster.waiting("ImagePullBackOff", 'Back-off pulling image "x:1"'), "", "ImagePullFailed", "Check spec.image"),
        (
            fakecluster.waiting("CreateContainerError", 'failed to apply OCI options: failed to mkdir "": mkdir : no such file or directory'),
            "", "ImageVolumesNotSupported", "containerd 2.1",
        ),
        (
            fakecluster.waiting("ContainerCreating", ""),
            'MountVolume.SetUp failed for volume "model-image": no volume plugin matched', "ImageVolumesNotSupported", "spec.placement",
        ),
    ],
)  # fmt: skip
def test_a_node_that_cannot_mount_the_model_s_image_is_told(said, mount, reason, words):
    one = pod(status=said, volumes=[{"name": "model-image", "image": {"reference": "r.io/m:v1"}}])
    ready = condition(status(one, mount_problems={one.name: mount} if mount else {}), "Ready")
    assert (ready.status, ready.reason) == ("False", reason)
    assert words in ready.message


def test_routers_that_do_not_hear_what_workers_cache():
    router = RouterFacts(reachable=2, total=2, ready=frozenset({"a"}))
    healthy = condition(status(pod("a"), router=router), "KVIndexHealthy")
    assert (healthy.status, healthy.reason) == ("True", "Indexed")
    found = status(pod("a"), router=replace(router, behind=frozenset({"a"})))
    behind = condition(found, "KVIndexHealthy")
    assert (behind.status, behind.reason) == ("False", "IndexBehind")
    assert "a cache" in behind.message
    assert condition(found, "Ready").status == "True"
    wrong = ("False", "IndexBlind", "they do not know")
    blind = replace(router, index=wrong)
    for facts, reason in ((blind, "IndexBlind"), (replace(blind, behind=frozenset({"a"})), "IndexBehind"),
                          (replace(router, index=("Unknown", "NotObserved", "too few")), "Indexed")):  # fmt: skip
        assert condition(status(pod("a"), router=facts), "KVIndexHealthy").reason == reason
    for facts in (None, replace(router, reachable=0), replace(router, ready=frozenset())):
        assert condition(status(pod("a"), router=facts), "KVIndexHealthy").status == "Unknown"


STATES = [
    (WorkerStatus(phase=Phase.DOWNLOADING, progress=0.43), "Downloading", "45 %"),
    (WorkerStatus(phase=Phase.LOADING, message="mapping weights"), "Loading", "mapping weights"),
    (WorkerStatus(phase=Phase.STARTING), "Starting", "is starting"),
    (WorkerStatus(phase=Phase.FAILED, reason="ModelNotFound", message="no such file"), "ModelNotFound", "no such file"),
    (WorkerStatus(phase=Phase.FAILED, reason="not a reason!", message="odd"), "Failed", "odd"),
    (None, "Starting", "not ready yet"),
]


@pytest.mark.parametrize(("state", "reason", "words"), STATES)
def test_what_the_worker_says_becomes_a_reason(state, reason, words):
    found = status(pod(status=running()), workers={} if state is None else {"m-worker-a": state})
    assert condition(found, "Ready").reason == reason
    loaded = condition(found, "ModelLoaded")
    assert (loaded.status, loaded.reason) == ("False", reason)
    assert words in loaded.message
    assert condition(found, "Scheduled").status == "True"


def test_a_running_worker_that_crashed_before_tells_what_it_does_now():
    said = running(restartCount=1, lastState={"terminated": CRASH})
    found = status(pod(status=said), workers={"m-worker-a": WorkerStatus(phase=Phase.LOADING)})
    assert condition(found, "Ready").reason == "Loading"


def test_a_volume_that_does_not_mount():
    said = fakecluster.waiting("ContainerCreating", "")
    found = status(pod(status=said), mount_problems={"m-worker-a": "MountVolume.SetUp failed: timed out"})
    assert condition(found, "Ready").reason == "MountFailed"
    assert "timed out" in condition(found, "Ready").message


def test_a_quota_that_forbids_pods():
    said = ("ReplicaFailure", "True", "FailedCreate", 'pods "x" is forbidden: exceeded quota')
    found = status(deployment=[said])
    assert condition(found, "Ready").reason == "PodCreationFailed"
    assert "exceeded quota" in condition(found, "Ready").message


def test_no_progress_for_too_long():
    said = ("Progressing", "False", "ProgressDeadlineExceeded", 'ReplicaSet "x" has timed out progressing.')
    found = status(pod(status=running()), deployment=[said])
    assert (condition(found, "Progressing").status, condition(found, "Progressing").reason) == (
        "False",
        "ProgressDeadlineExceeded",
    )


def test_ready_is_about_this_revision_only():
    found = status(pod("old", revision="r0"), pod("new", status=running()), replicas=1)
    assert condition(found, "Ready").status == "False"
    assert "earlier revision can serve" in condition(found, "Ready").message
    assert (found.replicas, found.ready_replicas, found.updated_replicas, found.routable_replicas) == (2, 1, 1, 0)
    assert condition(found, "Progressing").reason == "RollingOut"


def test_the_cause_comes_before_the_rollout():
    bad = pod("new", status=fakecluster.waiting("ErrImagePull", "no such image"))
    found = status(pod("old", revision="r0"), bad)
    assert condition(found, "Ready").reason == "ImagePullFailed"


def test_ready_needs_the_routers():
    router = RouterFacts(reachable=2, total=2, ready=frozenset({"a"}))
    found = status(pod("a"), pod("b"), replicas=2, router=router)
    assert (condition(found, "Ready").status, condition(found, "Ready").reason) == ("False", "Syncing")
    assert condition(found, "RouterSynced").message == "Routers do not reach b yet."
    assert found.ready == "1/2"
    found = status(
        pod("a"), pod("b"), replicas=2, router=RouterFacts(reachable=2, total=2, ready=frozenset({"a", "b"}))
    )
    assert condition(found, "Ready").status == condition(found, "RouterSynced").status == "True"
    assert condition(found, "Progressing").reason == "Complete"


def test_no_router_answers():
    found = status(pod("a"), router=RouterFacts(reachable=0, total=2, ready=frozenset(), error="refused"))
    assert (condition(found, "Ready").status, condition(found, "Ready").reason) == ("False", "RouterUnreachable")
    assert condition(found, "RouterSynced").status == "Unknown"


def test_without_an_address_of_routers_readiness_counts_and_the_condition_says_so():
    found = status(pod("a"))
    assert condition(found, "Ready").status == "True"
    assert (condition(found, "RouterSynced").status, condition(found, "RouterSynced").reason) == (
        "Unknown",
        "NotObserved",
    )


def test_a_terminating_pod_counts_for_nothing():
    found = status(pod("a", deletionTimestamp=NOW))
    assert (found.replicas, found.ready_replicas, found.routable_replicas) == (0, 0, 0)
    assert condition(found, "Ready").status == "False"


def test_workers_are_counted_by_role():
    """Ready when all of every role are; `roles` says which are missing."""

    def member(name, role, revision=REVISION, **more):
        marks = {"serving.argosy.dev/revision": revision, "serving.argosy.dev/role": role}
        return pod(name, labels=marks, **more)

    wanted = {"by_role": {"prefill": 1, "decode": 2}, "replicas": 3}
    pods = [member("p", "prefill"), member("d", "decode"), member("old", "decode", "former")]
    found = status(*pods, **wanted)
    assert [(r.role, r.replicas, r.ready_replicas, r.routable_replicas) for r in found.roles] == [
        ("prefill", 1, 1, 1),
        ("decode", 2, 2, 1),
    ]
    assert (found.ready, condition(found, "Ready").status) == ("2/3", "False")
    assert condition(status(*pods[:2], member("e", "decode"), **wanted), "Ready").status == "True"
    assert status(pod(), by_role={"": 1}).roles == []


def test_scaled_to_zero():
    found = status(replicas=0)
    assert (condition(found, "Ready").status, condition(found, "Ready").reason) == ("True", "ScaledToZero")
    assert found.ready == "0/0"


def test_a_failure_of_ours_is_told():
    found = status(pod("a"), failure=Failure("Forbidden", "no rights"))
    assert (condition(found, "Ready").status, condition(found, "Ready").reason) == ("False", "Forbidden")
    assert condition(found, "Progressing").status == "False"


def test_an_api_server_that_is_away_takes_no_readiness_from_workers_that_serve():
    found = status(pod("a"), failure=Failure("ApiServerUnavailable", "503"))
    assert condition(found, "Ready").status == "True"


def test_the_transition_time_changes_with_the_status_only():
    first = status(pod("a", status=running()))
    second = status(
        pod("a", status=fakecluster.waiting("ErrImagePull", "x")), previous=first.conditions, now="2026-01-02T00:00:00Z"
    )
    third = status(pod("a"), previous=second.conditions, now="2026-01-03T00:00:00Z")
    assert [condition(s, "Ready").last_transition_time for s in (first, second, third)] == [
        NOW,
        NOW,
        "2026-01-03T00:00:00Z",
    ]
    assert all(c.observed_generation == 3 for c in third.conditions)


def test_conditions_are_what_the_api_server_accepts():
    for said in [row[0] for row in TABLE]:
        for made in status(pod(status=said)).conditions:
            assert Condition.model_validate(made.model_dump()).reason.isalnum()


def test_news_is_told_once():
    now = {"t": 0.0}
    announcer = Announcer(lambda: now["t"])
    about = {"name": "m", "namespace": "default", "uid": "u"}
    good, bad = status(pod("a")), status(pod("a", status=fakecluster.waiting("ErrImagePull", "x")))
    assert [e["type"] for e in announcer.announce(about, (), bad)] == ["Warning"]
    assert announcer.announce(about, tuple(bad.conditions), bad) == []
    assert [e["type"] for e in announcer.announce(about, tuple(bad.conditions), good)] == ["Normal"]
    assert announcer.announce(about, tuple(good.conditions), bad) == []  # flapping
    now["t"] = 301.0
    assert len(announcer.announce(about, tuple(good.conditions), bad)) == 1


def test_any_number_of_workers_fits_into_a_message():
    names = [f"m-worker-{'x' * 200}-{i}" for i in range(1000)]
    found = status(*(pod(n) for n in names), replicas=1000, router=RouterFacts(reachable=1, total=1, ready=frozenset()))
    assert "and 997 more" in condition(found, "RouterSynced").message
    assert all(len(c.message) < 4096 for c in found.conditions)


def test_a_message_of_any_length_is_cut():
    found = status(pod("a"), failure=Failure("ApplyFailed", "x" * 100_000))
    assert len(condition(found, "Ready").message) == 4096


SECRETS = [
    ("redis://:hunter2@valkey:6379/0 does not answer", "hunter2"),
    ("no such repository: hf://user:hunter2@org/name", "hunter2"),
    ("redis://argosy-ns:hunter@2@valkey:6379", "hunter"),
    ("Authorization: Bearer hunter2hunter2", "hunter2"),
    ("token=hunter2 was refused", "hunter2"),
    ('{"password": "hunter2"}', "hunter2"),
    ("401 for hf_abcdefghijklmnop", "abcdefghijklmnop"),
]


@pytest.mark.parametrize(("said", "secret"), SECRETS)
def test_last_words_are_told_without_credentials(said, secret):
    crash = {"exitCode": 1, "reason": "Error", "message": said}
    failed = {"exitCode": 78, "reason": "Error", "message": json.dumps({"reason": "ModelNotFound", "message": said})}
    for ended in (crash, failed):
        found = status(pod(status=fakecluster.waiting(*LOOP, ended=ended)))
        assert all(secret not in c.message for c in found.conditions)
    found = status(
        pod(status=running()),
        workers={"m-worker-a": WorkerStatus(phase=Phase.FAILED, reason="ModelNotFound", message=said)},
    )
    assert all(secret not in c.message for c in found.conditions)


def test_words_about_secrets_are_no_secrets():
    said = "spec.model.tokenSecretRef: is only for hf:// models; no key token: see Secret hub"
    assert redact(said) == said
