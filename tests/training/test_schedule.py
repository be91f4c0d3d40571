"""The learning rate of each step: transformers' schedules, and no run of which every step is at 0."""

import itertools
from typing import get_args

import pytest
import torch
from transformers import get_scheduler

from open_instruct.study.settings import TrainingOptions
from open_instruct.training.schedule import make_schedule

NAMES = get_args(TrainingOptions.__annotations__["lr_scheduler_type"])


def optimizer(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(scheduler, num_steps: int) -> list[float]:
    """As the loop reads them: the schedule advances after every step, also the last."""
    found = []
    for _ in range(num_steps):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_no_run_is_at_a_rate_of_0_throughout(name):
    for num_steps, ratio, lr in itertools.product((1, 2, 3, 20), (0.0, 0.03, 0.5, 1.0), (1e-3, 1e-7, 1e-8)):
        found = rates(make_schedule(name, optimizer(lr), ratio, num_steps=num_steps), num_steps)
        assert max(found) > 0, (num_steps, ratio, lr)
        assert max(found) <= lr


@pytest.mark.parametrize("name", NAMES)
def test_a_warm_up_of_one_step_is_left_out(name):
    # 3% of 20 steps are 0.6, rounded to one step.
    with_one, without = (make_schedule(name, optimizer(1e-3), ratio, num_steps=20) for ratio in (0.03, 0.0))
    assert rates(with_one, 20) == rates(without, 20)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5])
def test_other_schedules_are_those_of_transformers(name, ratio):
    theirs = get_scheduler(name, optimizer(2e-7), num_warmup_steps=round(ratio * 100), num_training_steps=100)
    assert rates(make_schedule(name, optimizer(2e-7), ratio, num_steps=100), 100) == rates(theirs, 100)


def test_a_polynomial_schedule_of_a_low_peak_ends_at_0():
    """transformers refuses a peak that is not above 1e-7, where its schedule ends."""
    found = rates(make_schedule("polynomial", optimizer(1e-8), 0.0, num_steps=4), 4)
    assert found == pytest.approx([1e-8, 0.75e-8, 0.5e-8, 0.25e-8])
