"""The one clock of the router."""

import time

now = time.monotonic
"""Monotonic seconds: the function itself, since a request asks thirty times."""
