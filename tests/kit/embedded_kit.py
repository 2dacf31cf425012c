"""Runs `argosy up` as a user would, and asks it things."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import psutil
from reserved import free_port
from waiting import LIMIT_S, until

from argosy_cli.embedded import run


@dataclass
class Reply:
    status: int
    headers: dict
    body: dict

    @property
    def text(self):
        return self.body["choices"][0]["text"]

    @property
    def cached_tokens(self):
        return self.body["usage"]["prompt_tokens_details"]["cached_tokens"]

    @property
    def worker(self):
        return self.headers["x-argosy-worker"]


@dataclass
class Up:
    """One `argosy up` with its own state folder and free ports."""

    home: object
    files: list
    options: list = field(default_factory=list)
    env: dict = field(default_factory=dict)
    process: subprocess.Popen = None

    def __post_init__(self):
        self.http_port, self.grpc_port, self.metrics_port = (free_port() for _ in range(3))
        self.out = self.home / "output.txt"

    def start(self):
        command = [sys.executable, "-m", "argosy_cli", "up", *map(str, self.files)]
        command += [f"--http-port={self.http_port}", f"--grpc-port={self.grpc_port}"]
        command += [f"--metrics-port={self.metrics_port}", *self.options]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("ARGOSY_", "HF_"))}
        environment |= {"ARGOSY_HOME": str(self.home), **self.env}
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                command, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
            )
        return self

    def command(self, *arguments, stdin=None):
        """Another argosy command in the same state folder: (exit code, stdout, stderr)."""
        environment = {**os.environ, "ARGOSY_HOME": str(self.home)}
        done = subprocess.run(
            [sys.executable, "-m", "argosy_cli", *arguments],
            env=environment, input=stdin, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    # --- what is the case

    @property
    def output(self):
        return self.out.read_text()

    @property
    def state(self):
        return next(iter(run.live(self.home)), None)

    def service(self, name):
        return next(s for s in self.state.services if s.name == name)

    def replicas(self, resource=None):
        return [r for res in self.state.resources if resource in (None, res.name) for r in res.replicas]

    def all_ready(self):
        state = self.state
        return state is not None and all(p.ready for p in (*state.services, *self.replicas()))

    def until_ready(self):
        def ready():
            assert self.process.poll() is None, self.output
            return self.all_ready()

        until(ready, "all ready")
        return self

    def children(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    # --- requests

    def request(self, path, body=None, timeout=LIMIT_S):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Reply(answer.status, dict(answer.headers), json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            return Reply(error.code, dict(error.headers), json.loads(error.read()))

    def text(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=LIMIT_S) as answer:
            return answer.read().decode()

    def complete(self, model, prompt, timeout=LIMIT_S, **fields):
        body = {"model": model, "prompt": prompt, "max_tokens": 4, "temperature": 0, **fields}
        return self.request("/v1/completions", body, timeout)

    # --- the end

    def end(self, number=signal.SIGINT, limit_s=LIMIT_S):
        self.process.send_signal(number)
        return self.process.wait(limit_s)

    def clean_up(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running(folder, *files):
    """An `argosy up` of these files whose replicas are ready, and which ends well when the tests are through with it."""
    one = Up(folder, list(files))
    one.start()
    try:
        yield one.until_ready()
        assert one.end() == 0, one.output
    finally:
        one.clean_up()


SIMULATED = """\
apiVersion: serving.argosy.dev/v1alpha1
kind: InferenceDeployment
metadata: {name: m}
spec:
  replicas: 1
  model: {uri: "sim://m?decode_ms=0&prefill_tps=0", servedName: m}
"""


@contextlib.contextmanager
def running_simulated(folder):
    """One replica of a simulated model, `m`, whose answers keep to whatever is asked of their form."""
    (folder / "m.yaml").write_text(SIMULATED)
    with running(folder, folder / "m.yaml") as one:
        yield one
