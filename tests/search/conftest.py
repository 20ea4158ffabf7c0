"""The fixtures of the search, for all tests of this folder."""

from search_fixtures import *  # noqa: F403
