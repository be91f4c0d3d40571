"""A study file is read with its defaults; all problems in it are reported together, each with its line."""

import pytest
import yaml

from open_instruct.common.errors import UserError
from open_instruct.study.config import PrimaryClaim
from open_instruct.study.loading import load_study

TINY = {
    "name": "toy",
    "family": "tiny",
    "steps": [0, 10],
    "pretrain": {"d_model": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 300, "lr": "1e-3"},
    "train_sets": {"socialiqa": {"epochs": 1, "lr": "1e-3"}},
    "evaluation": {"socialiqa": {"formats": ["default", "instruct"]}, "rte": None},
}
CLAIM = {"question": "fine-tuning gain"}
RUN = "d32-heads2-vocab300-lr1e-3"
"""What differs from the defaults of the embedded model."""


def write(tmp_path, **changes):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


def test_omitted_keys_have_their_defaults(tmp_path):
    study = load_study(write(tmp_path))
    assert study.train_sets["socialiqa"].lr == (1e-3,)
    assert study.evaluation["rte"].formats == ("default",)
    # 2 checkpoints, each as it is and fine-tuned on one train set.
    assert [v.model_id for v in study.variants()] == [
        f"tiny_{RUN}_checkpoint-0",
        f"tiny_{RUN}_hf_ckpt0_socialiqa_1epoch_1e-3",
        f"tiny_{RUN}_checkpoint-10",
        f"tiny_{RUN}_hf_ckpt10_socialiqa_1epoch_1e-3",
    ]


def test_a_primary_claim_and_margins_are_those_of_the_file(tmp_path):
    changes = {"primary": CLAIM | {"eval_set": "rte", "checkpoint": 10}, "margins": {"accuracy": 0.02}}
    study = load_study(write(tmp_path, **changes))
    assert study.primary == PrimaryClaim("fine-tuning gain", eval_set="rte", checkpoint=10)
    assert study.margins == {"accuracy": 0.02}
    assert load_study(write(tmp_path)).primary is None
    of_released = {"family": "olmo1b", "pretrain": None, "steps": [1000, "main"]}
    study = load_study(write(tmp_path, **of_released, primary=CLAIM | {"checkpoint": "main"}))
    assert study.primary == PrimaryClaim("fine-tuning gain", checkpoint="main")


def test_a_primary_claim_of_several_families_names_one_as_the_tables_do(tmp_path):
    stages = {"stage2": {"steps": [23852], "runs": ["1", "2", "3"]}}
    several = {
        "family": None,
        "steps": [],
        "pretrain": None,
        "families": {"olmo2_1b": {"steps": [10], "stages": stages}},
    }
    study = load_study(write(tmp_path, **several, primary=CLAIM | {"family": "olmo2_1b stage2"}))
    assert study.primary == PrimaryClaim("fine-tuning gain", family="olmo2_1b stage2")
    with pytest.raises(UserError, match=r"primary: expected its family, one of olmo2_1b, olmo2_1b stage2"):
        load_study(write(tmp_path, **several, primary=CLAIM))
    with pytest.raises(UserError, match=r"primary.family: family stage2 is not among those of this study"):
        load_study(write(tmp_path, **several, primary=CLAIM | {"family": "stage2"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepps": [1]}, r"unknown key stepps \(did you mean steps"),
        (
            {"train_sets": {"socialqa": {"epochs": 1, "lr": 1.0}}},
            r"unknown train set socialqa \(did you mean socialiqa",
        ),
        ({"evaluation": {"rtee": None}}, r"unknown evaluation set rtee \(did you mean rte"),
        (
            {"evaluation": {"rte": {"formats": ["instuct"]}}},
            r"formats: unknown format instuct \(did you mean instruct",
        ),
        ({"family": "olmo2b"}, r"unknown family olmo2b \(did you mean olmo"),
        ({"protocol": "papers"}, r"protocol: expected one of corrected, paper, found 'papers'"),
        ({"steps": [10, 0]}, r"ascending numbers"),
        ({"steps": ["ten"]}, r"steps\[0\]: expected int, found 'ten'"),
        ({"train_sets": {"qa_chat": {"epochs": 1}}}, r"qa_chat: expected lr: qa_chat has no registered recipe"),
        ({"primary": {"train_set": "socialiqa"}}, r"primary: missing key question"),
        (
            {"primary": {"question": "finetuning gain"}},
            r"question: found 'finetuning gain'; did you mean fine-tuning gain",
        ),
        (
            {"primary": CLAIM | {"train_set": "mnli"}},
            r"primary.train_set: train set mnli is not among those of this study \(known",
        ),
        (
            {"primary": CLAIM | {"eval_set": "rtee"}},
            r"evaluation set rtee is not among those of this study \(did you mean rte",
        ),
        (
            {"primary": CLAIM | {"metric": "rouge"}},
            r"metric rouge is not among those of this study \(did you mean rouge_l",
        ),
        (
            {"primary": CLAIM | {"checkpoint": 20}},
            r"primary.checkpoint: checkpoint 20 is not among those of this study \(did",
        ),
        ({"primary": CLAIM | {"checkpoint": "main"}}, r"checkpoint main is not among those of this study"),
        ({"margins": {"acuracy": 0.1}}, r"margins.acuracy: unknown metric acuracy \(did you mean accuracy"),
        ({"margins": {"accuracy": 0}}, r"margins.accuracy: expected a number above 0, found 0.0"),
        ({"margins": {"accuracy": float("nan")}}, r"margins.accuracy: expected a number above 0, found nan"),
        ({"pretrain": {"seeds": [1, 2, 1]}}, r"pretrain.seeds: expected each once, found \[1, 2, 1\]"),
        ({"pretrain": {"seed": 42, "seeds": [42, 43]}}, r"pretrain.seed: .*`seeds` is given, too; keep one of the two"),
        ({"pretrain": {"seeds": [-1]}}, r"pretrain.seeds: expected a number at least 0"),
        ({"family": "olmo1b"}, r"pretrain: is for family tiny only"),
        ({"name": "locks"}, r"locks is a folder that belongs to no study"),
        ({"evaluation": {}, "suite": None}, r"evaluation: expected at least one evaluation set, or a suite"),
        ({"name": ["a", "b"]}, r"name: expected str, found a list"),
        ({"evaluation": ["rte"]}, r"evaluation: expected a mapping, found a list"),
        ({"name": "a b"}, r"the name 'a b' would become a file name"),
        ({"suite": {"tasks": ["arc_easy"], "train_sets": ["tulu"]}}, r"tulu is not among the train_sets of this study"),
    ],
)
def test_a_problem_in_a_study_file_is_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_study(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("shots=many", r"--set: shots\[0\]: expected int, found 'many'"),
        ("name=", "--set: name: expected str, found ''"),
        ("train_sets.sociaiqa.lr=1", r"--set: train_sets.sociaiqa: unknown train set .* \(did you mean socialiqa\?\)"),
        ("finetune=3", "--set: finetune: expected a mapping"),
    ],
)
def test_a_problem_of_the_command_line_is_at_no_line_of_the_file(tmp_path, assignment, message):
    with pytest.raises(UserError, match=f"^{message}"):
        load_study(write(tmp_path), [assignment])


def test_all_problems_are_reported_together(tmp_path):
    with pytest.raises(UserError, match=r"(?s)unknown family none.*unknown train set nothing"):
        load_study(write(tmp_path, train_sets={"nothing": {"epochs": 1, "lr": 1.0}}, family="none"))


GRID = """\
name: grid
families:
  olmo1b: [1000, main]
  tiny: [0]
pretrain: {d_model: 32, num_layers: 2, num_heads: 2, vocab_size: 300, lr: 1e-3}
train_sets:
  socialiqa: {epochs: 1, lr: [1e-6, 2e-6], seeds: [1, 42, 3]}
  qa_chat:
    epochs: 1
    lr: 1e-5
    mixed_precision: "no"
evaluation: {rte: }
shots: [0, 4]
"""


def write_text(tmp_path, text):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    return path


def test_a_grid_has_every_family_learning_rate_and_seed(tmp_path):
    study = load_study(write_text(tmp_path, GRID))
    ids = [variant.model_id for variant in study.variants()]
    # 3 checkpoints, each as it is, fine-tuned 2 x 3 times on one train set and once on the other.
    assert len(ids) == len(set(ids)) == 3 * (1 + 6 + 1)
    assert ids[:3] == ["checkpoint-1000", *(f"olmo1b_hf_ckpt1000_socialiqa_1epoch_1e-6{s}" for s in ("_seed1", ""))]
    assert "main" in ids
    assert "olmo1b_hf_main_qa_chat_1epoch_1e-5_fp32" in ids
    assert study.shots == (0, 4)


def test_the_names_of_the_scripts_options_are_keys_too(tmp_path):
    renamed = (
        GRID.replace("lr:", "learning_rate:").replace("epochs:", "num_train_epochs:").replace("shots:", "num_shots:")
    )
    path = write_text(tmp_path, GRID)
    study = load_study(path)
    assert "learning_rate: 1e-5" in renamed
    assert load_study(write_text(tmp_path, renamed)) == study


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr: 1e-5", "lr: fast", r"grid\.yaml:10: train_sets\.qa_chat\.lr\[0\]: expected float, found 'fast'"),
        ('"no"', "no", r"grid\.yaml:11: .*YAML reads a bare no as a truth value, write \"no\""),
        ("lr: 1e-5", "lr: -1", r"grid\.yaml:10: .*expected a number above 0, found -1"),
        ("lr: 1e-5", "lr: .nan", r"grid\.yaml:10: .*expected a number above 0, found nan"),
        ("lr: 1e-5", "lr: [1e-5, 1.00000001e-5]", r"grid\.yaml:6: .*two runs would have one name: .*_1e-5"),
        ("lr: 1e-5", "lr: 1e-5\n    lr: 2e-5", r"grid\.yaml:11: train_sets\.qa_chat\.lr is repeated; .* line 10"),
        ("lr: 1e-5", "lr: 1e-5\n    learning_rate: 2e-5", r"grid\.yaml:11: .*learning_rate: is lr, which is given"),
        ("seeds: [1, 42, 3]", "seeds: [1, 1]", r"grid\.yaml:7: .*expected each once"),
        ("[1000, main]", "[main, 1000]", r"grid\.yaml:3: .*ascending numbers, each once, main last"),
        ("[0, 4]", "[]", r"grid\.yaml:13: shots: expected at least one"),
        ("shots: [0, 4]", "resources: {finetun: }", r"grid\.yaml:13: .*unknown stage finetun \(did you mean finetune"),
        ("shots: [0, 4]", "resources:\n  finetune: {time: 1 hour}", r"grid\.yaml:14: .*expected e\.g\. \"08:00:00\""),
        (
            "shots: [0, 4]",
            "resources: {suite: {partition: 'a; b'}}",
            r"grid\.yaml:13: .*a name in Slurm, found 'a; b'",
        ),
        ("shots: [0, 4]", "resources: {suite: {sbatch: [--wrap=x]}}", r"grid\.yaml:13: .*--wrap is set by the plan"),
        ("shots: [0, 4]", "resources: {suite: {sbatch: ['--x $(y)']}}", r"grid\.yaml:13: .*one option a string"),
        ("families:", "family: olmo1b\nfamilies:", r"grid\.yaml:3: .*either family and steps, or families"),
        ("olmo1b: [", "olmo1b: [1]\n  olmo?b: [", r"grid\.yaml:2: .*olmo\?b is also olmo1b"),
        ("olmo1b: [", "olmo9?: [", r"grid\.yaml:2: .*no family is like olmo9\?"),
        (
            "olmo1b: [1000, main]",
            "datadecide-c4-4M: {steps: [1250], runs: [main, default]}",
            r"grid\.yaml:2: .*runs are main, default, expected each once",
        ),
        (
            "olmo1b: [1000, main]",
            "pythia-160m: {tokens: [10B, 1B]}",
            r"grid\.yaml:3: .*ascending numbers, found 10B, 1B",
        ),
        (
            "olmo1b: [1000, main]",
            "pythia-160m: {tokens: [10B], steps: [1]}",
            r"grid\.yaml:3: .*steps or tokens, found both",
        ),
        ("olmo1b: [1000, main]", "pythia-160m: {tokens: [10B]}", r"grid\.yaml:2: .*no listing on this disk"),
        ("olmo1b: [1000, main]", "olmo2_1b: {stages: {stage3: {steps: [1]}}, steps: [1]}", r"has no stage stage3"),
        (
            "olmo1b: [1000, main]",
            "olmo2_1b: {steps: [1], stages: {stage1: {steps: [2]}}}",
            r"stage1 is given twice",
        ),
        (
            "shots: [0, 4]",
            "primary: {question: fine-tuning gain, family: tiny, checkpoint: 1000}",
            r"grid\.yaml:13: .*checkpoint 1000 is not among those of this study",
        ),
        ("tiny: [0]", "tiny: [all]", r"grid\.yaml:4: .*tiny has numbers of steps only"),
        ("shots: [0, 4]", "shots: [0, 4", r"grid\.yaml:14: not YAML .*"),
        (GRID, "", r"grid\.yaml: it is empty"),
        (GRID, "- a", r"grid\.yaml:1: expected a mapping"),
    ],
)
def test_a_problem_is_reported_with_its_line(tmp_path, old, new, message):
    assert old in GRID
    with pytest.raises(UserError, match=message):
        load_study(write_text(tmp_path, GRID.replace(old, new)))


def test_a_later_stage_may_be_the_only_one(tmp_path):
    text = GRID.replace("olmo1b: [1000, main]", "olmo2_1b: {stages: {stage2: {steps: [1000], runs: ['1', '2']}}}")
    study = load_study(write_text(tmp_path, text))
    later = [one for one in study.checkpoints() if one.family == "olmo2_1b"]
    assert [(one.stage, one.run, one.step) for one in later] == [("stage2", "1", 1000), ("stage2", "2", 1000)]
