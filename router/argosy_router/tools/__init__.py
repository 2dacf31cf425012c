"""Tools: which form a model calls them in, calls out of its text, and grammars that make it call one. No I/O."""
