"""The list of a resource's adapters, as a worker is told it: a file beside it, which may change while it runs.

In a cluster it is a ConfigMap that is mounted, in embedded mode a file of the run. Without one there are no adapters.
"""

import json
from collections.abc import Sequence

from pydantic import ConfigDict, TypeAdapter, ValidationError

from argosy_api.errors import InvalidArgumentError
from argosy_api.spec.adapters import AdapterSpec

FILE = "adapters.json"
_LIST = TypeAdapter(list[AdapterSpec], config=ConfigDict(defer_build=True))


def to_json(adapters: Sequence[AdapterSpec]) -> str:
    """The content of the file."""
    return json.dumps({"adapters": [adapter.model_dump(by_alias=True) for adapter in adapters]})


def parse(text: str) -> tuple[AdapterSpec, ...]:
    """Read what `to_json` wrote.

    Raises:
        InvalidArgumentError: it is not such a list.

    """
    try:
        return tuple(_LIST.validate_python(json.loads(text)["adapters"]))
    except (ValueError, TypeError, KeyError, ValidationError) as error:
        raise InvalidArgumentError("adapters", "is no list of adapters") from error


def joined_name(model: str, adapter: str) -> str:
    """What requests call an adapter of a served model."""
    return f"{model}:{adapter}"
