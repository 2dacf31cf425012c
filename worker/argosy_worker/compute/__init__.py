"""Arithmetic: the runner, the paged cache with attention, the linears, sampling."""
