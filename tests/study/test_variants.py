"""Model ids come from one identity, which has the paper's names for the paper's recipes."""

from dataclasses import fields

import pytest

from open_instruct.checkpoints.families import Checkpoint
from open_instruct.common.naming import LONGEST_NAME, short_float
from open_instruct.data.settings import DataSettings
from open_instruct.study.settings import PredictionOptions, ScoreOptions, SuiteOptions, TrainingOptions
from open_instruct.study.variants import IDENTITY_FIELDS, Recipe, Variant


def test_model_ids_are_those_of_the_paper():
    checkpoint, final = Checkpoint("olmo1b", 592000), Checkpoint("olmo1b", None)
    assert Variant(checkpoint, "xsum", 3, 2e-7).model_id == "olmo1b_hf_ckpt592000_xsum_3epoch_2e-7"
    assert Variant(final, "tulu", 5, 2e-6).model_id == "olmo1b_hf_main_tulu_5epoch_2e-6"
    assert Variant(checkpoint).model_id == "checkpoint-592000"
    assert Variant(final).model_id == "main"


OTHER_RECIPES = [
    Recipe(seed=1),
    Recipe(adapter="lora"),
    Recipe(adapter="lora", options=TrainingOptions(lora_rank=8)),
    Recipe(rows=600),
    Recipe(batch_size=16),
    Recipe(mixed_precision="no"),
    Recipe(data_settings="_paper"),
    Recipe(is_published=True),
    *(Recipe(options=options) for options in [TrainingOptions(warmup_ratio=0.1), TrainingOptions(max_seq_length=512)]),
]


def test_a_setting_without_effect_is_no_part_of_the_name():
    checkpoint, options = Checkpoint("olmo1b", 1000), TrainingOptions(lora_rank=8)
    assert Variant(checkpoint, "xsum", 3, 2e-6, Recipe(options=options)) != Variant(checkpoint, "xsum", 3, 2e-6)
    name = Variant(checkpoint, "xsum", 3, 2e-6, Recipe(options=options)).model_id
    assert name == Variant(checkpoint, "xsum", 3, 2e-6).model_id


def test_long_names_are_shortened_and_stay_different():
    options = [TrainingOptions(max_train_steps=n, num_validation_rows=12345, max_seq_length=12345) for n in (1, 2)]
    names = {
        Variant(Checkpoint("olmo1b", 1, "r" * 120), "x" * 30, 3, 2e-6, Recipe(options=o)).model_id for o in options
    }
    assert len(names) == 2
    assert {len(name) for name in names} == {LONGEST_NAME}


def test_different_variants_have_different_model_ids():
    checkpoint = Checkpoint("olmo1b", 1000)
    variants = [
        Variant(checkpoint, "xsum", 3, 2e-6),
        Variant(checkpoint, "xsum", 3, 2.5e-6),
        *(Variant(checkpoint, "xsum", 3, 2e-6, recipe) for recipe in OTHER_RECIPES),
        Variant(Checkpoint("tiny", 1000), "xsum", 3, 2e-6),
        Variant(Checkpoint("olmo1b", 1000, "b"), "xsum", 3, 2e-6),
        Variant(Checkpoint("olmo1b", 1000, "b")),
        Variant(Checkpoint("tiny", 1000)),
        Variant(checkpoint),
    ]
    assert len({variant.model_id for variant in variants}) == len(variants)


def test_what_ends_a_models_name_never_begins_what_follows_it():
    def parts(settings: type) -> set[str]:
        found = {field.metadata.get("part", "").replace("{}", "") for field in fields(settings)}
        return found - {""}

    of_model = {*parts(Recipe), *parts(TrainingOptions), "fp32", "fp16", "published", "seed"}
    of_data = set(DataSettings(protocol="paper", overlap="refuse", drop_empty=True, seed=7).suffix.split("_"))
    of_data = {part.rstrip("7") for part in of_data} - {""}
    # A sampling seed is only named behind `sampled`.
    of_prediction = {*parts(PredictionOptions), "limit", "shots"} - {"seed"}
    of_evaluation = [of_data, of_prediction, parts(SuiteOptions), parts(ScoreOptions)]
    assert all(not of_model & one for one in of_evaluation)
    assert not of_data & of_prediction
    assert not parts(ScoreOptions) & (of_prediction | of_data)


@pytest.mark.parametrize(("value", "name"), [(2e-6, "2e-6"), (1.5e-5, "1.5e-5"), (0.001, "1e-3"), (1.0, "1e0")])
def test_learning_rates_are_written_as_in_the_paper(value, name):
    assert short_float(value) == name


def test_a_base_model_has_no_values_of_fine_tuning_in_its_identity():
    identity = Variant(Checkpoint("olmo1b", 1000)).identity()
    assert tuple(identity) == IDENTITY_FIELDS
    known = {name: value for name, value in identity.items() if value is not None}
    assert known == {"model_id": "checkpoint-1000", "family": "olmo1b", "step": 1000, "tokens": 4_194_304_000}
