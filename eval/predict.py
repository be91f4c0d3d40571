"""Put evaluation files to one model: what it writes, which label it chooses, how likely it finds the gold completion.

Reads   evaluation files with their sidecars (kind, evaluation set, format), a model folder in transformers format and,
        for few-shot prompts, the exemplars beside each evaluation file.
Writes  output/predictions/{eval_set}[_{format}]_{model_id}[_{n}shots].jsonl: each evaluation record and "gold_logprob"
        (nats, EOS not included), for kind generation "output" and "finished", for kind labels "output" and "scores".

    python eval/predict.py --model_name_or_path output/tiny_tf_ckpts/checkpoint-600 \
        --input_files data/evaluation/socialiqa.jsonl data/evaluation/rte.jsonl

A file that is done is skipped; one that was cut short goes on where it stopped (from `{output}.partial`).
"""

from collections.abc import Sequence
from pathlib import Path

from eval.prediction import model_loading
from eval.prediction.arguments import Args
from eval.prediction.prediction_spec import (
    Job,
    is_done,
    plan,
    read_exemplars,
    require_different,
    sample_items,
)
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError


def main(args: Args) -> None:
    predict_files(args)


def predict_files(args: Args, only_kind: str | None = None) -> list[Path]:
    """Returns the prediction files, one for each input file."""
    check_arguments(args)
    model_loading.check_folder(args.model_name_or_path)
    model_identity = model_loading.identify(args.model_name_or_path)
    limits = limit_of_each(args)
    jobs = [plan(*of_file, args, model_identity, only_kind) for of_file in zip(args.input_files, limits, strict=True)]
    outputs = [job.artifact.path for job in jobs]
    require_different(outputs)
    unfinished = [job for job in jobs if not is_done(job, overwrite=args.overwrite)]
    if unfinished:
        ask(unfinished, args)
    return outputs


def ask(unfinished: Sequence[Job], args: Args) -> None:
    items = [sample_items(job.input_file, job.limit) for job in unfinished]
    shots = [read_exemplars(job, args.num_shots, asked) for job, asked in zip(unfinished, items, strict=True)]
    from eval.prediction import runner

    asker = runner.load(args, writes=any(job.writes for job in unfinished))
    # All are looked at before the first is answered, so that what does not fit is refused at once.
    nums_cut = [asker.check(*of_job) for of_job in zip(unfinished, items, shots, strict=True)]
    for job, asked, exemplars, num_cut in zip(unfinished, items, shots, nums_cut, strict=True):
        with job.artifact.making() as facts:
            facts |= {"num_items": len(asked), "num_truncated": num_cut}
            facts |= {"exemplar_ids": [exemplar["id"] for exemplar in exemplars]}
            facts |= asker.predict(job, asked, exemplars)


def check_arguments(args: Args) -> None:
    """Raises UserError that names every problem at once."""
    problems = []
    if args.output_file and len(args.input_files) != 1:
        problems.append(f"--output_file goes with one input file, found {len(args.input_files)}")
    at_least = {"num_shots": 0, "max_new_tokens": 1, "batch_size": 1, "limit": 1}
    values = {name: getattr(args, name) for name in at_least} | {"limit": min(args.limit, default=None)}
    problems += [
        f"--{name} is {value}; expected at least {at_least[name]}"
        for name, value in values.items()
        if value is not None and value < at_least[name]
    ]
    if not args.do_sample and (args.temperature, args.top_p) != (1.0, 1.0):
        problems.append("--temperature and --top_p do nothing without --do_sample; add it or leave them out")
    if args.temperature <= 0 or not 0 < args.top_p <= 1:
        problems.append("expected --temperature above 0 and --top_p above 0 and at most 1")
    if len(args.limit) not in (0, 1, len(args.input_files)):
        problems.append(
            f"--limit takes one number or {len(args.input_files)}, one for each file; found {len(args.limit)}"
        )
    if problems:
        raise UserError("; ".join(problems))


def limit_of_each(args: Args) -> tuple[int | None, ...]:
    limits = args.limit or (None,)
    return limits * len(args.input_files) if len(limits) == 1 else limits


if __name__ == "__main__":
    run(main, Args)
