"""`argosy up`: check everything first, then run until Ctrl-C."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from argosy_api.orders import Order, new_key
from argosy_cli.embedded import background, machine, orders, ports, resources, review, run
from argosy_cli.embedded.assembly import Options
from argosy_cli.embedded.resources import Loaded
from argosy_cli.embedded.show import Display, PlainDisplay, TerminalDisplay, describe
from argosy_cli.embedded.states import ResourceState, RunState
from argosy_cli.embedded.supervisor import Supervisor
from argosy_cli.errors import CommandError, StartError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def up(files: Sequence[Path], options: Options, *, detach: bool = False) -> None:
    """Run the resources of these files until a signal; with `detach` come back once they serve, and leave them running.

    Raises:
        CommandError: what is wrong and what to do; nothing is left running.

    """
    up_loaded(resources.load(files), options, detach=detach)


def up_loaded(loaded: Sequence[Loaded], options: Options, *, detach: bool) -> None:
    """The same of resources that were read. A run of ours that has these ports takes them over. Raises CommandError."""
    environment = dict(os.environ)
    here = machine.detect()
    notices = review.review(loaded, here, environment)
    if (there := run_with(options, run.live(run.home(environment)))) is not None:
        _apply(there, loaded, options)
        return
    _require_free(options)
    if detach:
        _in_background(loaded, options, environment)
        return
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
        except (CommandError, OSError, ExceptionGroup) as error:
            told = reason(error)
            if told is error:
                raise
            raise told from error


def reason(error: Exception) -> Exception:
    """What to tell of all that ended a run: parts of it fail with what they used, so several may come at once."""
    leaves = [error]
    while any(isinstance(leaf, ExceptionGroup) for leaf in leaves):
        leaves = [one for leaf in leaves for one in (leaf.exceptions if isinstance(leaf, ExceptionGroup) else [leaf])]
    for leaf in leaves:
        if isinstance(leaf, CommandError):
            return leaf
    if all(isinstance(leaf, OSError) for leaf in leaves):  # a full disk, no more processes
        return StartError(f"cannot go on: {leaves[0]}")
    return error


def _in_background(loaded: Sequence[Loaded], options: Options, environment: Mapping[str, str]) -> None:
    started = background.start(resources.text(loaded), options, environment, detached=True)
    with _display() as display:
        state = background.follow(started, display.update)
        display.line(f"It goes on in the background: `argosy ps` shows it, `argosy down` ends it (run {state.run})")
    _tell_failed(state.resources)


def run_with(options: Options, live: Sequence[RunState]) -> RunState | None:
    """The run that listens where these options say."""
    wanted = tuple(options.reachable(port) for port in (options.http_port, options.grpc_port, options.metrics_port))
    return next((state for state in live if (state.http, state.grpc, state.metrics) == wanted), None)


def _apply(there: RunState, loaded: Sequence[Loaded], options: Options) -> None:
    """Tell a run that goes on of these resources, and show what becomes of them."""
    if options.access is not None or options.api_keys is not None:
        raise CommandError(f"who may ask run {there.run} was settled when it began; `argosy down` first")
    root = run.home(os.environ)
    documents = [item.document.content for item in loaded if item.document is not None]
    names = {(item.resource.metadata.namespace, item.resource.metadata.name) for item in loaded}
    orders.ask(root, there.run, Order(key=new_key(), apply=documents))
    with _display() as display:
        display.line(f"Applied to run {there.run}: {', '.join(sorted(name for _, name in names))}")
        while True:
            state = next((s for s in run.live(root) if s.run == there.run), None)
            if state is None:
                raise CommandError(f"run {there.run} has ended meanwhile")
            display.update(state)
            mine = [r for r in state.resources if (r.namespace, r.name) in names]
            if all(r.settled for r in mine):
                break
            time.sleep(background.LOOK_S)
    _tell_failed(mine)


def _tell_failed(asked: Sequence[ResourceState]) -> None:
    failed = [f"{r.name}: {describe(p)}" for r in asked for p in r.replicas if not p.ready]
    if failed:
        raise StartError("not all replicas serve: " + "; ".join(failed))


def _require_free(options: Options) -> None:
    ports.require_free(
        options.host,
        {"--http-port": options.http_port, "--grpc-port": options.grpc_port, "--metrics-port": options.metrics_port},
    )


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
