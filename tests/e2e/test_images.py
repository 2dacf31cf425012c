"""Images that nodes pull ahead, and images that are models."""

from e2e_kit import resource, wait_for, wait_ready

JOBS = "--selector=app.kubernetes.io/managed-by=argosy-operator"


def test_every_node_pulls_ahead(system, cluster, namespace):
    namespace.apply(resource("ahead", placement={"prefetch": True}))
    wait_for("Prefetched", lambda: namespace.condition("ahead", "Prefetched").get("status") == "True", 120)
    wait_ready(namespace, "ahead")
    nodes = [node["metadata"]["name"] for node in cluster.get("nodes") if not node["spec"].get("taints")]
    assert namespace.get("infd", "ahead")["status"]["prefetch"] == {
        "nodes": len(nodes),
        "done": len(nodes),
        "failed": 0,
    }
    pods = namespace.get("pods", "--selector=app.kubernetes.io/component=prefetch")
    assert sorted(pod["spec"]["nodeName"] for pod in pods) == sorted(nodes)
    before = {job["metadata"]["uid"] for job in namespace.get("jobs", JOBS)}
    namespace.patch("ahead", {"engine": {"maxRunning": 7}})  # other workers, the same images
    wait_ready(namespace, "ahead")
    assert {job["metadata"]["uid"] for job in namespace.get("jobs", JOBS)} == before
    namespace.patch("ahead", {"placement": {"prefetch": False}})
    wait_for("the Jobs go", lambda: not namespace.get("jobs", JOBS), 60)


def test_a_model_in_an_image_is_mounted_or_refused(system, cluster, namespace):
    """Which of the two, a feature gate of the API server decides; never are there workers without their model."""
    namespace.apply(resource("packed", "oci://localhost/no-such-model:v1/model.gguf"))
    condition = wait_for("a verdict", lambda: namespace.condition("packed"), 60)
    workload = namespace.get("deployments", "packed-leader")
    if workload is None:
        assert condition["reason"] == "ImageVolumesNotSupported"
        version = cluster("version", "--output=json")
        assert condition["message"].split("Kubernetes ")[1].split(")")[0] in version
        assert namespace.workers("packed") == []
    else:
        volumes = workload["spec"]["template"]["spec"]["volumes"]
        assert {"reference": "localhost/no-such-model:v1", "pullPolicy": "IfNotPresent"} in [
            v.get("image") for v in volumes
        ]
