"""Torture, the short form: two kills before a write, and two processes that want one run.

`python scripts/torture.py` is the long form (docs/reliability.md).
"""

import pytest
from torturing import kills, places

pytestmark = pytest.mark.slow


def test_a_killed_run_goes_on_to_the_bits_of_one_that_was_not(tmp_path):
    straight = kills.Straight(tmp_path / "straight")
    assert straight.end.writes > 100
    found = kills.at_writes(straight, tmp_path, every=straight.end.writes // 2)
    assert found.bad == []
    assert found.kills >= 2
    # The comparison itself: a figure of the log, and a byte of a state.
    log = tmp_path / "straight" / "metrics.jsonl"
    written = log.read_text()
    log.write_text(written.replace('"step": 7', '"step": 8'))
    assert straight.differences(tmp_path / "straight") == ["metrics.jsonl"]
    log.write_text(written)
    assert straight.differences(tmp_path / "straight") == []


def test_of_two_processes_one_trains_and_one_is_refused(tmp_path):
    assert places.two_at_once(tmp_path) == []
