"""Seeded mutations of everything that a user hands in. `python -m tests.fuzz --help`; docs/reliability.md."""
