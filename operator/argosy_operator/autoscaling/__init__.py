"""How many workers a resource has: from what routers and workers tell to a decision, and what is remembered of it."""
