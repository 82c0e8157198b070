"""The publisher: the one place where a repository changes, in transactions that become one revision or nothing.

`Repository` is where a program begins; examples/publish.py shows the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratum0.config import Home, RepositorySettings
    from stratum0.repository import Head, Repository

__all__ = ["Head", "Home", "Repository", "RepositorySettings"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that importing the package costs nothing."""
    from importlib import import_module

    modules = {"Head": "repository", "Repository": "repository", "Home": "config", "RepositorySettings": "config"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"stratum0.{modules[name]}"), name)
