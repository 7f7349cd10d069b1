"""kill -9 of a writer at random moments; `python -m tests.crash.kill` does thousands."""

from __future__ import annotations

import pytest
from crash import record as recording
from crash.kill import rounds

pytestmark = pytest.mark.skipif(bool(recording.unavailable()), reason=str(recording.unavailable()))


def test_nothing_acknowledged_is_lost(request, capsys):
    count = 2_000 if request.config.option.long else 100
    tally = rounds(count, request.config.option.seed)
    with capsys.disabled():
        print(f"\nkill -9: {tally}")
    assert tally.found == []
    assert tally.rounds == count
    assert tally.killed > count / 4  # most within their work, not after it
    assert tally.acked > count
