"""Train files as token ids, tokenised once and cached by content: all checkpoints of a family share them.

The cache is an Arrow file in output/encoded, named by a hash of everything that affects the token ids: the file's
content, the tokenizer, the maximum length, the rows, and the encoder's source.
"""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from open_instruct.common import paths, special_tokens
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import digest, sha256
from open_instruct.common.json_files import atomic_write
from open_instruct.common.locks import hold
from open_instruct.common.sidecars import content_hash, read_sidecar
from open_instruct.data import encode
from open_instruct.data.encode import IGNORED, Encoded, encode_examples
from open_instruct.data.train_records import read_train_records

RECORDS_PER_CHUNK = 1_000


class Examples:
    """Encoded examples in a memory-mapped table: a row is a view, not a copy."""

    def __init__(self, table: pa.Table) -> None:
        """table: of columns `ids` and `labels`, each in one chunk."""
        self.ids, self.starts = flatten(table["ids"])
        self.labels, _ = flatten(table["labels"])
        self.lengths = np.diff(self.starts)  # (rows,) tokens
        is_target = (self.labels != IGNORED).astype(np.int64)
        is_target[self.starts[:-1]] = 0  # nothing precedes a first token that could predict it
        self.num_targets = np.add.reduceat(is_target, self.starts[:-1])  # (rows,)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> Encoded:
        tokens = slice(self.starts[row], self.starts[row + 1])
        return Encoded(self.ids[tokens], self.labels[tokens])

    def __iter__(self) -> Iterator[Encoded]:
        return map(self.__getitem__, range(len(self)))


def flatten(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """-> values (tokens,), starts (rows + 1,)"""
    lists: Any = column.chunk(0)
    return lists.values.to_numpy(), lists.offsets.to_numpy()


def load_train_and_validation(
    tokenizer: PreTrainedTokenizerFast,
    train_file: Path,
    *,
    validation_file: Path | None,
    max_train_rows: int | None,
    num_validation_rows: int,
    max_length: int,
    num_workers: int,
) -> tuple[Examples, Examples | None, int]:
    """Train and validation examples, and how many train examples lost prompt tokens to fit `max_length`.

    Raises UserError where a file has too few rows.
    """
    load = partial(load_examples, tokenizer, max_length=max_length, num_workers=num_workers)
    records = read_train_records(train_file)
    num_train = len(records) - num_validation_rows
    num_train = min(num_train, max_train_rows or num_train)
    if num_train < 1 or num_train < (max_train_rows or 0):
        raise UserError(
            f"{train_file}: {len(records)} rows, {num_validation_rows} of them held back for validation; "
            f"expected at least {max_train_rows or 1} to train on"
        )
    train, num_cut = load(train_file, records, slice(0, num_train))
    if validation_file is not None:
        records = read_train_records(validation_file)
        if not records:
            raise UserError(f"{validation_file}: no rows; expected records to validate on")
        return train, load(validation_file, records, slice(0, len(records)))[0], num_cut
    if num_validation_rows == 0:
        return train, None, num_cut
    return train, load(train_file, records, slice(len(records) - num_validation_rows, len(records)))[0], num_cut


def load_examples(
    tokenizer: PreTrainedTokenizerFast,
    source: Path,
    records: list[dict],
    rows: slice,
    *,
    max_length: int,
    num_workers: int,
) -> tuple[Examples, int]:
    """Examples of `records[rows]` of `source`, cached, and how many of them were cut to `max_length`."""
    arguments = {
        "rows": [rows.start, rows.stop],
        "max_length": max_length,
        "tokenizer": tokenizer_hash(tokenizer),
        "encoder": [sha256(Path(str(module.__file__))) for module in (encode, special_tokens)],
    }
    key = digest({**arguments, "source": content_hash(source)})
    artifact = Artifact(paths.encoded_file(key[:24]), arguments, inputs={"source": source})
    if not artifact.is_done():
        # Of several runs that start together, one tokenises and the others wait.
        with hold(artifact.path.with_suffix(".lock"), wait=True):
            if not artifact.is_done():
                with artifact.making() as facts, naming_file(source):
                    facts.update(write_encoded(artifact.path, tokenizer, records[rows], max_length, num_workers))
    num_cut = read_sidecar(artifact.path)["examples_cut"]
    return Examples(pa.ipc.open_file(pa.memory_map(str(artifact.path))).read_all()), num_cut


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Say in the error of an example, which begins with its id, where it is from."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hash of everything in the tokenizer that affects the token ids; folder name and chat template do not."""
    return digest([tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token])


def write_encoded(
    path: Path, tokenizer: PreTrainedTokenizerFast, records: list[dict], max_length: int, num_workers: int
) -> dict[str, int]:
    chunks = [records[i : i + RECORDS_PER_CHUNK] for i in range(0, len(records), RECORDS_PER_CHUNK)]
    encode_one = partial(encode_chunk, tokenizer, max_length)
    if num_workers > 1:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
            encoded = list(pool.map(encode_one, chunks))
    else:
        encoded = list(map(encode_one, chunks))
    table = pa.concat_tables([table for table, _ in encoded]).combine_chunks()
    with atomic_write(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return {"rows": len(table), "examples_cut": sum(num_cut for _, num_cut in encoded)}


def encode_chunk(tokenizer: PreTrainedTokenizerFast, max_length: int, records: list[dict]) -> tuple[pa.Table, int]:
    examples, num_cut = encode_examples(tokenizer, records, max_length=max_length)
    return as_table(examples), num_cut


def as_table(examples: Sequence[Encoded]) -> pa.Table:
    """Columns `ids` and `labels`, one row per example."""
    ids = pa.array([example.ids for example in examples], pa.large_list(pa.int32()))
    labels = pa.array([example.labels for example in examples], pa.large_list(pa.int32()))
    return pa.table({"ids": ids, "labels": labels})
