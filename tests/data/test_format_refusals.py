"""Refused data: the message, and the option that formats it nevertheless."""

import pytest
import toy_datasets

from eval.prediction.prediction_spec import sample_items, sample_without
from open_instruct import format_generalization
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.paths import exemplar_file
from open_instruct.common.sidecars import read_sidecar
from open_instruct.data.decontamination import TextHashes
from open_instruct.data.format_tally import Tally
from open_instruct.data.sampling import exemplar_indices
from open_instruct.data.settings import DataSettings
from open_instruct.format_generalization import Args
from open_instruct.tasks import TRAIN_SETS, eval_set_named, train_set_named


@pytest.fixture
def mirror(tmp_path):
    """A mirror of the Hub with 40 rows of every split, where the script looks for it."""
    folder = tmp_path / "data" / "mirror"
    toy_datasets.fill_mirror(folder, as_json_lines=True)
    return folder


def change(mirror, split, rows):
    name = split.files.replace("-*.parquet", ".jsonl").replace("/*.parquet", ".jsonl")
    (mirror / split.hub / name).write_bytes(toy_datasets.json_lines(rows))


def format_sets(*, train=(), evaluation=(), **options):
    options = {"source": "local", "any_row_count": True} | options
    format_generalization.main(Args(tuple(train) or None, tuple(evaluation) or None, **options))


def train_file(name, **options):
    return paths.train_file(name, DataSettings(any_row_count=True, **options).suffix)


def evaluation_file(name, task_format="default", **options):
    return paths.evaluation_file(name, task_format, DataSettings(any_row_count=True, **options).suffix)


def ids(path):
    return [record["id"] for record in read_jsonl(path)]


def test_an_unknown_few_shot_set_is_refused(mirror):
    with pytest.raises(UserError, match=r"unknown evaluation set rta \(did you mean rte"):
        format_sets(evaluation=["rte"], few_shot_sets=("rta",))


def test_hidden_labels_are_refused(mirror):
    split = eval_set_named("rte").split
    change(mirror, split, [row | {"label": -1} for row in toy_datasets.rows(split)])
    with pytest.raises(UserError, match=r"rte: rte-0: label -1 \(-1: the labels of this split are hidden; use a label"):
        format_sets(evaluation=["rte"])
    format_sets(evaluation=["rte"], allow_unlabelled=True)
    assert read_sidecar(evaluation_file("rte", allow_unlabelled=True))["labels"] == {"entailment": 40}


def test_an_evaluation_set_with_a_single_label_is_refused(mirror):
    split = eval_set_named("paws").split
    change(mirror, split, [row | {"label": 0} for row in toy_datasets.rows(split)])
    with pytest.raises(UserError, match="paws: every label is 'no'; accuracy on it measures nothing"):
        format_sets(evaluation=["paws"])
    assert not evaluation_file("paws").exists()
    format_sets(evaluation=["paws"], allow_unlabelled=True)
    assert read_sidecar(evaluation_file("paws", allow_unlabelled=True))["labels"] == {"no": 40}


def test_a_train_set_with_a_single_label_is_refused(mirror):
    split = train_set_named("paws").splits[0]
    change(mirror, split, [row | {"label": 1} for row in toy_datasets.rows(split)])
    with pytest.raises(UserError, match="paws: every label is 'yes'"):
        format_sets(train=["paws"])


@pytest.mark.parametrize(("kind", "name"), [("evaluation", "xlsum"), ("train", "mnli")])
def test_another_number_of_rows_than_declared_is_refused(mirror, kind, name):
    expected = {"xlsum": 11_535, "mnli": 392_702}[name]
    (mirror / "csebuetnlp" / "xlsum" / "english" / "train.jsonl").unlink()
    with pytest.raises(UserError, match=rf"{name}: 40 rows at .*, expected {expected}; .* --any_row_count"):
        format_sets(**{kind: [name]}, any_row_count=False)
    format_sets(**{kind: [name]})


def test_empty_completions_are_refused(mirror):
    split = eval_set_named("cnn").split
    rows = toy_datasets.rows(split)
    change(mirror, split, [*rows[:3], rows[3] | {"highlights": " \n"}, rows[4] | {"highlights": None}, *rows[5:]])
    with pytest.raises(UserError, match=r"cnn: 2 rows have an empty part: cnn-3 \(completion\), cnn-4 \(completion\)"):
        format_sets(evaluation=["cnn"])
    format_sets(evaluation=["cnn"], drop_empty=True)
    assert len(ids(evaluation_file("cnn", drop_empty=True))) == 38
    assert read_sidecar(evaluation_file("cnn", drop_empty=True))["dropped_empty"] == 2


def test_a_row_with_an_empty_prompt_in_one_format_is_left_out_of_all(mirror):
    split = eval_set_named("xsum").split
    rows = toy_datasets.rows(split)
    change(mirror, split, [rows[0] | {"document": ""}, *rows[1:]])
    with pytest.raises(UserError, match=r"xsum: 1 rows have an empty part: xsum-0 \(prompt\); .*--drop_empty"):
        format_sets(evaluation=["xsum"])
    format_sets(evaluation=["xsum"], drop_empty=True)
    in_each = [ids(evaluation_file("xsum", f, drop_empty=True)) for f in ("default", "instruct", "inputoutput")]
    assert in_each == [[f"xsum-{i}" for i in range(1, 40)]] * 3


@pytest.mark.parametrize(
    "turns", [[], [{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": " "}]], ids=str
)
def test_chats_without_a_turn_of_the_assistant_are_refused(mirror, turns):
    split = train_set_named("tulu").splits[0]
    change(mirror, split, [row | {"messages": turns} for row in toy_datasets.rows(split)])
    with pytest.raises(
        UserError, match=r"tulu: 24 rows have an empty part: tulu-train-\d+ \((message|no message of the role)"
    ):
        format_sets(train=["tulu"])


def test_malformed_messages_are_refused(mirror):
    split = train_set_named("tulu").splits[0]
    change(mirror, split, [row | {"messages": [{"text": "Hi"}]} for row in toy_datasets.rows(split)])
    with pytest.raises(UserError, match=r"tulu: tulu-train-\d+: expected messages with role and content"):
        format_sets(train=["tulu"])


def test_a_repeated_id_is_refused():
    tally = Tally(eval_set_named("xsum"))
    record = {"id": "xsum-0", "prompt": "a", "completion": " b"}
    tally.add({"default": record})
    with pytest.raises(UserError, match="duplicate id xsum-0; expected each id once"):
        tally.add({"default": record})


def with_overlap(mirror):
    """Make two train rows of PAWS evaluated ones: one exactly, one except for case and white space."""
    evaluated = toy_datasets.rows(eval_set_named("paws").split)
    split = train_set_named("paws").splits[0]
    loose = evaluated[2] | {"sentence1": evaluated[2]["sentence1"].upper().replace(" ", "\t")}
    # Repeated, because sixteen of the forty rows are not sampled.
    change(mirror, split, [evaluated[1]] * 20 + [loose] * 5 + toy_datasets.rows(split)[25:])


def test_train_rows_that_are_also_evaluated_are_counted_and_left_out(mirror):
    with_overlap(mirror)
    format_sets(train=["paws"])
    facts = read_sidecar(train_file("paws"))
    assert facts["overlap_exact"] >= 4
    assert facts["overlap_normalised"] >= 1
    overlapping = facts["overlap_exact"] + facts["overlap_normalised"]
    assert facts["dropped_also_in_evaluation"] == overlapping
    assert facts["rows"] == len(ids(train_file("paws"))) == 24 - overlapping
    assert not [r for r in read_jsonl(train_file("paws")) if "test cat" in r["prompt"].lower()]


def test_train_rows_that_are_also_evaluated_are_refused_or_kept_by_option(mirror):
    with_overlap(mirror)
    message = r"paws: \d+ train rows are also in the evaluation set \(\d+ exactly\): .*--overlap drop"
    with pytest.raises(UserError, match=message):
        format_sets(train=["paws"], overlap="refuse")
    format_sets(train=["paws"], overlap="keep")
    facts = read_sidecar(train_file("paws", overlap="keep"))
    assert (facts["rows"], facts["dropped_also_in_evaluation"]) == (24, 0)
    assert facts["overlap_exact"] >= 4


def test_the_paper_protocol_keeps_overlap_and_counts_it(mirror):
    with_overlap(mirror)
    format_sets(train=["paws"], protocol="paper")
    assert read_sidecar(train_file("paws", protocol="paper"))["rows"] == 24
    assert read_sidecar(train_file("paws", protocol="paper"))["overlap_exact"] >= 4


@pytest.mark.parametrize(("name", "reason"), [("qqp", "labels are hidden"), ("stsb", "gold is the same for every row")])
def test_unlabelled_splits_of_the_paper_are_refused_unless_allowed(mirror, name, reason):
    with pytest.raises(UserError, match=rf"{name}: the paper evaluated SetFit/{name} test.jsonl: its {reason}.*1\.0"):
        format_sets(evaluation=[name], protocol="paper")
    format_sets(evaluation=[name], protocol="paper", allow_unlabelled=True)
    assert {
        record["completion"] for record in read_jsonl(evaluation_file(name, protocol="paper", allow_unlabelled=True))
    } == {"no"}
    assert (
        read_sidecar(evaluation_file(name, protocol="paper", allow_unlabelled=True))["identity"]["protocol"] == "paper"
    )


def test_both_protocols_have_files_of_their_own(mirror):
    format_sets(evaluation=["paws"])
    first = evaluation_file("paws").read_bytes()
    format_sets(evaluation=["paws"], protocol="paper")
    assert evaluation_file("paws").read_bytes() == first
    of_paper = evaluation_file("paws", protocol="paper")
    assert of_paper.name == "paws_paper_anyrows.jsonl"
    assert next(read_jsonl(of_paper))["prompt"].endswith(" ")
    assert exemplar_file(of_paper).is_file()
    assert read_sidecar(of_paper)["identity"]["data_settings"] == "_paper_anyrows"


def test_text_that_is_not_unicode_is_refused(mirror):
    split = eval_set_named("xsum").split
    rows = toy_datasets.rows(split)
    change(mirror, split, [rows[0] | {"summary": "a \ud83d b"}, *rows[1:]])
    with pytest.raises(UserError, match="xsum: xsum-0: text that is not valid Unicode"):
        format_sets(evaluation=["xsum"])


def test_every_problem_is_reported_and_the_other_sets_are_formatted(mirror):
    change(mirror, eval_set_named("rte").split, [])
    change(mirror, eval_set_named("cnn").split, [{"article": "A", "highlights": ""}])
    with pytest.raises(UserError, match=r"(?s)rte: no rows.*cnn: 1 rows have an empty part"):
        format_sets(evaluation=["rte", "cnn", "paws"])
    assert len(ids(evaluation_file("paws"))) == 40


def test_exemplars_are_neither_trained_on_nor_evaluated(mirror):
    rows = toy_datasets.rows(eval_set_named("xsum").exemplars)
    spare = exemplar_indices(eval_set_named("xsum").exemplars, 40, 42, TRAIN_SETS.values())
    change(mirror, eval_set_named("xsum").split, [rows[spare[0]], *toy_datasets.rows(eval_set_named("xsum").split)])
    format_sets(train=["xsum"], evaluation=["xsum"])
    shots = ids(exemplar_file(evaluation_file("xsum")))
    assert shots == [f"xsum-train-{i}" for i in spare[1:9]]
    assert not {*shots} & {*ids(train_file("xsum"))}
    assert read_sidecar(evaluation_file("xsum"))["exemplar_ids"] == shots


def test_exemplars_from_the_evaluated_split_are_items_which_few_shot_evaluation_leaves_out(mirror, capsys):
    format_sets(evaluation=["gpt3nli", "rte"], paper_splits=True)
    for name in ("gpt3nli", "rte"):
        path = evaluation_file(name, "instruct", paper_splits=True)
        exemplars = list(read_jsonl(exemplar_file(path)))
        items, num_left_out = sample_without(path, None, exemplars)
        assert (len(exemplars), len(ids(path)), len(items), num_left_out) == (8, 40, 32, 8)
        assert {*ids(path)} == {*ids(exemplar_file(path))} | {item["id"] for item in items}
        # Of a limit as many remain, most of them those of the zero-shot evaluation.
        limited, _ = sample_without(path, 20, exemplars)
        assert len(limited) == 20
        assert len({item["id"] for item in limited} & {item["id"] for item in sample_items(path, 20)}) >= 12
    assert "8 exemplars (items, which few-shot evaluation leaves out)" in capsys.readouterr().out


def test_exemplars_of_the_paper_protocol_are_the_first_items_and_are_evaluated(mirror):
    format_sets(evaluation=["mnli_matched"], protocol="paper")
    path = evaluation_file("mnli_matched", protocol="paper")
    assert ids(exemplar_file(path)) == ids(path)[:8] == [f"mnli_matched-{i}" for i in range(8)]
    assert len(ids(path)) == 40


def test_removed_exemplars_are_made_again(mirror):
    format_sets(evaluation=["rte"])
    path = exemplar_file(evaluation_file("rte"))
    content = path.read_bytes()
    path.unlink()
    format_sets(evaluation=["rte"])
    assert path.read_bytes() == content


def test_the_sidecar_has_the_labels_that_scoring_needs(mirror):
    format_sets(evaluation=["mnli_matched"])
    facts = read_sidecar(evaluation_file("mnli_matched"))
    assert facts["label_words"] == ["entailment", "neutral", "contradiction"]
    assert facts["parse_order"] == ["contradiction", "neutral", "entailment"]
    assert facts["labels"] == {"entailment": 14, "neutral": 13, "contradiction": 13}
    assert facts["identity"]["protocol"] == "corrected"


def test_stsb_scores_above_three_and_a_half_are_paraphrases(mirror):
    split = eval_set_named("stsb").split
    scores = [0.0, 3.5, 3.6, 5.0]
    change(mirror, split, [row | {"label": s} for row, s in zip(toy_datasets.rows(split), scores, strict=False)])
    format_sets(evaluation=["stsb"])
    assert [r["completion"] for r in read_jsonl(evaluation_file("stsb"))] == [" no", " no", " yes", " yes"]
    change(mirror, split, [toy_datasets.rows(split)[0] | {"label": float("nan")}])
    with pytest.raises(UserError, match=r"stsb-0: label nan; expected a score to compare with 3\.5"):
        format_sets(evaluation=["stsb"])


def test_texts_match_exactly_or_except_for_case_and_white_space():
    texts = TextHashes([{"prompt": "A  cat", "completion": " sat."}])
    assert texts.match({"prompt": "A  cat", "completion": " sat."}) == "exact"
    assert texts.match({"prompt": "a cat", "completion": "\nSAT."}) == "normalised"
    assert texts.match({"prompt": "a cat", "completion": " stood."}) is None
