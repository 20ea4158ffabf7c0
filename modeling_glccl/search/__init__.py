"""Search your own videos: an index on disk, from a folder of videos to the moment a sentence is about."""

import os

# Before LanceDB is imported: it warns of every table that it makes.
for _name in ("LANCE_LOG", "LANCEDB_LOG"):
    os.environ.setdefault(_name, "error")

from .index import IndexMismatchError, SearchResult, VideoIndex  # noqa: E402
from .ingest import IngestReport  # noqa: E402
from .moments import Moment  # noqa: E402

__all__ = ["IndexMismatchError", "IngestReport", "Moment", "SearchResult", "VideoIndex"]
