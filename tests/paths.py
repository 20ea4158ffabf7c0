"""Where things lie in the repository."""

from pathlib import Path

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
GOLDEN = TESTS / "golden"
