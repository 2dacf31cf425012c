"""All linear kernels, in order of preference."""

from argosy_worker.compute.quant.float_cuda import FloatCuda
from argosy_worker.compute.quant.fp32_cpu import Fp32OneDnn, Fp32Tiles
from argosy_worker.compute.quant.int8_cpu import Int8OneDnn
from argosy_worker.compute.quant.linear import LinearKernel

KERNELS: tuple[LinearKernel, ...] = (Int8OneDnn(), Fp32OneDnn(), Fp32Tiles(), FloatCuda())
