"""All linear kernels, in order of preference."""

from argosy_worker.quant.float_torch import FloatCuda, Fp32Cpu
from argosy_worker.quant.int8_cpu import Int8OneDnn
from argosy_worker.quant.linear import LinearKernel

KERNELS: tuple[LinearKernel, ...] = (Int8OneDnn(), Fp32Cpu(), FloatCuda())
