"""Search your own videos: an index on disk, from a folder of videos to the moment a sentence is about."""

import os

from ..packaged import install_line

# Before LanceDB is imported: it warns of every table that it makes.
for _name in ("LANCE_LOG", "LANCEDB_LOG"):
    os.environ.setdefault(_name, "error")

try:
    import filelock  # noqa: F401
    import lancedb  # noqa: F401
    import rich  # noqa: F401
except ImportError as _error:
    raise ImportError(f"an index needs LanceDB: {install_line('search')} ({_error})") from _error

from ..features_glccl import Moment  # noqa: E402
from .cut import CutMoment, cut_moment  # noqa: E402
from .duplicates import Duplicate  # noqa: E402
from .index import IndexMismatchError, SearchResult, VideoIndex  # noqa: E402
from .ingest import IngestReport  # noqa: E402

__all__ = [
    "CutMoment",
    "Duplicate",
    "IndexMismatchError",
    "IngestReport",
    "Moment",
    "SearchResult",
    "VideoIndex",
    "cut_moment",
]
