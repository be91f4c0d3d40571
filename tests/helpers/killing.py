"""Kill a fine-tuning run at random moments, and let it go on, until it ends as one that was never killed."""

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

from toy_training import largest_difference, weights

from open_instruct import finetune
from open_instruct.training.arguments import Args


def losses(folder: Path) -> list[tuple]:
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss"), line.get("validation_loss")) for line in log]


def assert_same(one: Path, other: Path) -> None:
    """The same weights and the same log, bit for bit."""
    assert largest_difference(weights(one), weights(other)) == 0
    assert losses(one) == losses(other)


def start_and_kill(args: Args, seconds: float) -> bool:
    """Start the run in a process of its own, and kill -9 it unless it ends before.  -> whether it ended by itself"""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            finetune.main(args)
            code = 0
        finally:
            os._exit(code)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def kill_at_random_moments(args: Args, times: int, *, seed: int = 0) -> list[int | None]:
    """Kill so often, starting again each time, over as many runs as that takes, each gone on to its end.

    -> the last step that was saved when each was killed; None: its state was gone, or not there yet
    Raises AssertionError where a run ends with other weights or losses than one never killed.
    """
    assert args.output_dir is not None
    whole = args.output_dir.with_name("whole")
    started = time.monotonic()
    assert start_and_kill(replace(args, output_dir=whole), 60)
    seconds = time.monotonic() - started
    rng, steps, number = random.Random(seed), [], 0
    while len(steps) < times:
        number += 1
        output = args.output_dir.with_name(f"killed-{number}")
        killed = replace(args, output_dir=output)
        while len(steps) < times and not start_and_kill(killed, rng.uniform(0, seconds)):
            saved = output.with_name(f"{output.name}.state").glob("step-*")
            steps.append(max((int(path.name.removeprefix("step-")) for path in saved), default=None))
        assert start_and_kill(killed, 60)
        assert_same(whole, output)
    return steps
