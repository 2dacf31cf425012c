"""Looking for things in what the chart renders."""

POD_KINDS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}


def one(objects, kind, name):
    found = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name]
    assert len(found) == 1, [(i["kind"], i["metadata"]["name"]) for i in objects]
    return found[0]


def env_of(container):
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}
