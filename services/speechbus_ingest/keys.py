"""API keys: who is it?"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final

__all__ = ["HASH_PREFIX", "AmbiguousKeyError", "KeyRing", "UnreadableHashError"]

HASH_PREFIX: Final = "sha256:"
"""Begins an entry that is a hashed key: whoever reads the settings cannot use it."""
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class UnreadableHashError(ValueError):
    """An entry begins as a hashed key does, and goes on otherwise."""


class AmbiguousKeyError(ValueError):
    """Two tenants have the same key: whose it is cannot be told."""


class KeyRing:
    """Finds the tenant of a key in constant time.

    Args:
        keys: pairs of tenant and key, which may be `sha256:` and 64 hexadecimal digits instead; a
            tenant may have several.

    Raises:
        UnreadableHashError: of an entry that is no such hash.
        AmbiguousKeyError: two tenants have the same key.
    """

    def __init__(self, keys: Iterable[tuple[str, str]]) -> None:
        self._digests: list[tuple[str, bytes]] = []
        self.replace(keys)

    def replace(self, keys: Iterable[tuple[str, str]]) -> None:
        """Know these keys from now on, and no others.

        Raises:
            UnreadableHashError: nothing has changed.
            AmbiguousKeyError: likewise.
        """
        # Digests have one length, so that comparing tells nothing about the keys' lengths.
        digests = [(tenant, _read_entry(key)) for tenant, key in keys]
        owners: dict[bytes, str] = {}
        if any(owners.setdefault(digest, tenant) != tenant for tenant, digest in digests):
            raise AmbiguousKeyError("two tenants have the same key: give each its own")
        self._digests = digests

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


def _read_entry(key: str) -> bytes:
    if not key.startswith(HASH_PREFIX):
        return _digest(key)
    written = key.removeprefix(HASH_PREFIX)
    if _HASH.fullmatch(written) is None:
        raise UnreadableHashError("a hashed key is 'sha256:' and 64 of 0-9 a-f")
    return bytes.fromhex(written)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
