"""The commands of stratum 0, under the names in which the command line looks for them."""

from __future__ import annotations

from stratum0.commands.publishing import ingest, publish
from stratum0.commands.repo import repo
from stratum0.commands.revisions import diff, rollback, tag
from stratum0.commands.serve import serve
from stratum0.commands.transaction import transaction
from stratum0.commands.upkeep import check, gc

__all__ = ["check", "diff", "gc", "ingest", "publish", "repo", "rollback", "serve", "tag", "transaction"]
