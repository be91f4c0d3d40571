"""`{task}:olmo` equals ai2-olmo's own in-loop evaluation, on the same rows and the same random model."""

import random
from types import SimpleNamespace

import pytest
import torch
from toy_models import toy_olmo
from transformers import AutoTokenizer

from olmo_eval import in_loop
from olmo_eval.instances import load_instances
from olmo_eval.ranking import predict, summarise
from olmo_eval.tasks import TASKS, task_named

downstream = pytest.importorskip("olmo.eval.downstream")

NAME_IN_OLMO = {"csqa": "commonsense_qa", "openbookqa": "openbook_qa"}
METRIC = {"acc": "raw", "len_norm": "per_char"}
NUM_ROWS = 64
load_hf_dataset = downstream.load_hf_dataset


def in_loop_dataset(name, tokenizer, monkeypatch, *, limit, seed=1234):
    """ai2-olmo's dataset of a task, from the rows that `limit` and `seed` select in load_instances."""

    def some_rows(path, config, split):
        rows = load_hf_dataset(path, config, split)
        return rows.select(random.Random(seed).sample(range(len(rows)), limit)) if len(rows) > limit else rows

    monkeypatch.setattr(downstream, "load_hf_dataset", some_rows)
    entry = downstream.label_to_task_map[NAME_IN_OLMO.get(name, name)]
    task_class, arguments = entry if isinstance(entry, tuple) else (entry, {})
    return task_class(tokenizer, **arguments)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "random"
    model = toy_olmo(folder, initializer_range=0.3, max_position_embeddings=2048)
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", ["arc_easy", "piqa", "hellaswag"])
def test_accuracy_equals_the_in_loop_metric(name, model, monkeypatch):
    network, tokenizer = model
    task = task_named(f"{name}:olmo")
    predictions = predict(
        network,
        tokenizer,
        load_instances(task, limit=NUM_ROWS),
        unconditioned=None,
        max_length=2048,
        max_batch_tokens=8192,
        counts_space=task.counts_space,
    )
    wrapped = SimpleNamespace(encode=tokenizer.encode, pad_token_id=tokenizer.pad_token_id)
    dataset = in_loop_dataset(name, wrapped, monkeypatch, limit=NUM_ROWS)
    metric = downstream.ICLMetric(metric_type=dataset.metric_type)
    for start in range(0, len(dataset), 32):
        batch = dataset.collate_fn(dataset.samples[start : start + 32])
        with torch.no_grad():
            metric.update(batch, network(batch["input_ids"]).logits)
    accuracy = summarise(predictions, primary=task.primary)["acc"]
    assert accuracy == pytest.approx(metric.compute().item(), abs=1e-6)
    assert 0 < accuracy < 1


class Letters:
    """A tokenizer whose tokens are single characters, so that encoded text can be decoded."""

    pad_token_id = 0

    def encode(self, text, add_special_tokens=False):
        return [ord(letter) for letter in text]


@pytest.mark.parametrize("name", sorted(in_loop.PRIMARY))
def test_prompts_and_primary_score_equal_the_in_loop_task(name, monkeypatch):
    dataset = in_loop_dataset(name, Letters(), monkeypatch, limit=30)
    expected = {}
    for sample in dataset.samples:
        context, continuation = ("".join(map(chr, sample[key])) for key in ("ctx", "continuation"))
        expected.setdefault(sample["doc_id"], []).append((context, continuation, sample["label_id"]))
    task = task_named(f"{name}:olmo")
    limit = None if task.subjects else 30
    found = [
        [(context, text, item.gold) for context, text in zip(item.contexts, item.continuations, strict=True)]
        for item in (instance.item for instance in load_instances(task, limit=limit))
    ]
    if task.subjects:  # ai2-olmo has another order, and a sample of each subject
        assert all(document in found for document in expected.values())
    else:
        assert found == list(expected.values())
    assert task.primary == METRIC[dataset.metric_type]


def test_every_in_loop_accuracy_task_has_a_variant():
    supported = {NAME_IN_OLMO.get(name, name) for name in in_loop.PRIMARY}
    ranked = {
        label
        for label, entry in downstream.label_to_task_map.items()
        if not isinstance(entry, tuple) and entry.metric_type in METRIC
    }
    # Arithmetic and the 56 rows of CommitmentBank are not supported.
    assert ranked - supported == {"basic_arithmetic", "commitment_bank"}
    assert set(TASKS) >= {f"{name}:olmo" for name in in_loop.PRIMARY}
