"""A run that is killed at random moments ends with the bytes of one that is not (benchmarks/predict_killed.py)."""

import random
from dataclasses import replace

from predict_killed import kill_until_done, questions, run_to_end

from eval.predict import Args
from open_instruct.common.json_files import write_jsonl


def test_killed_at_random_and_resumed_the_bytes_are_the_same(home):
    write_jsonl(home / "items.jsonl", questions(120))
    whole = Args(
        home / "model",
        (home / "items.jsonl",),
        output_file=home / "whole.jsonl",
        batch_size=4,
        max_new_tokens=12,
        truncate_left=True,
    )
    seconds = run_to_end(whole)
    killed = replace(whole, output_file=home / "killed.jsonl")
    kills = kill_until_done(killed, random.Random(0), longest=seconds)
    assert kills > 0
    assert (home / "killed.jsonl").read_bytes() == (home / "whole.jsonl").read_bytes()
