"""A step that raises: whose fault it is, and whether the runner computes anything at all.

The slices of a step that raised are computed again: each half, then, of a half that raises too, its halves, down to the
slice that raises alone. So only its request ends, and all others go on as if it had never been there: a row's bits do
not depend on its company, and a slice that is computed twice writes the same values into the same places. With n slices
that takes at most 2n launches, and about 2 log2(n) where one is at fault. A fault that does not come again costs nobody
anything.
"""

import logging
from collections.abc import Sequence

from argosy_api.faults import is_fault
from argosy_api.params import SamplingParams
from argosy_worker.core.batch import Failed, Pending, Runner, RunnerBrokenError, SequenceSlice, StepBatch, StepOutput

log = logging.getLogger(__name__)

FAULT = "the engine failed in a step of this request"


def launch(runner: Runner, slices: Sequence[SequenceSlice]) -> Pending:
    """Begin a step. What the launch itself raises is told when the outputs are asked for.

    Raises:
        RunnerBrokenError: the runner itself says that it is of no more use.

    """
    try:
        return runner.launch(StepBatch(slices))
    except RunnerBrokenError:
        raise
    except BaseException as error:
        if not is_fault(error):
            raise
        return Failed(error)


def outputs_of(pending: Pending, count: int) -> list[StepOutput] | None:
    """Wait for a step: one output for each of its slices, in order; None where it raised.

    Raises:
        RunnerBrokenError: as `launch`.

    """
    try:
        return _whole(pending.result(), count)
    except RunnerBrokenError:
        raise
    except BaseException as error:
        if not is_fault(error):
            raise
        log.exception("a step of %d requests failed", count)
    return None


def check(runner: Runner, block: int) -> None:
    """Have the runner compute one token of nobody's in a block that nobody uses.

    Raises:
        RunnerBrokenError: it cannot, so the fault is not that of any request.

    """
    params = SamplingParams(temperature=0, max_tokens=1)
    piece = SequenceSlice(request_id="", tokens=(0,), start=0, table=(block,), sample_rows=range(1), params=params)
    try:
        (output,) = _computed(runner, [piece])
    except RunnerBrokenError:
        raise
    except BaseException as error:
        if not is_fault(error):
            raise
        raise RunnerBrokenError("the runner cannot compute a single token any more") from error
    if output.error is not None:
        raise RunnerBrokenError(f"the runner cannot compute a single token any more: {output.error}")


def apart(runner: Runner, slices: Sequence[SequenceSlice]) -> list[StepOutput]:
    """The outputs of slices that raised together; that of a slice which cannot be computed has an `error`.

    No slice may hold a placeholder: only the runner's next launch could fill it.

    Raises:
        RunnerBrokenError: as `launch`.

    """
    middle = (len(slices) + 1) // 2
    outputs: list[StepOutput] = []
    for part in filter(None, (slices[:middle], slices[middle:])):
        try:
            outputs += _computed(runner, part)
        except RunnerBrokenError:
            raise
        except BaseException as error:
            if not is_fault(error):
                raise
            if len(part) > 1:
                outputs += apart(runner, part)
            else:
                log.exception("request %r fails alone, and ends", part[0].request_id)
                outputs.append(StepOutput(error=FAULT))
    return outputs


def _computed(runner: Runner, slices: Sequence[SequenceSlice]) -> list[StepOutput]:
    return _whole(runner.launch(StepBatch(slices)).result(), len(slices))


def _whole(outputs: list[StepOutput], count: int) -> list[StepOutput]:
    if len(outputs) != count:
        raise RuntimeError(f"the runner gave {len(outputs)} outputs for {count} slices")
    return outputs
