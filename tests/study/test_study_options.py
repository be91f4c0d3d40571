"""Study files reach every option of the stages: in recipes, shared by all of them, and replaced by --set."""

import dataclasses

import pytest
import yaml
from toy_study import TOY

from eval import eval_pred, predict
from olmo_eval import run_lm_eval
from open_instruct.common.errors import UserError
from open_instruct.study.config import RecipeConfig, Study, SuiteConfig
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan
from open_instruct.study.settings import PredictionOptions, ScoreOptions
from open_instruct.training.arguments import Args as FinetuneArgs


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(TOY))
    return path


def commands(study: Study, stage: str) -> list[str]:
    return [" ".join(job.command) for job in plan(study) if job.stage == stage]


PLANNED = {
    FinetuneArgs: {
        *("model_name_or_path", "train_file", "learning_rate", "num_train_epochs", "max_train_rows", "seed"),
        *("total_batch_size", "use_lora", "with_tracking", "report_to"),
    },
    predict.Args: {"model_name_or_path", "input_files", "num_shots", "limit"},
    run_lm_eval.Args: {"model_name_or_path", "num_shots"},
    eval_pred.Args: {"input_files"},
}
"""Script -> options that the plan sets from other keys …"""
BY_HAND = {
    *("output_dir", "output_file", "model_name", "model_revision", "config_name", "tokenizer_name_or_path"),
    "tokenizer_revision",
    *("overwrite", "keep_weights", "then", "resume_from_checkpoint", "stop_file", "push_to_hub"),
    *("gradient_accumulation_steps", "validation_file", "batch_size", "max_tokens_per_batch", "model_class"),
    *("config_file", "task_file", "source", "local_dir", "num_recorded_inputs", "full_output_file", "metrics_file"),
    *("list_tasks", "output_csv", "against", "differences_file", "load_in_float16"),
}
"""… and those of single runs: other files, names, publishing."""


@pytest.mark.parametrize(
    ("script", "keys"),
    [
        (FinetuneArgs, RecipeConfig),
        (predict.Args, PredictionOptions),
        (run_lm_eval.Args, SuiteConfig),
        (eval_pred.Args, ScoreOptions),
    ],
    ids=["finetune", "predict", "suite", "score"],
)
def test_every_option_of_a_script_is_a_key_or_set_by_the_plan(script, keys):
    names = {field.name for field in dataclasses.fields(script)}
    known = {field.name for field in dataclasses.fields(keys)}
    assert names - known - PLANNED[script] - BY_HAND == set()


def test_options_of_a_recipe_are_in_its_command_and_its_name(study_file):
    study = load_study(study_file, ["train_sets.socialiqa.warmup_ratio=0.5", "train_sets.socialiqa.packing=true"])
    tuned = [variant for variant in study.variants() if variant.train_set]
    # What affects no weights is no part of the name.
    assert all(variant.model_id.endswith("_rows16_fp32_warmup0.5") for variant in tuned)
    assert all("--warmup_ratio 0.5 --packing" in command for command in commands(study, "finetune"))


def test_shared_options_are_those_of_every_recipe_that_does_not_set_them(study_file):
    content = TOY | {"finetune": {"rows": 4, "gradient_checkpointing": True}}
    content["train_sets"] = {**TOY["train_sets"], "hellaswag_endings": {"epochs": 1, "lr": 1e-3}}
    study_file.write_text(yaml.safe_dump(content))
    recipes = load_study(study_file).train_sets
    assert {name: recipe.rows for name, recipe in recipes.items()} == {"socialiqa": (16,), "hellaswag_endings": (4,)}
    assert all(recipe.gradient_checkpointing for recipe in recipes.values())


def test_an_unknown_shared_option_is_named_with_its_line(study_file):
    study_file.write_text(yaml.safe_dump(TOY) + "finetune:\n  warmup_rato: 0.1\n")
    number = study_file.read_text().splitlines().index("  warmup_rato: 0.1") + 1
    with pytest.raises(UserError, match=rf"toy\.yaml:{number}: unknown key .*warmup_rato \(did you mean warmup_ratio"):
        load_study(study_file)


def test_lists_make_a_grid(study_file):
    study = load_study(study_file, ["train_sets.socialiqa.rows=[8, all]", "train_sets.socialiqa.adapter=[full, lora]"])
    names = {variant.model_id.split("socialiqa_1epoch_1e-3")[1] for variant in study.variants() if variant.train_set}
    assert names == {"_rows8_fp32", "_fp32", "_lora_rows8_fp32", "_lora_fp32"}


def test_recipes_without_epochs_and_learning_rate_are_the_registered_ones(study_file):
    study = load_study(study_file, ["train_sets.socialiqa={}", "train_sets.xsum={}"])
    recipes = {name: (recipe.epochs, recipe.lr) for name, recipe in study.train_sets.items()}
    assert recipes == {"socialiqa": ((3,), (2e-6,)), "xsum": ((3,), (2e-7,))}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rows", "expected key=value"),
        ("train_sets.socialiqa.rowz=5", "unknown key train_sets.socialiqa.rowz"),
        ("train_sets.socialiqa.rows=0", "expected a number at least 1, found 0"),
        ("name.first=toy", "expected a mapping around it, found 'toy'"),
        ("steps=[0", "is not YAML"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(study_file, override, message):
    with pytest.raises(UserError, match=message):
        load_study(study_file, [override])


def test_an_override_adds_and_replaces_values_and_reaches_the_report(study_file):
    overrides = ["seed=7", "families={pythia-1.4b: [10]}", "families.pythia-1.4b=[1000]"]
    overrides += ["family=null", "steps=[]", "pretrain=null", "predict.top_p=1.0"]
    study = load_study(study_file, overrides)
    assert [checkpoint.family for checkpoint in study.checkpoints()] == ["pythia-1.4b"]
    assert study.data_settings.suffix == "_dataseed7"
    (report,) = commands(study, "report")
    assert report.endswith("--set " + " ".join(overrides))


def test_add_bos_token_is_a_truth_value_in_yaml(study_file):
    content = TOY | {"finetune": {"add_bos_token": True}, "predict": {"add_bos_token": False}}
    study_file.write_text(yaml.safe_dump(content))
    study = load_study(study_file)
    assert all("--add_bos_token true" in command for command in commands(study, "finetune"))
    assert all("--add_bos_token false" in command for command in commands(study, "predict"))
    assert all(variant.model_id.endswith("_bostrue") for variant in study.variants() if variant.train_set)
