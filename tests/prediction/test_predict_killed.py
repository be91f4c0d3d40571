"""A prediction run that is killed, and started again, ends with the bytes of an uninterrupted run."""

import multiprocessing
import random
import time
from dataclasses import replace

from toy_evaluation import SCIQ, write_evaluation

from eval import predict
from open_instruct.common.sidecars import read_sidecar


def start(args):
    """Start the run in a fork of this process, which has the libraries loaded."""
    process = multiprocessing.get_context("fork").Process(target=predict.main, args=(args,))
    process.start()
    return process


def num_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_and_resumed_predictions_have_the_same_bytes(home):
    write_evaluation(home / "sciq.jsonl", SCIQ * 20)
    args = predict.Args(
        home / "model",
        (home / "sciq.jsonl",),
        output_file=home / "killed.jsonl",
        batch_size=4,
        max_new_tokens=12,
    )
    partial = home / "killed.jsonl.partial"
    rng, num_resumed = random.Random(0), 0
    for num_chunks in (3, 5, 2):
        process = start(args)
        while process.is_alive() and num_lines(partial) < 1 + num_resumed + 4 * num_chunks:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.join()
        assert not (home / "killed.jsonl").exists()
        num_resumed = (num_lines(partial) - 1) // 4 * 4
    process = start(args)
    process.join()
    assert process.exitcode == 0
    assert read_sidecar(home / "killed.jsonl")["num_resumed"] == num_resumed >= 40
    predict.main(replace(args, output_file=home / "uninterrupted.jsonl"))
    assert (home / "killed.jsonl").read_bytes() == (home / "uninterrupted.jsonl").read_bytes()
