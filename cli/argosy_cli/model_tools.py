"""Commands that work on model files: `argosy quantize` and `argosy tradeoffs`."""

# ruff: noqa: PLC0415, PLR0917 - as in main.py: each imports what it needs, and typer wants plain parameters

import sys
from pathlib import Path
from typing import Annotated

import typer


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A GGUF file, a folder of safetensors, or a URI.")],
    to: Annotated[
        str,
        typer.Option(
            help="GGUF: f32, f16, bf16, q8_0, q6_k, q5_k, q5_1, q5_0, q4_k, q4_1, q4_0, iq4_nl. "
            "Folder: f32, f16, bf16, int8, int4, fp8."
        ),
    ],
    out: Annotated[Path, typer.Option(help="NAME.gguf, or a folder for safetensors; must not exist.")],
    method: Annotated[
        str | None,
        typer.Option(help="gptq (best), search (faster) or round (plain). Default: the best that the format has."),
    ] = None,
    group_size: Annotated[int | None, typer.Option(help="int4: weights that share a scale, 32, 64 or 128.")] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Text in UTF-8 to calibrate and measure with. Default: the model samples its own."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the text that the model samples.", min=0, max=2**31)] = 0,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Measure the perplexity before and after, and of plain rounding.")
    ] = True,
    threads: Annotated[int, typer.Option(help="Compute threads; 0: one for each core.", min=0)] = 0,
) -> None:
    """Write a model in another number format: a file for llama.cpp, or a folder for transformers and vLLM."""
    from rich.console import Console

    from argosy_cli import models
    from argosy_worker.quantize.command import Job

    def job(source: Path) -> Job:
        return Job(
            source=source,
            to=to,
            out=out,
            method=method,
            group_size=group_size,
            calibration=calibration,
            seed=seed,
            check=check,
            threads=threads,
        )

    models.quantize(model, Console(width=None if sys.stdout.isatty() else 120), job)


def tradeoffs(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A GGUF file, a folder of safetensors, or a URI.")],
    out: Annotated[Path, typer.Option(help="Folder for tradeoffs.json, .md and .svg.")] = Path(),
    only: Annotated[
        list[str] | None, typer.Option(help="Only setups with this in their name; can be given several times.")
    ] = None,
    draft_model: Annotated[str | None, typer.Option(help="URI of a smaller model, to measure drafts with.")] = None,
    threads: Annotated[int | None, typer.Option(help="Compute threads. Default: one for each core.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the text that the model samples.", min=0, max=2**31)] = 0,
) -> None:
    """Measure on this machine what each number format and technique costs and brings. Takes minutes."""
    import asyncio

    from rich.console import Console

    from argosy_cli.progress import bar
    from argosy_cli.tradeoffs import report, run

    request = run.Request(
        uri=run.model_uri(model), out=out, only=tuple(only or ()), draft=draft_model, threads=threads, seed=seed
    )
    console = Console(width=None if sys.stdout.isatty() else 140)
    with bar(console) as progress:
        found = asyncio.run(run.run(request, progress))
    console.print(report.table(found.rows))
    for line in report.refusals(found.rows):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"text: {found.text}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"written: {', '.join(str(out / name) for name in run.FILES)}", highlight=False, soft_wrap=True)
