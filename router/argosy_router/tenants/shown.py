"""Which tenants have metrics of their own: the first that came, up to a bound."""

from argosy_api import limits

OTHER = "other"


class Shown:
    """Labels of one router."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def shown(self, tenant: str) -> str:
        """The label for a tenant."""
        if tenant in self._names:
            return tenant
        if len(self._names) >= limits.MAX_SHOWN_TENANTS:
            return OTHER
        self._names.add(tenant)
        return tenant
