"""The one clock of the router."""

import time

now = time.monotonic
"""Monotonic seconds: the function itself, since a request asks thirty times."""

PARTS = 10
"""Another process's time is waited for in so many parts: a router that stands still, as with its machine, takes one."""
