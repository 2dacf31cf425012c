"""`argosy up`: check everything first, then run until Ctrl-C."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from argosy_cli.embedded import machine, ports, resources, review, run
from argosy_cli.embedded.assembly import Options
from argosy_cli.embedded.show import Display, PlainDisplay, TerminalDisplay
from argosy_cli.embedded.supervisor import Supervisor
from argosy_cli.errors import CommandError, StartError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def up(files: Sequence[Path], options: Options) -> None:
    """Run the resources of these files until a signal.

    Raises:
        CommandError: what is wrong and what to do; nothing is left running.

    """
    environment = dict(os.environ)
    loaded = resources.load(files)
    here = machine.detect()
    notices = review.review(loaded, here, environment)
    ports.require_free(
        options.host,
        {"--http-port": options.http_port, "--grpc-port": options.grpc_port, "--metrics-port": options.metrics_port},
    )
    folder = run.create(run.home(environment))
    with _display() as display:
        for notice in notices:
            display.line(f"note: {notice}")
        if options.access is None:
            display.line(
                "note: no credential is asked for: whoever reaches these ports may ask (--access changes that)"
            )
        display.line(f"logs: {folder.path}")
        supervisor = Supervisor(
            loaded, options, machine=here, folder=folder, environment=environment, changed=display.update
        )
        try:
            asyncio.run(_run(supervisor, display.line))
        except* CommandError as group:
            raise group.exceptions[0] from None
        except* OSError as group:  # a full disk, no more processes
            raise StartError(f"cannot go on: {group.exceptions[0]}") from None


async def _run(supervisor: Supervisor, say: Callable[[str], None]) -> None:
    stop, kill = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            kill.set()
            return
        say("Ending: running requests may finish first; Ctrl-C again ends at once")
        stop.set()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:  # nohup
            continue
        loop.add_signal_handler(number, on_signal)
    await supervisor.run(stop, kill)
    say("Ended.")


@contextlib.contextmanager
def _display() -> Iterator[Display]:
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        with TerminalDisplay(console) as display:
            yield display
    else:
        yield PlainDisplay(_print)


def _print(text: str) -> None:
    # whoever read our output may have gone; that is no reason to end the run
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)
        return
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - stays open until we end
