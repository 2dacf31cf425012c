"""Request, scheduler and blocks: pure Python, no torch."""
