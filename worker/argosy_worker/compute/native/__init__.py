"""Kernels of our own for CPUs: int8 products for 4- and 8-bit weights, and whole layers in one call."""
