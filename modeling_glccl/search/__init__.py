"""Search your own videos: an index on disk, from a folder of videos to the moment a sentence is about."""

from .index import IndexMismatchError, SearchResult, VideoIndex
from .ingest import IngestReport
from .moments import Moment

__all__ = ["IndexMismatchError", "IngestReport", "Moment", "SearchResult", "VideoIndex"]
