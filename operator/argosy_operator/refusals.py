"""What a refusal of the API server means to whoever made the resource."""

from argosy_operator.diagnose import Reason
from argosy_operator.errors import ApiError, NameConflictError
from argosy_operator.facts import Failure
from argosy_operator.words import redact


def failure_of(error: ApiError) -> Failure:
    """Its reason, and a sentence for the status, without secrets."""
    if isinstance(error, NameConflictError):
        advice = "Nothing was changed. Delete or rename what is in the way, or give this resource another name."
        return Failure(Reason.NAME_CONFLICT, f"{error.message}. {advice}")
    said = redact(error.message)
    if error.status == 403:
        return Failure(Reason.FORBIDDEN, f"The API server refuses: {said}")
    if error.passing:
        return Failure(Reason.API_UNAVAILABLE, f"The API server could not do it; trying again: {said}")
    return Failure(Reason.APPLY_FAILED, f"The API server refuses: {said}")
