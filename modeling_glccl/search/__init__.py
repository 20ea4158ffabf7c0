"""Search your own videos: an index on disk, from a folder of videos to the moment a sentence is about."""

import os
import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

from ..packaged import install_line


class _RunWhenUsed(ModuleType):
    """A package whose own code runs once one of its names is asked for; its submodules can be imported before."""

    def __getattr__(self, name: str) -> Any:
        self.__class__ = ModuleType  # pyright: ignore[reportAttributeAccessIssue]
        self.__spec__.loader.exec_module(self)  # pyright: ignore[reportOptionalMemberAccess]
        return getattr(self, name)


# Before LanceDB is imported: it imports a REST client, whose functions take half of all that time and are not used.
_CLIENT = "lance_namespace_urllib3_client"
if _CLIENT not in sys.modules and (_spec := find_spec(_CLIENT)):
    sys.modules[_CLIENT] = module_from_spec(_spec)
    sys.modules[_CLIENT].__class__ = _RunWhenUsed

# Also before: it warns of every table that it makes.
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
