"""Weight formats and linear kernels."""
