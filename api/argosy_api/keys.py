"""Redis keys. All keys of one deployment share a hash tag, so they live in one cluster slot.

    argosy:1:{<namespace>/<name>}:l:<worker>     string   the lease: the epoch; expires LEASE_TTL_S after a beat
    argosy:1:{<namespace>/<name>}:ev:<worker>    stream   field `batch`: a serialized argosy.v1.KvEventBatch
    argosy:1:{<namespace>/<name>}:load:<worker>  string   a serialized argosy.v1.Load, expires with LOAD_TTL_S
    argosy:1:tenants                             hash     what tenants have used, a field for each router
    (no bitmap per block: a cold router asks each worker for a snapshot, which is the truth and needs no second index)

The load is one value, not a hash: it is written and read as a whole, and a reader can never see half of it.
Everything here is a hint. It can be lost at any time and is rebuilt from the workers.
"""

from dataclasses import dataclass

SCHEMA = 1
BEAT_S = 1.0
"""How often a worker renews its lease and its load."""
LEASE_TTL_S = 4.0
"""At least three beats."""
LOAD_TTL_S = 10.0
BATCH_FIELD = b"batch"
TENANTS = f"argosy:{SCHEMA}:tenants"
"""No key of a deployment: the routers' own."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one deployment."""

    namespace: str
    name: str

    @staticmethod
    def pattern(namespace: str = "") -> str:
        """Glob pattern of the keys of all deployments, or of those of one namespace."""
        return f"argosy:{SCHEMA}:{{{namespace}/*" if namespace else f"argosy:{SCHEMA}:*"

    @property
    def prefix(self) -> str:
        """What all of them begin with; safe as a SCAN pattern once escaped."""
        return f"argosy:{SCHEMA}:{{{self.namespace}/{self.name}}}:"

    def lease(self, worker: str) -> str:
        """The worker's lease."""
        return f"{self.prefix}l:{worker}"

    def events(self, worker: str) -> str:
        """The worker's KV event stream."""
        return f"{self.prefix}ev:{worker}"

    def load(self, worker: str) -> str:
        """The worker's last report."""
        return f"{self.prefix}load:{worker}"
