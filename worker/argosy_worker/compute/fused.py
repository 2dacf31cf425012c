"""Makes layers of Triton's kernels where there is a GPU for them. Loads neither torch's kernels nor Triton before."""

from argosy_worker.compute.attention.kernels import AttentionSpec, TritonAttention
from argosy_worker.compute.config import LayerSpec
from argosy_worker.compute.layer import Layer, LayerWeights
from argosy_worker.compute.quant.linear import Verdict


class FusedLayers:
    """`FusedLayer`s."""

    name = "layer-triton"

    def __init__(self, attention: TritonAttention | None = None) -> None:
        """`attention`: whose layers these are."""
        self._attention = attention or TritonAttention()

    def can_run(self, spec: LayerSpec) -> Verdict:
        """Run what Triton's attention can, with norms of queries and keys over each head."""
        refused = self._attention.refusal(AttentionSpec(layers=(spec,), device="cuda"))
        if refused is not None:
            return Verdict(ok=False, reason=refused)
        if spec.qk_norm == "width":
            return Verdict(ok=False, reason="norms queries and keys over each head, asked for all heads together")
        return Verdict(ok=True, reason="Triton's kernels around the linears")

    def pack(self, spec: LayerSpec, number: int, weights: LayerWeights) -> Layer:
        """Keep the weights as they are."""
        from argosy_worker.compute.fused_layer import FusedLayer  # noqa: PLC0415  # loads Triton

        return FusedLayer(spec, number, weights)
