"""Connections of each tenant at once, whether they have a stream or not."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from speechbus_ingest.registry import OverLimitError

__all__ = ["CONNECTIONS_PER_STREAM", "TenantConnections"]

CONNECTIONS_PER_STREAM: Final = 2
"""A client that lost its connection comes back while the lost one is not noticed yet."""


class TenantConnections:
    """Keeps one tenant from taking all connections of the process with some that open no stream.

    Args:
        per_tenant_max: connections of one tenant.
    """

    def __init__(self, per_tenant_max: int) -> None:
        self._per_tenant_max = per_tenant_max
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, tenant: str) -> Generator[None]:
        """Count a connection during the block.

        Raises:
            OverLimitError: the tenant has too many.
        """
        if self._open[tenant] >= self._per_tenant_max:
            raise OverLimitError
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
