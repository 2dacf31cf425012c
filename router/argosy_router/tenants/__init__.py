"""Who asks, how much he may have, and whose turn it is."""
