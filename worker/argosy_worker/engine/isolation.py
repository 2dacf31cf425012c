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
from argosy_worker.core.batch import Runner, RunnerBrokenError, SequenceSlice, StepBatch, StepOutput

log = logging.getLogger(__name__)

FAULT = "the engine failed in a step of this request"


def compute(runner: Runner, batch: StepBatch) -> list[StepOutput]:
    """The outputs of a step, one for each slice, in order; that of a slice which cannot be computed has an `error`.

    No slice may hold a placeholder: only the runner's next launch could fill it.

    Raises:
        RunnerBrokenError: the runner itself says that it is of no more use.

    """
    try:
        return _launch(runner, batch.slices)
    except RunnerBrokenError:
        raise
    except BaseException as error:
        if not is_fault(error):
            raise
        log.exception("a step of %d requests failed; looking for the one at fault", len(batch.slices))
    return _apart(runner, batch.slices)


def check(runner: Runner, block: int) -> None:
    """Have the runner compute one token of nobody's in a block that nobody uses.

    Raises:
        RunnerBrokenError: it cannot, so the fault is not that of any request.

    """
    params = SamplingParams(temperature=0, max_tokens=1)
    piece = SequenceSlice(request_id="", tokens=(0,), start=0, table=(block,), sample_rows=range(1), params=params)
    try:
        (output,) = _launch(runner, [piece])
    except RunnerBrokenError:
        raise
    except BaseException as error:
        if not is_fault(error):
            raise
        raise RunnerBrokenError("the runner cannot compute a single token any more") from error
    if output.error is not None:
        raise RunnerBrokenError(f"the runner cannot compute a single token any more: {output.error}")


def _apart(runner: Runner, slices: Sequence[SequenceSlice]) -> list[StepOutput]:
    middle = (len(slices) + 1) // 2
    outputs: list[StepOutput] = []
    for part in filter(None, (slices[:middle], slices[middle:])):
        try:
            outputs += _launch(runner, part)
        except RunnerBrokenError:
            raise
        except BaseException as error:
            if not is_fault(error):
                raise
            if len(part) > 1:
                outputs += _apart(runner, part)
            else:
                log.exception("request %r fails alone, and ends", part[0].request_id)
                outputs.append(StepOutput(error=FAULT))
    return outputs


def _launch(runner: Runner, slices: Sequence[SequenceSlice]) -> list[StepOutput]:
    outputs = runner.launch(StepBatch(slices)).result()
    if len(outputs) != len(slices):
        raise RuntimeError(f"the runner gave {len(outputs)} outputs for {len(slices)} slices")
    return outputs
