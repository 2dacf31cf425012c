"""The engine: one thread that owns the scheduler, the runner and the answers being made."""
