"""Which workers there are and how they are: membership, health, loads, KV events."""
