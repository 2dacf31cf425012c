"""What changed in the prefix cache: the numbered log, and its way to Redis."""
