"""For scripts of checks, which run in a client's own environment: where the server is, and running all of them.

A script's checks are its functions whose names begin with `check_`. `run` prints one line of JSON for each: its name, and
the traceback where it failed.
"""

import asyncio
import inspect
import json
import os
import traceback

HTTP = os.environ["ARGOSY_HTTP"]
GRPC = os.environ["ARGOSY_GRPC"]
MODEL = "smollm2"
QUESTION = "What is the capital of Japan?"
CITY = "Tokyo"


def run(names):
    """All checks among a module's globals; in one loop, as clients keep their connections."""
    loop = asyncio.new_event_loop()
    for name, check in list(names.items()):
        if not name.startswith("check_"):
            continue
        wrong = ""
        try:
            made = check()
            if inspect.isawaitable(made):
                loop.run_until_complete(made)
        except BaseException:
            wrong = traceback.format_exc()
        print(json.dumps({"check": name, "wrong": wrong}), flush=True)
