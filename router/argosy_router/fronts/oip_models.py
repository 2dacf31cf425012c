"""What the Open Inference Protocol tells about models: their tensors, which there are, and how many requests ended."""

from collections.abc import Mapping

from argosy_api.errors import NotFoundError
from argosy_api.inference import inference_pb2 as oip
from argosy_router.clock import now
from argosy_router.fleet.deployment import DeploymentState
from argosy_router.fronts import oip_tensors
from argosy_router.tally import Tally

NAME = "argosy"
EXTENSIONS = ("model_streaming", "model_configuration", "statistics")
VERSION = "1"
_OUTPUTS = {"text_output": "BYTES", "output_ids": "INT64"}
_TYPES = {"BYTES": oip.TYPE_STRING, "BOOL": oip.TYPE_BOOL, "INT32": oip.TYPE_INT32, "INT64": oip.TYPE_INT64}
_OPTIONAL = {"stream", "sampling_parameters", "exclude_input_in_output", "input_ids"}
_NS = 1e9


def metadata(name: str) -> oip.ModelMetadataResponse:
    """The tensors that a model takes and gives."""
    tensor = oip.ModelMetadataResponse.TensorMetadata
    return oip.ModelMetadataResponse(
        name=name,
        versions=[VERSION],
        platform=NAME,
        inputs=[tensor(name=n, datatype=t[-1], shape=_shape(n)) for n, t in oip_tensors.DATATYPES.items()],
        outputs=[tensor(name=n, datatype=t, shape=[-1]) for n, t in _OUTPUTS.items()],
    )


def config(name: str) -> oip.ModelConfig:
    """The same as Triton configures a model. No batches of a client's making: the engine forms them."""
    types = oip_tensors.DATATYPES.items()
    return oip.ModelConfig(
        name=name,
        platform=NAME,
        backend=NAME,
        max_batch_size=0,
        input=[
            oip.ModelInput(name=n, data_type=_TYPES[t[-1]], dims=_shape(n), optional=n in _OPTIONAL) for n, t in types
        ],
        output=[oip.ModelOutput(name=n, data_type=_TYPES[t], dims=[-1]) for n, t in _OUTPUTS.items()],
        model_transaction_policy=oip.ModelTransactionPolicy(decoupled=True),
    )


def index(models: Mapping[str, bool], *, ready_only: bool) -> oip.RepositoryIndexResponse:
    """Models by name, each with whether it can be asked now."""
    entry = oip.RepositoryIndexResponse.ModelIndex
    return oip.RepositoryIndexResponse(
        models=[
            entry(name=name, version=VERSION, state="READY")
            if ready
            else entry(name=name, version=VERSION, state="UNAVAILABLE", reason="no worker is ready")
            for name, ready in models.items()
            if ready or not ready_only
        ]
    )


def statistics(name: str, tally: Tally) -> oip.ModelStatistics:
    """Requests that ended, whatever protocol they came by; each was one inference, and one execution."""
    took = oip.StatisticDuration
    return oip.ModelStatistics(
        name=name,
        version=VERSION,
        last_inference=int(tally.last_at * 1000),
        inference_count=tally.succeeded,
        execution_count=tally.succeeded,
        inference_stats=oip.InferStatistics(
            success=took(count=tally.succeeded, ns=int(tally.succeeded_s * _NS)),
            fail=took(count=tally.failed, ns=int(tally.failed_s * _NS)),
        ),
    )


def can_be_asked(state: DeploymentState) -> bool:
    """Whether a worker could take a request now."""
    return any(w.facts is not None and w.healthy(now()) for w in state.workers.values())


def check_version(version: str) -> None:
    """Refuse a version of a model that there is not.

    Raises:
        NotFoundError: any but the only one.

    """
    if version not in ("", VERSION):
        raise NotFoundError(f"model_version: {version[:20]!r} is not served; the only version is 1")


def _shape(name: str) -> list[int]:
    return [-1] if name == "input_ids" else [1]
