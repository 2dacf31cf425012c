"""Which worker a request goes to: index, books, policy."""
