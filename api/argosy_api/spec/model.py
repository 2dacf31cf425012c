"""Which model is served, and where a worker keeps it."""

from typing import Annotated, Literal

from pydantic import Field

from argosy_api.spec.strict import Quantity, Strict, Uri


class SecretKeyRef(Strict):
    """A key of a Secret in the resource's namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253)] = "token"
    """Key in the Secret."""


class ModelSpec(Strict):
    """Which model is served, and under which name."""

    uri: Uri
    """Where the model is: hf://org/repo@revision, pvc://claim/path, oci://image:tag/path, package://python_package/file,
    file:///path, or sim://name?options for the simulated model. A .gguf file, or a folder with safetensors."""
    served_name: (
        Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/:-]*[A-Za-z0-9])?$")]
        | None
    ) = None
    """Name that requests use in `model`. Default: the name of the resource."""
    max_model_len: Annotated[int, Field(ge=16, le=1_048_576)] | None = None
    """Longest prompt and answer together, in tokens. Default: the context length of the model."""
    token_secret_ref: SecretKeyRef | None = None
    """Access token for hf:// repositories that need one."""


class ModelCacheSpec(Strict):
    """Where a worker keeps what it downloads (hf://)."""

    type: Literal["emptyDir", "pvc"] = "emptyDir"
    """emptyDir: each pod downloads for itself; pvc: pods share a claim."""
    size: Quantity | None = None
    """Limit of the emptyDir. Default: 20Gi."""
    claim_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Name of an existing PersistentVolumeClaim, for type pvc."""
