"""Kernels in Triton's language, the choice of their tiles, and their launches.

`kernels/` is compiled for a GPU, or run by Triton's interpreter; nothing else here is. Modules of it load Triton, so
who may run without it imports them late.
"""
