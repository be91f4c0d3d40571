"""Exemplars and chats: how they are laid out, left out of the items, named and refused."""

import pytest
from toy_evaluation import RTE, as_records, load_toy, log_prob, read_records, run_predict

from eval.prediction import requests
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl
from open_instruct.common.sidecars import read_sidecar
from open_instruct.tasks import PROTOCOLS


def test_exemplars_precede_the_item_each_followed_by_a_blank_line():
    shots = as_records([("rte", "One:", " entailment"), ("rte", "Two:", " neutral")])
    items = as_records([("rte", "Three:", " neutral")])
    [(prompt, completion)] = requests.prompts_and_completions(items, shots, chat=False)
    assert (prompt, completion) == ("One: entailment\n\nTwo: neutral\n\nThree:", " neutral")


def test_exemplars_and_chats_of_the_papers_protocol_are_laid_out_as_in_its_code():
    shots = as_records([("sciq", "One: ", "first"), ("sciq", "Two: ", "second")])
    items = as_records([("sciq", "Three: ", "third")])
    paper = PROTOCOLS["paper"]
    [(prompt, completion)] = requests.prompts_and_completions(items, shots, paper, chat=False)
    assert (prompt, completion) == ("One: first\nTwo: second\nThree: ", "third")
    end = "|||IP_ADDRESS|||"
    turn = f"One: first\n{end}<|user|>\nThree: \n"
    pairs = requests.prompts_and_completions(items, shots[:1], paper, chat=True)
    assert pairs == [(f"{turn}<|assistant|>\n", "third")]
    pairs = requests.prompts_and_completions(items, shots[:1], paper, chat=True, gold_in_prompt=True)
    assert pairs == [(f"{turn}<|assistant|>\nthird{end}\n<|assistant|>\n", "third")]


def test_chat_format_makes_a_users_turn_and_drops_the_completions_space():
    items = as_records([("sciq", "Why?", " Because.")])
    assert requests.prompts_and_completions(items, [], chat=True) == [("<|user|>\nWhy?\n<|assistant|>\n", "Because.")]


def test_exemplars_are_in_prompt_file_name_and_sidecar(home):
    exemplars = as_records([("rte", "One:", " entailment"), ("rte", "Two:", " neutral")])
    write_jsonl(home / "rte.exemplars.jsonl", exemplars)
    path = run_predict(home, "rte", num_shots=2)
    assert path.name == "rte_toy_ckpt7_2shots.jsonl"
    assert read_sidecar(path)["exemplar_ids"] == ["rte-0", "rte-1"]
    model, tokenizer = load_toy(home)
    context = tokenizer("One: entailment\n\nTwo: neutral\n\n" + RTE[0][1])["input_ids"]
    expected = log_prob(model, context, tokenizer(" neutral")["input_ids"])
    assert read_records(path)[0]["scores"]["neutral"] == pytest.approx(expected, abs=1e-3)
    with pytest.raises(UserError, match="2 exemplars, --num_shots is 3"):
        run_predict(home, "rte", num_shots=3)


def test_missing_exemplars_are_refused_with_the_command_that_makes_them(home):
    with pytest.raises(
        UserError, match=r"rte\.exemplars\.jsonl: no such file; .*--few_shot_sets rte`, or offline with"
    ):
        run_predict(home, "rte", num_shots=1)
    with pytest.raises(UserError, match="it takes no --num_shots"):
        run_predict(home, "heldout_text", num_shots=1)


def test_items_that_are_exemplars_are_left_out_for_any_number_of_them_and_counted(home, capsys):
    write_jsonl(home / "rte.exemplars.jsonl", as_records(RTE[3:5]))
    for num_shots in (1, 2):
        path = run_predict(home, "rte", num_shots=num_shots)
        assert [record["id"] for record in read_records(path)] == ["rte-0", "rte-1", "rte-2", "rte-5"]
        facts = read_sidecar(path)
        assert (facts["num_items"], facts["num_left_out"], len(facts["exemplar_ids"])) == (4, 2, num_shots)
    assert "rte.jsonl: 2 items left out, for they are exemplars" in capsys.readouterr().out
    assert len(read_records(run_predict(home, "rte"))) == 6
    write_jsonl(home / "rte.exemplars.jsonl", as_records(RTE))
    with pytest.raises(UserError, match="every item is an exemplar; leave out --num_shots"):
        run_predict(home, "rte", num_shots=3)


def test_exemplar_file_as_input_file_is_refused(home):
    write_jsonl(home / "rte.exemplars.jsonl", as_records(RTE[3:4]))
    with pytest.raises(UserError, match="contains exemplars"):
        run_predict(home, "rte", "rte.exemplars")
