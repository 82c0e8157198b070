"""What an edge is told about manifests, and what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass

from cdn.config import Duration, Size


@dataclass(frozen=True, slots=True)
class ManifestSettings:
    """How manifests, whitelists and the objects under them are kept in step.

    Args:
        prefetch: whether the root catalog, certificate and history of a newer manifest are fetched when it arrives, and
            it is held back while they cannot be had or its certificate is not on the whitelist.
        prefetch_timeout: how long a newer manifest waits for that; then it is given out all the same.
        prefetch_bytes_max: root catalogs that say to be larger are not fetched beforehand.
        whitelist_warning: how long before a whitelist expires a warning is logged.
    """

    prefetch: bool = True
    prefetch_timeout: Duration = 2.0
    prefetch_bytes_max: Size = 256 << 20
    whitelist_warning: Duration = 259200.0

    def __post_init__(self) -> None:
        if self.prefetch_timeout > 30:
            raise ValueError("prefetch_timeout: longer than half a minute keeps clients from a new revision")
