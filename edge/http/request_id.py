"""The names of single requests, by which one is found again in the logs of everybody who handled it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from edge.http.headers import Headers

FIELD: Final = "X-Request-ID"
"""What nginx, Envoy, HAProxy and load balancers call it, too."""
_GOOD: Final = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}", re.ASCII)
"""Nothing that could end a field of a log or a line, and no more than is worth its bytes there."""
_RANDOM_BYTES: Final = 16


class RequestIds:
    """Names requests.

    Args:
        random_bytes: gives so many.
        accepts: whether a request that comes with a good ID keeps it.
    """

    def __init__(self, random_bytes: Callable[[int], bytes], *, accepts: bool) -> None:
        self._random_bytes = random_bytes
        self._accepts = accepts

    def of(self, headers: Headers) -> str:
        """The ID of a request with these fields: its own, if that is good and believed, or a fresh one."""
        said = headers.every(FIELD) if self._accepts else ()
        if len(said) == 1 and _GOOD.fullmatch(said[0]):
            return said[0]
        return self._random_bytes(_RANDOM_BYTES).hex()


def named(request_id: str) -> dict[str, str]:
    """What an event says about which request it is about: nothing, if requests have no IDs."""
    return {"request_id": request_id} if request_id else {}
