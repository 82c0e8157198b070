"""Shared hypothesis strategies: values of the repository format."""

from __future__ import annotations

from hypothesis import strategies as st

from cdn.hashing import Algorithm, Digest
from cdn.objects import Kind, ObjectName


def digests() -> st.SearchStrategy[Digest]:
    """Digests of every algorithm."""
    return st.builds(
        lambda algorithm, value: Digest(algorithm, value),
        st.sampled_from(Algorithm),
        st.binary(min_size=20, max_size=20),
    )


def object_names() -> st.SearchStrategy[ObjectName]:
    """Names of objects of every kind."""
    return st.builds(ObjectName, digests(), st.sampled_from(Kind))


def compressible_bytes(size_max: int = 100_000) -> st.SearchStrategy[bytes]:
    """Bytes with repetitions, as files have them, and without."""
    repeated = st.builds(lambda piece, times: (piece * times)[:size_max], st.binary(max_size=200), st.integers(0, 2000))
    return st.one_of(st.binary(max_size=5000), repeated)
