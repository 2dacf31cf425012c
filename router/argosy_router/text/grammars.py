"""Whether a model's workers can keep to a constraint: tried out in a child process, before any of them sees it."""

from collections import OrderedDict

from argosy_api import limits
from argosy_api.errors import InternalError, InvalidArgumentError
from argosy_api.structured.constraint import Constraint
from argosy_router.children.child import Child, JobFailedError, JobKilledError, JobRefusedError

JOB_S = 5.0
"""Time for one constraint. All that a worker should see take a tenth of it on a slow machine."""
WORK = "argosy_router.text.grammar_work"


class GrammarTrials:
    """Of one model. Its process starts with the first constraint."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._known: OrderedDict[str, str] = OrderedDict()
        """By constraint: why it is refused; empty for sound ones."""

    async def check(self, constraint: Constraint, *, field: str) -> None:
        """Refuse a constraint that the model's workers would, or that takes too much.

        Raises:
            InvalidArgumentError: naming `field`, and why.
            OverloadedError, UnavailableError: the child takes no more jobs, or does not start.

        """
        text = constraint.text
        problem = self._known.get(text)
        if problem is None:
            problem = await self._tried(text)
            self._known[text] = problem
            while len(self._known) > limits.MAX_GRAMMARS:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(text)
        if problem:
            raise InvalidArgumentError(field, problem)

    async def _tried(self, text: str) -> str:
        try:
            await self._child.call({"op": "try"}, [text.encode()], long=True)
        except (JobRefusedError, JobKilledError) as error:
            return str(error)
        except JobFailedError as error:
            raise InternalError(f"the constraint could not be tried out: {error}") from None
        return ""
