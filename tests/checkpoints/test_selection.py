"""Checkpoints of several runs and stages are chosen by step, tokens or number; what a list contradicts is said."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from open_instruct.checkpoints.families import Checkpoint, family_named
from open_instruct.checkpoints.listing import Available
from open_instruct.checkpoints.selection import Wanted, choose_each, contradictions, parse_tokens
from open_instruct.common.errors import UserError

DATADECIDE, PYTHIA, OLMO2 = "datadecide-c4-150M", "pythia-160m", "olmo2_1b"
AUXILIARY = ("small-aux-2", "small-aux-3")
TOKENS_OF_STAGE1 = 1_907_359 * 2_097_152


def of_run(family: str, steps: Iterable[int | None], run: str | None = None, stage: str | None = None):
    return [Available(Checkpoint(family, step, run, stage), f"{stage} {run} {step}") for step in steps]


DATADECIDE_RUNS = [
    *of_run(DATADECIDE, [*range(0, 38_000, 1250), 38_157, None], "default"),
    *of_run(DATADECIDE, range(0, 10_001, 1250), "small-aux-2"),
    *of_run(DATADECIDE, range(0, 10_001, 1250), "small-aux-3"),
]
PYTHIA_RUNS = [one for run in (None, "seed1", "seed2") for one in of_run(PYTHIA, (0, 512, 1000, 48_000, 143_000), run)]
OLMO2_STAGES = [
    *of_run(OLMO2, [*range(10_000, 1_907_359, 10_000), 1_907_359, None]),
    *(one for run in "123" for one in of_run(OLMO2, [*range(1000, 23_852, 1000), 23_852], run, "stage2")),
]


def chosen(
    available: Sequence[Available], *, runs: Sequence[str] = (), stages: Sequence[str] = (), **wanted: Any
) -> list[tuple[str | None, str | None, int | None]]:
    """Stage, run and step of each choice."""
    family = family_named(available[0].checkpoint.family)
    if "tokens" in wanted:
        wanted["tokens"] = parse_tokens(wanted["tokens"])
    found = choose_each(family, available, Wanted(**wanted), runs=runs, stages=stages)
    return [
        (one.available.checkpoint.stage, one.available.checkpoint.run, one.available.checkpoint.step) for one in found
    ]


def test_without_a_name_the_run_of_main_is_chosen():
    assert chosen(DATADECIDE_RUNS, steps=(1250, None)) == [(None, "default", 1250), (None, "default", None)]
    assert chosen(PYTHIA_RUNS, steps=(512,)) == [(None, None, 512)]
    assert chosen(PYTHIA_RUNS, steps=(512,), runs=("main", "seed2")) == [(None, None, 512), (None, "seed2", 512)]
    with pytest.raises(UserError, match=r"olmo2_1b has runs 1, 2, 3; choose some by --runs, or --runs all"):
        chosen(OLMO2_STAGES, steps=(1000,), stages=("stage2",))


def test_runs_are_matched_at_equal_tokens():
    # 1e9 and 1e11 tokens are 477 and 47,684 steps of 2,097,152.
    steps = (512, 48_000)
    expected = [(None, run, step) for run in (None, "seed1", "seed2") for step in steps]
    assert chosen(PYTHIA_RUNS, tokens=("1B,100B",), nearest=True, runs=("all",)) == expected
    with pytest.raises(
        UserError, match=r"run seed1: no checkpoint at 1B \(nearest: 1\.074B\) tokens; .* add --nearest"
    ):
        chosen(PYTHIA_RUNS, tokens=("1B", "100B"), runs=("all",))
    assert chosen(PYTHIA_RUNS, tokens=("101B",), runs=("all",)) == expected[1::2]  # within one in a hundred


def test_a_run_that_stops_early_is_refused_by_name_with_its_end():
    with pytest.raises(UserError) as error:
        chosen(DATADECIDE_RUNS, tokens=("1B", "15B"), nearest=True, runs=("all",))
    for run in AUXILIARY:
        assert f"run {run}: no checkpoint at 15B (nearest: 3.932B) tokens; it ends at 3.932B; choose others" in str(
            error.value
        )
    assert "run default" not in str(error.value)
    with pytest.raises(
        UserError, match=r"run small-aux-2: the store has no checkpoint of step 38157 \(nearest: 10000\)"
    ):
        chosen(DATADECIDE_RUNS, steps=(1250, 38_157), runs=("all",))


def test_a_number_is_chosen_of_each_run():
    found = chosen(DATADECIDE_RUNS, amount=3, runs=("all",))
    # Between 0 and 38157 lies 19078, and between 0 and 10000 lies 5000.
    expected = {"default": [0, 18_750, 38_157], "small-aux-2": [0, 5000, 10_000], "small-aux-3": [0, 5000, 10_000]}
    assert found == [(None, run, step) for run, steps in expected.items() for step in steps]


def test_all_steps_are_those_of_each_run_without_main_which_is_the_last_again():
    assert len(chosen(DATADECIDE_RUNS, every=True, runs=("all",))) == len(DATADECIDE_RUNS) - 1
    assert len(chosen(DATADECIDE_RUNS, every=True)) == 31 + 1


def test_stages_share_the_numbers_of_tokens():
    """4.05e12 are in stage 2, 2e12 in stage 1, and each run of stage 2 is matched."""
    options = {"runs": ("all",), "stages": ("all",), "tokens": ("2T,4.05T",)}
    first = (None, None, 950_000)
    second = [("stage2", run, 23_852) for run in "123"]
    assert chosen(OLMO2_STAGES, **options) == [first, *second]
    assert chosen(OLMO2_STAGES, **options, nearest=True) == [first, *second]
    with pytest.raises(UserError, match=r"stage2, run 1: no checkpoint at 2T \(nearest: 4\.002T\) tokens"):
        chosen(OLMO2_STAGES, **options | {"stages": ("stage2",)})


def test_a_stage_leaves_tokens_beyond_its_own_to_the_stage_that_is_closer():
    """3.5e12 is within a quarter of the start of stage 2, and 4.01e12 of the end of stage 1."""
    options = {"runs": ("all",), "stages": ("all",), "nearest": True}
    assert chosen(OLMO2_STAGES, **options, tokens=("3.5T",)) == [(None, None, 1_670_000)]
    assert chosen(OLMO2_STAGES, **options, tokens=("4.01T",)) == [("stage2", run, 5000) for run in "123"]
    # Beyond the end of all of them, the last is the nearest.
    assert chosen(OLMO2_STAGES, **options, tokens=("4.5T",)) == [("stage2", run, 23_852) for run in "123"]
    # Alone, each takes its own end.
    assert chosen(OLMO2_STAGES, **options | {"stages": ()}, tokens=("4.01T",)) == [(None, None, 1_907_359)]


def test_unknown_runs_and_stages_are_named():
    with pytest.raises(UserError, match=r"no run seed5 \(did you mean .*\), but main, seed1, seed2"):
        chosen(PYTHIA_RUNS, steps=(512,), runs=("seed5",))
    with pytest.raises(UserError, match=r"olmo2_1b has no stage stage3; expected stage1, stage2 \(did you mean"):
        chosen(OLMO2_STAGES, steps=(1000,), stages=("stage3",))
    with pytest.raises(UserError, match=r"pythia-160m has no stage stage1; it has none"):
        chosen(PYTHIA_RUNS, steps=(512,), stages=("stage1",))
    with pytest.raises(UserError, match=r"the store has no checkpoint of stage2"):
        chosen(OLMO2_STAGES[:3], steps=(1000,), stages=("stage2",))


def test_two_numbers_of_tokens_are_never_one_checkpoint():
    with pytest.raises(UserError, match=r"checkpoint-48000 is the nearest of several numbers of tokens"):
        chosen(PYTHIA_RUNS, tokens=("100B", "101B"), nearest=True)


def test_tokens_need_a_family_that_counts_them(base_dir):
    (base_dir / "families.yaml").write_text("mine: {hub: me/mine, revision: 'step{step}'}\n")
    with pytest.raises(UserError, match=r"tokens are not known: families\.yaml has no tokens_per_step"):
        chosen(of_run("mine", (1, 2)), tokens=("1B",))


@pytest.mark.parametrize(
    "values", [("10",), ("10b",), ("1B", "1000M"), ("0B",), (",",), ("-1B",), ("1e9B",), ("9" * 400 + "B",)]
)
def test_what_is_no_number_of_tokens_is_refused(values):
    with pytest.raises(UserError, match="tokens: expected numbers"):
        parse_tokens(values)


def test_numbers_of_tokens_have_units():
    assert parse_tokens(("500M,1.5T", "10B")) == (500_000_000, 1_500_000_000_000, 10_000_000_000)


# --- what a list contradicts ---


def notes(available: Sequence[Available]) -> list[str]:
    return list(contradictions(family_named(available[0].checkpoint.family), available))


def test_runs_without_steps_of_their_siblings_and_runs_that_stop_early_are_named():
    without = [one for one in DATADECIDE_RUNS if one.checkpoint.run != "small-aux-3" or one.checkpoint.step != 2500]
    assert notes(without) == [
        "run small-aux-2 stops at step 10000, of 38157",
        "run small-aux-3 lacks 1 step(s) that other runs have: 2500",
        "run small-aux-3 stops at step 10000, of 38157",
    ]
    assert notes(PYTHIA_RUNS) == []


def test_runs_that_go_on_beyond_the_last_step_are_named():
    longer = of_run(DATADECIDE, (0, 38_157, 38_250), "default")
    assert notes(longer) == ["run default goes on to step 38250; the last step in families.yaml is 38157"]


def test_stages_of_unknown_tokens_are_named(base_dir):
    (base_dir / "families.yaml").write_text(
        "mine:\n  hub: me/mine\n  stages:\n    web: {revision: 'web{step}', tokens_per_step: 8}\n"
        "    late: {revision: 'late{step}'}\n"
    )
    (note,) = notes([*of_run("mine", (1, 2)), *of_run("mine", (1, 2), stage="late")])
    assert note.startswith("late: its tokens are not known; add tokens_per_step, and last_step of the stage before it")


def test_a_whole_list_without_contradictions_has_no_note():
    assert notes(OLMO2_STAGES) == []
