"""LoRA adapters that are served beside the model."""

from typing import Annotated

from pydantic import Field

from argosy_api import limits
from argosy_api.spec.strict import Strict, Uri


class AdapterSpec(Strict):
    """A LoRA adapter in the peft library's format."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=limits.MAX_ADAPTER_NAME, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"),
    ]
    """Requests name it behind the model: servedName:name."""
    uri: Uri
    """Where it is, as in model.uri: a folder with adapter_config.json and adapter_model.safetensors. It is read once;
    another version of it needs another address. pvc:// only from the model's own claim."""
