"""Predictions of one loaded model for one evaluation file after the other."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eval.engine import generation, vllm_generation
from eval.engine.ways import ways
from eval.prediction import label_scoring, model_loading, requests
from eval.prediction.label_parsing import label_in
from eval.prediction.prediction_spec import PredictionSpec
from eval.prediction.requests import EncodedItem, Generate
from eval.prediction.resumable_jsonl import ResumableJsonl
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write
from open_instruct.common.model_loading import max_positions
from open_instruct.common.special_tokens import AddBosToken, beginning, begins_with
from open_instruct.data.encode import eos_id, require_chats
from open_instruct.study.settings import Dtype

CHUNK_ITEMS = 512
"""Items between two writes to the disk."""
Items = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Runner:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    generate: Generate

    @classmethod
    def load(
        cls, folder: Path, tokenizer_folder: Path, *, dtype: Dtype, add_bos_token: AddBosToken | None, use_vllm: bool
    ) -> "Runner":
        model, tokenizer = model_loading.load(folder, tokenizer_folder, dtype=dtype, add_bos_token=add_bos_token)
        if use_vllm:
            return cls(model, tokenizer, vllm_generation.load_generator(folder, tokenizer_folder, model))
        return cls(model, tokenizer, partial(generation.generate, model))

    def count_too_long(self, spec: PredictionSpec, items: Items, exemplars: Items) -> int:
        """Number of prompts to be truncated.  Raises UserError for items that this model and tokenizer cannot take."""
        if spec.generation:
            eos_id(self.tokenizer)  # raises UserError where there is none
        if spec.use_chat_format and spec.protocol.end_of_chat is None:
            require_chats(self.tokenizer)
        encoded = chain.from_iterable(self.encode(spec, chunk, exemplars) for chunk in chunks(items, CHUNK_ITEMS))
        return requests.count_too_long(
            [(len(item.context), item.num_continuation_tokens) for item in encoded],
            **self.token_limits(spec),
            truncate_left=spec.truncate_left,
            name=str(spec.input_file),
        )

    def encode(self, spec: PredictionSpec, items: Items, exemplars: Items) -> list[EncodedItem]:
        layout = {"chat": spec.use_chat_format, "gold_in_prompt": spec.gold_in_prompt}
        pairs = requests.prompts_and_completions(items, exemplars, spec.protocol, **layout)
        separately = spec.protocol.space == "prompt" and spec.kind != "text"
        if spec.kind == "labels":
            return label_scoring.encode(self.tokenizer, pairs, spec.labels, spec.constraint, separately=separately)
        encoded = (requests.encode_separately if separately else requests.encode_jointly)(self.tokenizer, pairs)
        window = max_positions(self.model.config) or requests.WINDOW_TOKENS
        return [requests.in_windows(item, window) for item in encoded] if spec.kind == "text" else encoded

    def token_limits(self, spec: PredictionSpec) -> dict[str, int]:
        max_new_tokens = spec.generation.max_new_tokens if spec.generation else 0
        num_first = len(beginning(self.tokenizer))
        return {
            "max_length": requests.max_length(self.model),
            "max_new_tokens": max_new_tokens,
            "num_first": num_first,
        }

    def predict(
        self, spec: PredictionSpec, items: Items, exemplars: Items, *, chunk_size: int, resume: bool
    ) -> dict[str, Any]:
        """Write the prediction file; until it is complete, chunks go to a partial file.  -> facts for the sidecar"""
        partial_file = ResumableJsonl.beside(spec.artifact, chunk_size)
        if not resume:
            partial_file.path.unlink(missing_ok=True)
        num_resumed, started = partial_file.resume(), time.monotonic()
        num_done, limits = num_resumed, self.token_limits(spec)
        for chunk in chunks(items[num_resumed:], chunk_size):
            # Tokenised again here: the token ids of all items would take more memory than their texts.
            encoded = [requests.truncate(each, **limits) for each in self.encode(spec, chunk, exemplars)]
            predictions = self.predict_chunk(spec, encoded, first=num_done)
            partial_file.append({**item, **fields} for item, fields in zip(chunk, predictions, strict=True))
            num_done += len(chunk)
            rate = (num_done - num_resumed) / (time.monotonic() - started)
            print(f"{spec.artifact.path.name}: {num_done} of {len(items)} items, {rate:.1f} items/s", flush=True)
        facts = finish(spec, partial_file, num_items=len(items))
        facts |= {"num_resumed": num_resumed, "begins_with": begins_with(self.tokenizer)}
        facts |= {"dtype": str(self.model.dtype), "device": str(self.model.device)}
        return facts | {"computed_by": ways(self.model)}

    def predict_chunk(self, spec: PredictionSpec, items: Sequence[EncodedItem], *, first: int) -> list[dict[str, Any]]:
        """The predicted fields of each item; `first` is the position of `items[0]` in the file."""
        texts: list[dict[str, Any]] = [{} for _ in items]
        if spec.generation:
            texts = requests.generate_texts(self.generate, self.tokenizer, items, spec.generation, first=first)
        if spec.kind != "labels":
            golds = requests.gold_log_likelihoods(self.model, items)
            return [text | gold for text, gold in zip(texts, golds, strict=True)]
        if spec.generation:
            parse_order = spec.parse_order if spec.protocol.answer == "substring" else ()
            texts = [
                {**text, "output": label_in(text["output"], spec.labels, parse_order), "text": text["output"]}
                for text in texts
            ]
        scores = label_scoring.predict_labels(self.model, self.tokenizer, items, spec.labels, spec.constraint)
        return [score | text for score, text in zip(scores, texts, strict=True)]


def chunks(items: Items, size: int) -> Iterator[Items]:
    return (items[first : first + size] for first in range(0, len(items), size))


def finish(spec: PredictionSpec, partial_file: ResumableJsonl, *, num_items: int) -> dict[str, Any]:
    """Turn the partial file into the prediction file.  Raises UserError where another process wrote to it."""
    num_lines, num_unfinished = 0, 0
    with atomic_write(spec.artifact.path) as file:
        for line in partial_file.lines():
            file.write(line)
            num_lines += 1
            num_unfinished += spec.generation is not None and not json.loads(line)["finished"]
        if num_lines != num_items:
            raise UserError(
                f"{partial_file.path}: {num_lines} lines for {num_items} items; did two processes write it? "
                "Delete it and run the same command again"
            )
    partial_file.path.unlink()
    return {"num_unfinished": num_unfinished} if spec.generation else {}
