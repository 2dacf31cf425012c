"""oci:// models are image volumes, and where the API server does not take those nothing is made of the resource."""

import fakecluster
from fakeapi import ApiError
from operator_kit import document
from waiting import eventually

from argosy_operator import image_volumes
from argosy_operator.errors import ApiError as Refusal
from argosy_operator.image_volumes import ImageVolumes

URI = "oci://registry.example/models/llama:v1/model.gguf"


async def test_an_image_is_mounted_where_the_worker_looks_for_it(world):
    await world.operator()
    world.apply(document(uri=URI))
    await eventually(world.is_ready)
    pod = world.child(fakecluster.DEPLOYMENTS)["spec"]["template"]["spec"]
    assert {"name": "model-image", "image": {"reference": "registry.example/models/llama:v1"}} in pod["volumes"]
    mounts = pod["containers"][0]["volumeMounts"]
    path = "/images/registry.example%2Fmodels%2Fllama%3Av1"
    assert {"name": "model-image", "mountPath": path, "readOnly": True} in mounts
    assert not [key for key in world.server.objects if key.name == "argosy-image-volumes"]


async def test_nothing_is_made_where_the_api_server_drops_them(world):
    world.server.takes_image_volumes = False
    await world.operator()
    world.apply(document(uri=URI))
    await eventually(lambda: world.condition("Ready")[:2] == ("False", "ImageVolumesNotSupported"))
    assert "v1.34.0" in world.condition("Ready")[2]
    assert not world.children()


async def test_what_serves_goes_on_where_they_are_dropped(world):
    world.server.takes_image_volumes = False
    await world.operator()
    world.apply(document())
    await eventually(world.is_ready)
    before = world.picture()
    world.apply(document(uri=URI))
    await eventually(lambda: world.condition("Ready")[1] == "ImageVolumesNotSupported")
    assert world.picture() == before


async def test_an_upgraded_cluster_is_noticed(world, monkeypatch):
    monkeypatch.setattr(image_volumes, "ASK_AGAIN_S", 0.0)
    world.server.takes_image_volumes = False
    await world.operator(resync_s=1.0)
    world.apply(document(uri=URI))
    await eventually(lambda: world.condition("Ready")[1] == "ImageVolumesNotSupported")
    world.server.takes_image_volumes = True
    await eventually(world.is_ready)


async def test_an_api_server_that_does_not_tell_is_asked_again(world):
    failed = []

    async def fail(request, phase):
        if phase == "before" and request.query.get("dryRun") and len(failed) < 3:
            failed.append(1)
            raise ApiError(503, "ServiceUnavailable", "not now")

    world.server.hooks.append(fail)
    await world.operator()
    world.apply(document(uri=URI))
    await eventually(world.is_ready)
    assert len(failed) == 3


class _Api:
    """Answers as an API server that does not know the field does, and counts."""

    def __init__(self, error=None):
        self.error, self.asked = error, 0

    async def try_apply(self, manifest):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return manifest

    async def version(self):
        return "v1.30.2"


async def test_an_old_api_server_is_told_by_its_version():
    api = _Api(
        Refusal(500, "InternalError", "failed to create typed patch object: .image: field not declared in schema")
    )
    assert "Kubernetes v1.30.2" in await ImageVolumes(api).refusal("default")


async def test_one_that_takes_them_is_asked_once():
    api = _Api()
    volumes = ImageVolumes(api)
    assert [await volumes.refusal(namespace) for namespace in ("a", "b", "a")] == ["", "", ""]
    assert api.asked == 1
