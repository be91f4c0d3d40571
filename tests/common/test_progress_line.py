"""Progress in a log: whole lines, the first and the last step, and not too many between."""

import pytest

from open_instruct.common import progress_line
from open_instruct.common.progress_line import ProgressLine


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr(progress_line.time, "monotonic", lambda: Clock.now)
    return Clock


def lines(clock, capsys, *, num_steps: int, step_seconds: float) -> list[str]:
    """What a loop writes whose steps take so long."""
    with ProgressLine("training", num_steps, unit="step") as line:
        for step in range(num_steps):
            clock.now += step_seconds
            line.advance(details=f"loss {num_steps - step}")
    return capsys.readouterr().err.splitlines()


def test_a_short_loop_writes_its_first_and_last_step(clock, capsys):
    assert lines(clock, capsys, num_steps=10, step_seconds=1) == [
        "training: step 1/10 (10%), loss 10, 9 s left",
        "training: step 10/10 (100%), loss 1",
    ]


def test_a_loop_of_one_step_writes_it_once(clock, capsys):
    assert lines(clock, capsys, num_steps=1, step_seconds=1) == ["training: step 1/1 (100%), loss 1"]


@pytest.mark.parametrize(("step_seconds", "num_lines"), [(0.125, 6), (1, 21), (100, 334)])
def test_lines_are_5_percent_apart_but_at_least_30_seconds_and_at_most_5_minutes(
    clock, capsys, step_seconds, num_lines
):
    assert len(lines(clock, capsys, num_steps=1000, step_seconds=step_seconds)) == num_lines


def test_a_resumed_loop_estimates_from_its_own_steps(clock, capsys):
    line = ProgressLine("training", 100, unit="step", num_done=90)
    clock.now += 2
    line.advance()
    assert capsys.readouterr().err == "training: step 91/100 (91%), 18 s left\n"


def test_shares_of_a_step_add_up(clock, capsys):
    with ProgressLine("rte", 3, unit="instance") as line:
        for _ in range(6):
            line.advance(0.5)
    assert capsys.readouterr().err.splitlines()[-1] == "rte: instance 3/3 (100%)"
