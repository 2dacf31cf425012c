"""The kernels and the engine on a GPU, beside torch and transformers. One command, under eight minutes on one card.

    python benchmarks/gpu.py               needs a GPU, torch with CUDA, transformers
    python benchmarks/gpu.py --dry-run     every part on tiny shapes in Triton's interpreter, to see that it runs
    python benchmarks/gpu.py --floors      the least time of decode steps, from what kernels read and compute; no GPU

Figures go to $OUT, or build/gpu, as gpu.json and gpu.md, and are written after each row, so that a run that is cut off
keeps what it has. A part that fails says so and the next one begins. Weights are random: speed does not depend on them.

`of the copy`: bytes that the kernel itself reads and writes (argosy_worker/compute/triton/cost.py), in the time that it
took, as a share of what a plain copy reaches on this card in the same run.
"""

import argparse
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--floors", action="store_true")
    parser.add_argument("--seconds", type=float, default=440, help="after so many no further row begins")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="ceilings, decode, attention, linears, ...")
    options = parser.parse_args()
    if options.floors:
        from gpu_report import floors, table

        print("\n".join(table(floors())))
        return
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is loaded
    measure(options.dry_run, time.monotonic() + options.seconds, options.parts)


def measure(dry: bool, deadline: float, wanted: list[str] | None) -> None:
    """Run the parts, one after another."""
    import gpu_experts
    import gpu_kernels
    import gpu_models
    import torch
    import triton
    from gpu_report import HBM, Report

    if dry:
        device, facts = torch.device("cpu"), {"device": "none: Triton's interpreter, tiny shapes, no figures"}
        machine = gpu_kernels.Machine(device=device, multiprocessors=4, room=1 << 24)
    elif not torch.cuda.is_available():
        sys.exit("There is no GPU, or this torch is without CUDA. --dry-run and --floors need none.")
    else:
        device, found = torch.device("cuda"), torch.cuda.get_device_properties(0)
        facts = {"device": f"{found.name}, {found.multi_processor_count} multiprocessors"}
        room = int(torch.cuda.mem_get_info()[0] * 0.6)
        machine = gpu_kernels.Machine(
            device=device, multiprocessors=found.multi_processor_count, room=room, capability=(found.major, found.minor)
        )
    report = Report(
        {**facts, "torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    )
    copy = HBM
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "ceilings": lambda: gpu_kernels.ceilings(machine),
        "decode": lambda: gpu_models.decode(machine, copy, deadline),
        "loop": lambda: gpu_models.loop(machine, deadline),
        "attention": lambda: gpu_kernels.attention(machine, copy),
        "linears": lambda: gpu_kernels.linears(machine, copy),
        "experts": lambda: gpu_experts.experts(machine, copy),
        "between": lambda: gpu_kernels.between(machine, copy),
        "prefill": lambda: gpu_models.prefill(machine),
        "transformers": lambda: gpu_models.transformers(machine, deadline),
    }
    for name, part in parts.items():
        if wanted and name not in wanted:
            continue
        try:
            for row in part():
                report.add(name, [row])
                if name == "ceilings" and "GB/s" in row:
                    copy = row["GB/s"] * 1e9
                if time.monotonic() > deadline:
                    break
        except Exception as error:
            traceback.print_exc()
            report.add(name, [{"failed": f"{type(error).__name__}: {error}"[:200]}])
            if dry:
                raise
    print(f"written: {report.folder}/gpu.json, {report.folder}/gpu.md")


if __name__ == "__main__":
    main()
