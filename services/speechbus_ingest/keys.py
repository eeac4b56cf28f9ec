"""API keys: who is it?"""

import hashlib
import hmac
from collections.abc import Iterable

__all__ = ["KeyRing"]


class KeyRing:
    """Finds the tenant of a key in constant time.

    Args:
        keys: pairs of tenant and key; a tenant may have several.
    """

    def __init__(self, keys: Iterable[tuple[str, str]]) -> None:
        # Digests have one length, so that comparing tells nothing about the keys' lengths.
        self._digests = [(tenant, _digest(key)) for tenant, key in keys]

    def find_tenant(self, key: str | None) -> str | None:
        """Return whose key it is; None: nobody's. Looks at every key, found or not."""
        if not key:
            return None
        digest = _digest(key)
        found: str | None = None
        for tenant, known in self._digests:
            if hmac.compare_digest(digest, known):
                found = tenant
        return found

    def has_tenant(self, tenant: str) -> bool:
        """Tell whether a tenant has a key."""
        return any(known == tenant for known, _ in self._digests)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
