"""Kill a script at random moments, resume it, and compare it with a run that was never killed."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from toy_training import largest_difference, weights

from open_instruct import finetune
from open_instruct.common.sidecars import sidecar_path
from open_instruct.training.arguments import Args


def losses(folder: Path) -> list[tuple]:
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss"), line.get("validation_loss")) for line in log]


def assert_same(one: Path, other: Path) -> None:
    """Weights and log are identical."""
    assert largest_difference(weights(one), weights(other)) == 0
    assert losses(one) == losses(other)


def start_and_kill(main: Callable[[Any], None], args: Any, seconds: float) -> bool:
    """Run `main` in another process, and kill -9 it after `seconds`.  -> whether it ended before"""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            main(args)
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


def seconds_of(main: Callable[[Any], None], args: Any) -> float:
    """Seconds of a run that is not killed."""
    started = time.monotonic()
    assert start_and_kill(main, args, 600)
    return time.monotonic() - started


def kill_until_done(main: Callable[[Any], None], args: Any, rng: random.Random, *, longest: float) -> int:
    """Kill a run that writes `args.output_file` after at most `longest` seconds, until it ends.  -> number of kills

    A run that ends before its first kill is repeated.
    """
    kills = 0
    while True:
        if not start_and_kill(main, args, rng.uniform(0, longest)):
            kills += 1
        elif kills:
            return kills
        else:
            sidecar_path(args.output_file).unlink()
            args.output_file.unlink()


def kill_at_random_moments(args: Args, times: int, *, seed: int = 0) -> list[int | None]:
    """Kill and restart fine-tuning until `times` kills are done, over several runs, each of which resumes to its end.

    -> the last saved step at each kill; None where there was no state
    Raises AssertionError where a run ends with other weights or losses than one that was never killed.
    """
    assert args.output_dir is not None
    uninterrupted = args.output_dir.with_name("uninterrupted")
    seconds = seconds_of(finetune.main, replace(args, output_dir=uninterrupted))
    rng, steps, number = random.Random(seed), [], 0
    while len(steps) < times:
        number += 1
        output = args.output_dir.with_name(f"killed-{number}")
        killed = replace(args, output_dir=output)
        while len(steps) < times and not start_and_kill(finetune.main, killed, rng.uniform(0, seconds)):
            saved = output.with_name(f"{output.name}.state").glob("step-*")
            steps.append(max((int(path.name.removeprefix("step-")) for path in saved), default=None))
        assert start_and_kill(finetune.main, killed, 600)
        assert_same(uninterrupted, output)
    return steps
