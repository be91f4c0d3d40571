"""Any declaration of an own dataset is either refused by name before anything is formatted, or formatted completely."""

import json

import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from open_instruct import format_generalization
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl
from open_instruct.data.availability import eval_problems, train_problems
from open_instruct.data.formatting import FormatOptions
from open_instruct.data.registry import read_datasets
from open_instruct.data.settings import DataSettings
from open_instruct.format_generalization import Args

ROWS = {
    "prompt": "Parcel {}:",
    "completion": "late {}",
    "text": "The parcel {} is late.",
    "topic": None,
    "user": None,
    "meta": None,
    "turns": None,
}
"""Column -> pattern of its value."""


def row(part: str, i: int) -> dict:
    of_row = {name: pattern.format(f"{part} {i}") for name, pattern in ROWS.items() if pattern}
    turns = [{"role": "user", "content": f"{part} {i}"}, {"role": "assistant", "content": "late"}]
    return of_row | {"topic": i % 2, "user": i // 3, "meta": {"title": f"{part} {i}"}, "turns": turns}


BASES = [
    {"prompt": "{text}"},
    {"prompt": "{title}:", "completion": "{text}", "fields": {"title": "meta.title", "text": "completion"}},
    {"prompts": {"default": "{text}", "instruct": "Now {text}"}, "labels": {0: "a", 1: "b"}, "completion": "{label}"},
    {"fields": {"label": "topic", "of": "text"}, "labels": {0: "a", 1: "a b"}, "prompt": "Of {of}:", "cluster": "user"},
    {"kind": "text"},
    {"messages": "turns"},
    {},
]
PARTS = [{"train": "train.jsonl"}, {"test": "test.jsonl"}, {"train": "train.jsonl", "test": "test.jsonl"}]
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "train": st.sampled_from(["nowhere.jsonl", "t*.jsonl"]),
        "kind": st.sampled_from(["generation", "labels", "text"]),
        "prompt": st.sampled_from(["{prompt} {text}", "{", "{meta}"]),
        "completion": st.sampled_from(["{label}", "{completion}", "{answer}"]),
        "messages": st.sampled_from(["text", "nothing"]),
        "labels": st.sampled_from([["late", "early"], {"0": "a"}]),
        "exemplars": st.sampled_from(["train", "held_back", "none"]),
        "cluster": st.sampled_from(["user", "nobody"]),
        "metric": st.sampled_from(["accuracy", "bits_per_byte", "exact_match"]),
        "sample": st.integers(12, 50),
        "role": st.sampled_from(["other", "in-domain of own", "out-of-domain of xsum", "in-domain of xsum"]),
    },
)


@st.composite
def entries(draw):
    """A sensible entry, with at most two changes that may make no sense."""
    changes = draw(CHANGES)
    kept = draw(st.sets(st.sampled_from(sorted(changes)), max_size=2)) if changes else ()
    return draw(st.sampled_from(BASES)) | draw(st.sampled_from(PARTS)) | {name: changes[name] for name in kept}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entry=entries(),
    sizes=st.tuples(st.integers(12, 40), st.integers(12, 40)),
    shots=st.integers(0, 9),
    protocol=st.sampled_from(["corrected", "paper"]),
)
def test_a_declaration_is_refused_or_formatted(tmp_path_factory, monkeypatch, entry, sizes, shots, protocol):
    folder = tmp_path_factory.mktemp("own")
    monkeypatch.setenv("base_dir", str(folder))
    for part, size in zip(("train", "test"), sizes, strict=True):
        lines = "".join(json.dumps(row(part, i)) + "\n" for i in range(size))
        (folder / f"{part}.jsonl").write_text(lines)
    (folder / "datasets.yaml").write_text(yaml.safe_dump({"own": entry}))
    data_settings = DataSettings(protocol=protocol)
    try:
        datasets = read_datasets()
    except UserError:
        event("refused: the declaration")
        return
    options = FormatOptions(data_settings, datasets)
    train_set, eval_set = datasets.train_sets.get("own"), datasets.eval_sets.get("own")
    problems = train_problems(train_set, options) if train_set else []
    problems += eval_problems(eval_set, ("default",), (shots,), options) if eval_set else []
    names = ("own",) if train_set else None, ("own",) if eval_set else None
    if problems:
        event("refused: what it declares is not there")
        assert all(problem.startswith("own: ") for problem in problems)
        return
    format_generalization.main(Args(*names, protocol=protocol))
    event("formatted")
    if train_set:
        assert list(read_jsonl(paths.train_file("own", data_settings.suffix)))
    if eval_set:
        items = paths.evaluation_file("own", suffix=data_settings.suffix)
        assert list(read_jsonl(items))
        assert not shots or len(list(read_jsonl(paths.exemplar_file(items)))) >= shots
