"""What our processes tell each other besides protobuf: names of variables, exit codes, and a last word."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from argosy_api.errors import InvalidArgumentError
from argosy_api.redis_urls import sentinels_of

# --- environment of a worker
WORKER_ID = "ARGOSY_WORKER_ID"
NAMESPACE = "ARGOSY_NAMESPACE"
DEPLOYMENT = "ARGOSY_DEPLOYMENT"
"""Name of the resource: with the namespace it is the deployment that the worker belongs to."""
GRPC_PORT = "ARGOSY_GRPC_PORT"
RANK = "ARGOSY_RANK"
"""Of the pod in its group, from 0: of the process, where each pod has one."""
LOCAL_RANKS = "ARGOSY_LOCAL_RANKS"
"""Processes of a pod that share the model, 1 by default. The one that is started starts the others."""
LOCAL_RANK = "ARGOSY_LOCAL_RANK"
"""Of the process among those of its pod, from 0; set by the one that starts it, as the next."""
PARENT = "ARGOSY_PARENT"
"""Process id of the one that started it, with which it is to end."""
GROUP_LEADER = "ARGOSY_GROUP_LEADER"
"""host:port where rank 0 takes the others of its group in."""
MODEL_CACHE = "ARGOSY_MODEL_CACHE"
"""Folder for what is downloaded (hf://)."""
ADAPTERS = "ARGOSY_ADAPTERS"
"""File with the list of adapters, which is looked at again and again; it may be missing."""
MODELS_PATH = "/models"
"""Claims of pvc:// models are mounted at MODELS_PATH/<claim>, read-only."""
IMAGES_PATH = "/images"
"""Images of oci:// models are mounted at IMAGES_PATH/<ModelUri.folder>, read-only."""
PVC_ROOT = "ARGOSY_PVC_ROOT"
"""Folder that holds each claim of pvc:// models as a folder."""
IMAGE_ROOT = "ARGOSY_IMAGE_ROOT"
"""Folder that holds each image of oci:// models as a folder, named as `ModelUri.folder`."""
TERMINATION_LOG = "ARGOSY_TERMINATION_LOG"
"""File for the last word of a worker that cannot serve: see `Termination`."""
HF_TOKEN = "HF_TOKEN"  # noqa: S105 - the name of a variable
HF_ENDPOINT = "HF_ENDPOINT"

# --- environment of several parts
HOST = "ARGOSY_HOST"
METRICS_PORT = "ARGOSY_METRICS_PORT"
REDIS_URL = "ARGOSY_REDIS_URL"
"""May hold a password: never in an argument, never in a message."""
WATCH_NAMESPACES = "ARGOSY_WATCH_NAMESPACES"
"""Comma-separated; empty: all."""

# --- exit codes
EXIT_OK = 0
"""Told to stop, and stopped."""
EXIT_FAULT = 1
"""Starting again may help."""
EXIT_CONFIG = 78
"""EX_CONFIG: starting again would fail the same way, until somebody changes something."""


def redis_url(environment: Mapping[str, str]) -> str:
    """The URL of Redis; empty where there is none.

    Raises:
        InvalidArgumentError: it is none. The message does not repeat it: it may hold a password.

    """
    url = environment.get(REDIS_URL, "")
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        raise InvalidArgumentError(REDIS_URL, "must begin with redis://, rediss:// or unix://")
    try:
        urlsplit(url).port  # noqa: B018 - computed when asked for
    except ValueError:
        raise InvalidArgumentError(REDIS_URL, "has a port that is no number from 0 to 65535") from None
    try:
        sentinels_of(url)
    except ValueError:
        raise InvalidArgumentError(
            REDIS_URL, "has sentinels that are not HOST:PORT, with commas between them"
        ) from None
    return url


def port(environment: Mapping[str, str], variable: str, default: int) -> int:
    """The port that a variable names; 0 is any free one.

    Raises:
        InvalidArgumentError: naming the variable.

    """
    text = environment.get(variable) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise InvalidArgumentError(variable, f"is {text[:20]!r}; must be a port number, 0 to 65535")
    return int(text)


# --- a process's last word

MAX_TERMINATION_BYTES = 4096
"""What a kubelet reads of a container's last word."""


def is_reason(text: str) -> bool:
    """Whether a word is fit for a condition's reason: the API server does not forgive any other."""
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,63}", text) is not None


@dataclass(frozen=True, slots=True)
class Termination:
    """Why a process that ends with EXIT_CONFIG cannot serve."""

    reason: str
    """CamelCase word, fit for a condition: "ModelInvalid"."""
    message: str

    def to_json(self) -> str:
        """One line of JSON that a kubelet passes on whole: a message that is too long is cut at its end."""
        text = json.dumps({"reason": self.reason, "message": self.message})
        over = len(text) - MAX_TERMINATION_BYTES  # ASCII: as many bytes as characters
        if over <= 0:
            return text
        # a character is at least one byte there, so cutting as many characters as there are bytes too many is enough
        return Termination(self.reason, self.message[: -over - len("...")] + "...").to_json()

    @classmethod
    def parse(cls, text: str | bytes) -> "Termination | None":
        """Read what `to_json` wrote; None for anything else, such as the end of a log."""
        try:
            document = json.loads(text)
            reason, message = document["reason"], document["message"]
        except (ValueError, TypeError, KeyError):
            return None
        if not isinstance(reason, str) or not isinstance(message, str) or not is_reason(reason):
            return None
        return cls(reason, message)
