"""Fixtures of the tests of batches."""

from __future__ import annotations

import pytest

from apikley_async import _sqlite


class SmallDisk(_sqlite.Database):
    """A connection to a database that can grow to *pages* at most, where they are given.

    SQLite reports a full disk then, as it does on a real one.
    """

    pages: int | None = None

    def begin(self) -> None:
        super().begin()
        if self.pages is not None:
            self.execute(f"PRAGMA max_page_count = {self.pages}")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> type[SmallDisk]:
    """The disk of the journals that are opened from here on; the test sets its `pages`."""

    class Disk(SmallDisk):
        """Of one test, so that nothing is left to the next."""

    monkeypatch.setattr(_sqlite, "Database", Disk)
    return Disk
