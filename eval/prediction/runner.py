"""Answer one evaluation file after the other with one loaded model. Used by predict.py; everything here needs torch."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eval.engine.generation import generate
from eval.prediction import label_scoring, model_loading, requests
from eval.prediction.arguments import Args
from eval.prediction.prediction_spec import Job
from eval.prediction.requests import Question, Write, Writing
from eval.prediction.resumable_jsonl import Partial, partial_of
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write

CHUNK_ITEMS = 512
"""Items that are answered between two writes to the disk."""
Items = Sequence[Mapping[str, Any]]


def load(args: Args, *, writes: bool) -> "Asker":
    """The model; `writes`: texts will be written, so that vLLM is needed where it was asked for."""
    tokenizer_folder = args.tokenizer_name_or_path or args.model_name_or_path
    model, tokenizer = model_loading.load(args.model_name_or_path, tokenizer_folder, float16=args.load_in_float16)
    write: Write = partial(generate, model)
    if args.use_vllm and writes:
        from eval.engine import vllm_generation

        write = vllm_generation.load(args.model_name_or_path, tokenizer_folder, model)
    writing = Writing(
        args.max_new_tokens, args.do_sample, args.temperature, args.top_p, args.seed, args.stop_at_newline
    )
    return Asker(model, tokenizer, write, writing, args)


@dataclass(frozen=True)
class Asker:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    write: Write
    writing: Writing
    args: Args

    def check(self, job: Job, items: Items, exemplars: Items) -> int:
        """How many prompts are cut to what the model takes.  Raises UserError for what cannot be asked."""
        encoded = chain.from_iterable(self.encode(job, part, exemplars) for part in parts(items, CHUNK_ITEMS))
        return requests.check_fit(
            [requests.size(question) for question in encoded],
            **self.bounds(job),
            cut_left=self.args.truncate_left,
            name=str(job.input_file),
        )

    def encode(self, job: Job, items: Items, exemplars: Items) -> list[Question]:
        pairs = requests.texts(items, exemplars, chat=self.args.use_chat_format)
        apart = job.protocol.space == "prompt" and job.kind != "text"
        if job.kind == "labels":
            return label_scoring.encode(self.tokenizer, pairs, job.labels, job.constraint, apart=apart)
        if apart:
            return requests.encode_apart(self.tokenizer, pairs)
        return requests.encode_golds(self.tokenizer, pairs)

    def bounds(self, job: Job) -> dict[str, int]:
        max_length: int = self.model.config.max_position_embeddings
        return {"max_length": max_length, "max_new_tokens": self.writing.max_new_tokens if job.writes else 0}

    def predict(self, job: Job, items: Items, exemplars: Items) -> dict[str, Any]:
        """Answer chunk by chunk into the partial file, then write the whole.  -> facts for the sidecar."""
        journal = partial_of(job.artifact, self.args.batch_size or CHUNK_ITEMS)
        if self.args.overwrite:
            journal.path.unlink(missing_ok=True)
        num_before, started = journal.resume(), time.monotonic()
        num_done = num_before
        for part in parts(items[num_before:], journal.chunk):
            # Encoded again, chunk by chunk: token ids of all items would take more memory than their texts.
            questions = [requests.cut(question, **self.bounds(job)) for question in self.encode(job, part, exemplars)]
            found = self.answer(job, questions, num_done)
            journal.append({**item, **fields} for item, fields in zip(part, found, strict=True))
            num_done += len(part)
            rate = (num_done - num_before) / (time.monotonic() - started)
            print(f"{job.artifact.path.name}: {num_done} of {len(items)} items, {rate:.1f} items/s", flush=True)
        facts = finish(job, journal, num_items=len(items))
        return facts | {
            "num_resumed": num_before,
            "dtype": str(self.model.dtype),
            "device": str(self.model.device),
        }

    def answer(self, job: Job, questions: Sequence[Question], first: int) -> list[dict[str, Any]]:
        """What the predictions say of each item; `first` is the position of `questions[0]` among all items."""
        written: list[dict[str, Any]] = [{} for _ in questions]
        if job.kind == "labels":
            scored = label_scoring.choose(self.model, self.tokenizer, questions, job.labels, job.constraint)
            if job.writes:
                texts = requests.write_texts(self.write, self.tokenizer, questions, self.writing, first=first)
                parse_order = job.parse_order if job.protocol.answer == "substring" else ()
                written = [label_scoring.read_label(text, job.labels, parse_order) for text in texts]
            return [score | text for score, text in zip(scored, written, strict=True)]
        if job.writes:
            written = requests.write_texts(self.write, self.tokenizer, questions, self.writing, first=first)
        golds = requests.score_golds(self.model, questions)
        return [text | gold for text, gold in zip(written, golds, strict=True)]


def parts(items: Items, size: int) -> Iterator[Items]:
    return (items[first : first + size] for first in range(0, len(items), size))


def finish(job: Job, journal: Partial, *, num_items: int) -> dict[str, Any]:
    """The whole file from the partial one.  Raises UserError where other hands wrote to it."""
    num_lines, num_unfinished = 0, 0
    with atomic_write(job.artifact.path) as file:
        for line in journal.lines():
            file.write(line)
            num_lines += 1
            num_unfinished += job.writes and not json.loads(line)["finished"]
        if num_lines != num_items:
            raise UserError(
                f"{journal.path}: {num_lines} lines for {num_items} items; is it being written twice at once?"
            )
    journal.path.unlink()
    return {"num_unfinished": num_unfinished} if job.writes else {}
