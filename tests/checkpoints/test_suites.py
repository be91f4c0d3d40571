"""Every suite of families.yaml: what names of its revisions say, and tokens against those of the names and cards."""

import pytest

from open_instruct.checkpoints.families import Checkpoint, checkpoint_of, families, family_named
from open_instruct.checkpoints.listing import Available
from open_instruct.checkpoints.selection import contradicts_name

B, T = 10**9, 10**12
IN_NAME = 1.5 * B
"""Names state whole units of 1e9, rounded down or up, each repository in its own way."""
Row = tuple[str, str | None, str | None, int, float, float]
"""Name of the revision, its stage (None: the first), run, step, tokens over all stages, and how far they may be off."""

REVISIONS: dict[str, list[Row]] = {
    "olmo1b": [
        ("step20000-tokens84B", None, None, 20_000, 84 * B, IN_NAME),
        ("step738000-tokens3095B", None, None, 738_000, 3095 * B, IN_NAME),
        ("step738020-tokens3095B", None, None, 738_020, 3095 * B, IN_NAME),
    ],
    "olmo1b_hf": [
        ("step20000-tokens83B", None, None, 20_000, 83 * B, IN_NAME),
        ("step738000-tokens3094B", None, None, 738_000, 3094 * B, IN_NAME),
    ],
    "olmo1b_0724_hf": [
        ("step644000-tokens1350B", None, None, 644_000, 1350 * B, IN_NAME),
        ("step1454000-tokens3048B", None, None, 1_454_000, 3048 * B, IN_NAME),
    ],
    "olmo7b": [
        ("step1000-tokens4B", None, None, 1000, 4 * B, IN_NAME),
        ("step556000-tokens2460B", None, None, 556_000, 2460 * B, IN_NAME),
    ],
    "olmo7b_hf": [("step556000-tokens2460B", None, None, 556_000, 2460 * B, IN_NAME)],
    "olmo7b_twin": [("step33600-tokens141B", None, None, 33_600, 141 * B, IN_NAME)],
    "olmo1.7_7b_hf": [("step1000-tokens4B", None, None, 1000, 4 * B, IN_NAME)],
    "olmo7b_0724_hf": [("step1000-tokens4B", None, None, 1000, 4 * B, IN_NAME)],
    "olmo2_1b": [
        ("stage1-step140000-tokens294B", None, None, 140_000, 294 * B, IN_NAME),
        ("stage1-step1907359-tokens4001B", None, None, 1_907_359, 4001 * B, IN_NAME),
        ("stage2-ingredient3-step1000-tokens3B", "stage2", "3", 1000, 4003 * B, IN_NAME),
        ("stage2-ingredient3-step23852-tokens51B", "stage2", "3", 23_852, 4051 * B, IN_NAME),
    ],
    "olmo2_7b": [
        ("step150-tokens1B", None, None, 150, 1 * B, IN_NAME),
        ("step2150-tokens10B", None, None, 2150, 10 * B, IN_NAME),
        ("stage1-step928646-tokens3896B", None, None, 928_646, 3896 * B, IN_NAME),
        ("stage2-ingredient3-step11931-tokens50B", "stage2", "3", 11_931, 3946 * B, IN_NAME),
    ],
    "olmo2_13b": [
        ("stage1-step417450-tokens3502B", None, None, 417_450, 3502 * B, IN_NAME),
        ("stage1-step596057-tokens5001B", None, None, 596_057, 5001 * B, IN_NAME),
        ("stage2-ingredient2-step11931-tokens100B", "stage2", "2", 11_931, 5101 * B, IN_NAME),
        ("stage2-ingredient4-step35773-tokens300B", "stage2", "4", 35_773, 5301 * B, IN_NAME),
    ],
    "olmo2_32b": [
        ("stage1-step289000-tokens2425B", None, None, 289_000, 2425 * B, IN_NAME),
        ("stage1-step721901-tokens6056B", None, None, 721_901, 6056 * B, IN_NAME),
        ("stage2-ingredient1-step11921-tokens101B", "stage2", "1", 11_921, 6157 * B, IN_NAME),
    ],
    # The cards state the tokens of each stage: 5.93e12, 1e11 and 5e10; 5.5e12, 1e11 and 1e11.
    "olmo3_7b": [
        ("stage1-step1413814", None, None, 1_413_814, 5.93 * T, 0.005 * T),
        ("stage2-step47684", "stage2", None, 47_684, 6.03 * T, 0.005 * T),
        ("stage3-step11921", "stage3", None, 11_921, 6.08 * T, 0.005 * T),
        ("stage2-step47684-mix-gen-mc-only-from-2T-ckpt", "stage2-from-2T", "gen-mc-only", 47_684, 2.1 * T, 0.005 * T),
        ("stage2-step47684-mix-round5-from-2T-ckpt", "stage2-from-2T", "round5", 47_684, 2.1 * T, 0.005 * T),
    ],
    "olmo3_32b": [
        ("stage1-step656000", None, None, 656_000, 5.5 * T, 0.05 * T),
        ("stage2-ingredient1-step23842", "stage2", "1", 23_842, 5.6 * T, 0.05 * T),
        ("stage3-step11921", "stage3", None, 11_921, 5.7 * T, 0.05 * T),
    ],
    # 135M and 360M: 2.52e11 tokens between two checkpoints, 1.7B: 2.62e11.
    "smollm2_135M": [("step-240000", None, None, 240_000, 252 * B, 0.5 * B)],
    "smollm2_360M": [("step-160000", None, None, 160_000, 252 * B, 0.5 * B)],
    "smollm2_1.7B": [("step-125000", None, None, 125_000, 262 * B, 0.5 * B)],
    # 94.4e9 tokens between two checkpoints, 11.14e12 in all; then 5e10 of long texts, twice.
    "smollm3_3b": [
        ("stage1-step-40000", None, None, 40_000, 94.4 * B, 0.05 * B),
        ("stage1-step-3440000", None, None, 3_440_000, 8.12 * T, 0.005 * T),
        ("stage2-step-4200000", "stage2", None, 4_200_000, 9.91 * T, 0.005 * T),
        ("stage3-step-4720000", "stage3", None, 4_720_000, 11.14 * T, 0.005 * T),
        ("lc-4k-to-32k-step-20000", "lc-32k", None, 20_000, 11.19 * T, 0.01 * T),
        ("lc-32k-to-64k-step-20000", "lc-64k", None, 20_000, 11.24 * T, 0.015 * T),
    ],
    # 360 parts of 1.26e12 tokens, the first of which is ckpt_000.
    "amber": [
        ("ckpt_000", None, None, 0, 3.5 * B, 0),
        ("ckpt_010", None, None, 10, 38.5 * B, 0),
        ("ckpt_359", None, None, 359, 1.26 * T, 0),
    ],
    "baichuan2_7b": [("train_00220B", None, None, 220, 220 * B, 0)],
}
# The paper's table of sizes: steps and tokens, in 1e9.
DATADECIDE = {
    "4M": (5725, 0.375),
    "6M": (9182, 0.60),
    "8M": (13_039, 0.85),
    "10M": (15_117, 0.99),
    "14M": (21_953, 1.44),
    "16M": (24_432, 1.60),
    "20M": (14_584, 1.91),
    "60M": (29_042, 5.71),
    "90M": (29_901, 9.79),
    "150M": (38_157, 15.0),
    "300M": (45_787, 30.0),
    "530M": (57_786, 53.0),
    "750M": (63_589, 75.0),
    "1B": (69_369, 100.0),
}
SEEDS = tuple(f"seed{number}" for number in range(1, 10))
PYTHIA: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("14m", "31m", "70m", "410m"), SEEDS),
    "160m": (*SEEDS, *(f"{what}-seed{number}" for what in ("data", "weight") for number in (1, 2, 3))),
    **dict.fromkeys(("1b", "1.4b", "2.8b", "6.9b", "12b"), ()),
    **{f"{size}-deduped": () for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")},
}
OWN = {"olmo2_1b_native", "tiny", "local", "local_hf"}
"""Of native lists, and of the user."""


def rows() -> list[tuple[str, Row]]:
    """A family and a revision each, of every suite."""
    found = [(family, row) for family, own in REVISIONS.items() for row in own]
    for name in families():
        if name.startswith("datadecide-"):
            step, billions = DATADECIDE[name.rpartition("-")[2]]
            for run in ("default", "small-aux-2", "small-aux-3"):
                row = f"step{step}-seed-{run}", None, run, step, billions * B, 0.01 * billions * B
                found.append((name, row))
    for size in PYTHIA:
        found += [(f"pythia-{size}", (f"step{n}", None, None, n, n * 2_097_152, 0)) for n in (0, 1, 512, 143_000)]
    return found


def named(family: str, name: str) -> Available:
    """The checkpoint that a revision of this name is."""
    found = family_named(family).parse_revision(name)
    assert found is not None, f"{family}: {name}"
    return Available(Checkpoint(family, found.step, found.run, found.stage), name, found.tokens)


def test_the_table_has_every_suite():
    pythia = {f"pythia-{size}" for size in PYTHIA}
    datadecide = {name for name in families() if name.startswith("datadecide-")}
    assert len(datadecide) == 25 * 14
    assert {name.rpartition("-")[2] for name in datadecide} == DATADECIDE.keys()
    assert families().keys() == REVISIONS.keys() | pythia | datadecide | OWN
    for name, family in families().items():
        stages_of_rows = {stage for of, (_, stage, *_) in rows() if of == name}
        assert name in OWN or stages_of_rows == family.by_stage.keys()


def test_names_of_every_suite_say_stage_run_and_step_and_tokens_are_those_of_names_and_cards():
    for family, (name, stage, run, step, tokens, tolerance) in rows():
        one = named(family, name)
        assert one.checkpoint == Checkpoint(family, step, run, stage), name
        assert one.checkpoint.num_tokens == pytest.approx(tokens, abs=tolerance, rel=0), (family, name)
        assert not contradicts_name(family_named(family), one), name


def test_a_wrong_number_of_tokens_in_a_name_is_seen():
    for family, name in (
        ("olmo2_1b", "stage1-step140000-tokens249B"),
        ("olmo2_1b", "stage2-ingredient1-step23852-tokens4051B"),  # names count those of the stage alone
        ("olmo7b", "step556000-tokens2332B"),  # of 4,194,304 a step, which is the 1B's
    ):
        assert contradicts_name(family_named(family), named(family, name))


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *(("olmo2_1b", name) for name in ("experiment", "it-SFT", "stage2-ingredient1", "stage1", "step1000-tokens3B")),
        *(("olmo2_1b", name) for name in ("stage1-step10-tokens1B-old", "xstage1-step10-tokens1B", "main")),
        *(("olmo3_7b", name) for name in ("stage2-step47684-mix-round5", "stage1-step1413814-tokens5930B")),
        ("datadecide-c4-150M", "step1000"),
        ("pythia-160m", "step1000-seed1"),
        ("smollm3_3b", "it-soup-APO"),
        ("amber", "ckpt_"),
    ],
)
def test_other_names_are_no_checkpoints(family, name):
    assert family_named(family).parse_revision(name) is None


def test_runs_of_pythia_are_repositories_and_main_is_the_one_without_a_name():
    for size, runs in PYTHIA.items():
        family = family_named(f"pythia-{size}")
        expected = {f"EleutherAI/pythia-{size}-{run}": run for run in runs}
        assert family.repositories == {f"EleutherAI/pythia-{size}": None} | expected
        assert family.run_named("main") is None


def test_folders_and_ids_of_every_suite_are_distinct_and_lead_back_without_a_sidecar():
    every = {named(family, row[0]).checkpoint for family, row in rows()}
    for size, runs in PYTHIA.items():
        every |= {Checkpoint(f"pythia-{size}", 1000, run) for run in runs}
    every |= {Checkpoint(name, None, family.main_run) for name, family in families().items() if family.has_main}
    for names in (
        {one.model_folder for one in every},
        {one.folder for one in every},
        {one.model_id for one in every},
        {one.tuned_prefix for one in every},
    ):
        assert len(names) == len(every)
    few = [one for one in every if not one.family.startswith("datadecide-") or one.family.endswith("-150M")]
    for one in few:
        assert checkpoint_of(one.model_folder) == one
