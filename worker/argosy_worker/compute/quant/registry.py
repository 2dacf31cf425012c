"""All linear kernels, in order of preference."""

from argosy_worker.compute.quant.float_torch import FloatCuda, Fp32Cpu
from argosy_worker.compute.quant.int8_cpu import Int8OneDnn
from argosy_worker.compute.quant.linear import LinearKernel

KERNELS: tuple[LinearKernel, ...] = (Int8OneDnn(), Fp32Cpu(), FloatCuda())
