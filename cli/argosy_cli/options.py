"""Options and arguments that several commands of `argosy` have."""

from pathlib import Path
from typing import Annotated

import typer

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML with InferenceDeployments; - reads stdin.")]
Address = Annotated[
    str | None,
    typer.Option(envvar="ARGOSY_ADDRESS", help="host:port of the router's gRPC. Default: the running `argosy up`."),
]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Served name. Default: the only one that is served.")]
Temperature = Annotated[float, typer.Option(metavar="T", help="0 always takes the most likely token.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Same seed, same answer.")]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="Text that ends the answer; can be given several times.")
]
Host = Annotated[str, typer.Option(envvar="ARGOSY_HOST", help="Address to listen on; :: for all, IPv4 and IPv6.")]
HttpPort = Annotated[
    int, typer.Option(metavar="PORT", envvar="ARGOSY_HTTP_PORT", min=1, max=65535, help="OpenAI-compatible HTTP.")
]
GrpcPort = Annotated[int, typer.Option(metavar="PORT", envvar="ARGOSY_GRPC_PORT", min=1, max=65535, help="gRPC.")]
MetricsPort = Annotated[
    int, typer.Option(metavar="PORT", envvar="ARGOSY_METRICS_PORT", min=1, max=65535, help="Prometheus metrics.")
]
Namespace = Annotated[str | None, typer.Option("-n", "--namespace", help="Of a cluster. Default: the context's.")]
Everywhere = Annotated[bool, typer.Option("-A", "--all-namespaces", help="All namespaces of a cluster.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]
Kubeconfig = Annotated[str | None, typer.Option(help="Default: $KUBECONFIG, else ~/.kube/config.")]
Detach = Annotated[
    bool, typer.Option("-d", "--detach", help="Come back once all serves; it goes on until `argosy down`.")
]
