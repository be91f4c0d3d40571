"""Families, lists of their checkpoints, and choices from them."""

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_instruct import download_olmo_ckpts as download
from open_instruct.checkpoints.families import Checkpoint, family_named
from open_instruct.checkpoints.hub_listing import ListedRevision, Listing, keep
from open_instruct.checkpoints.listing import (
    Available,
    choose_amount,
    choose_steps,
    read_checkpoint_csv,
)
from open_instruct.common.errors import UserError

STORE = "https://olmo-checkpoints.org/ai2-llm/olmo-small"


def of_steps(*steps: int | None) -> list[Available]:
    return [Available(Checkpoint("tiny", step), f"step{step}") for step in steps]


def steps_of(available) -> list[int | None]:
    return [one.checkpoint.step for one in available]


def write_csv(path, *rows: tuple) -> None:
    path.write_text("Step,Checkpoint Directory\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows))


def list_with_gaps(path) -> list[int]:
    """351 steps, mostly multiples of 1000, with gaps, as in OLMo-1B's list."""
    rng = random.Random(0)
    thousands = rng.sample([n * 1000 for n in range(1, 739) if not 118 <= n < 330], 340)
    steps = sorted({*thousands, *(n + 850 for n in rng.sample(thousands, 11))})
    write_csv(path, *((step, f"{STORE}/run{step // 50_000}/step{step}-unsharded/") for step in steps))
    return steps


# --- families ---


def test_own_family_needs_three_lines(base_dir):
    (base_dir / "families.yaml").write_text("my_llama:\n  hub: meta-llama/Llama-3.2-1B\n  revision: main\n")
    assert family_named("my_llama").hub == "meta-llama/Llama-3.2-1B"
    assert Checkpoint("my_llama", None).model_id == "my_llama_main"
    assert Checkpoint("my_llama", None).num_tokens is None
    assert Checkpoint("my_llama", None).folder == base_dir / "output" / "my_llama_tf_ckpts" / "main"


def test_every_error_in_a_families_file_is_named(base_dir):
    path = base_dir / "families.yaml"
    path.write_text(
        "a: {hub: nowhere, revison: main}\n../b: {}\nc: {revision: 'part{tokens}'}\nd: {tokens_per_step: many}\n"
        "e: {checkpoint_format: gguf}\nf: text\ng: {urls: 'https://x/{stp}'}\n"
        "h: {about: 3, runs: {1: a}, tokenizer: mine.json}\n"
        "i: {ckpt_csv: list.csv, fine_tuned: {hub: me, revision: '{checkpoint}_{train_set}_{epochs}_{lr}'}}\n"
        "j: {checkpoint_format: olmo, path: '/x/{step}', ckpt_csv: [list.csv]}\n"
    )
    with pytest.raises(UserError) as error:
        family_named("a")
    for message in (
        *("unknown key a.revison (did you mean revision?)", "hub is 'nowhere', expected OWNER/NAME", "../b: expected"),
        *("c: revision is part{tokens}, expected {step}", "d.tokens_per_step: expected int, found 'many'"),
        *("expected one of hf, olmo", "f: expected a mapping", "urls names stp; known: step, tokens, run"),
        *("h.about: expected str, found '3'", "h.runs[0]: expected str, found a mapping"),
        "h.tokenizer: expected a mapping, found 'mine.json'",
        *(
            "i: ckpt_csv lists native checkpoints; add checkpoint_format: olmo",
            "i: hub of fine_tuned is 'me', expected",
        ),
        *("j: path is a folder of yours; leave out hub, run_hub, urls", "j.ckpt_csv: expected str, found a list"),
    ):
        assert message in str(error.value)
    path.write_text("olmo1b: {hub: me/mine}\n")
    with pytest.raises(UserError, match="olmo1b is a family of this repository"):
        family_named("olmo1b")
    path.write_text("a: [")
    with pytest.raises(UserError, match="not YAML"):
        family_named("olmo1b")


def test_unknown_family_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"unknown family pythia-160 \(did you mean pythia-160m"):
        family_named("pythia-160")


# --- lists ---


RUNS = {
    1000: "w1r5xfzt",
    18_000: "s7wptaol",
    342_000: "mif67a9e",
    424_000: "gqbsxin2",
    505_000: "h9g4p1cw",
    592_000: "yifb3rvs",
    738_000: "g4g72enr",
    None: "g4g72enr",
}
"""The paper's checkpoints and their runs."""


def test_olmo_1b_is_listed_by_step_and_main_last_with_the_checkpoints_of_the_paper(capsys):
    family = family_named("olmo1b")
    available = read_checkpoint_csv(Path(family.ckpt_csv or ""), family)
    assert len(available) == 351 + 1
    assert steps_of(available)[:-1] == sorted(steps_of(available)[:-1])
    chosen = choose_steps(available, [*RUNS], nearest=False)
    assert {step: one.location.split("/")[-2] for step, one in chosen.items()} == RUNS
    assert available[-1].location == available[-2].location == f"{STORE}/g4g72enr/step738020-unsharded"
    assert capsys.readouterr().out == ""  # no row is of another family


def test_a_family_of_ones_own_has_its_list_beside_it(base_dir):
    write_csv(base_dir / "mine.csv", (5, f"{STORE}/r/step5-unsharded"))
    (base_dir / "families.yaml").write_text("mine: {checkpoint_format: olmo, ckpt_csv: mine.csv}\n")
    family = family_named("mine")
    assert steps_of(read_checkpoint_csv(Path(family.ckpt_csv or ""), family)) == [5]


def test_olmo_repository_list_is_read_by_step(tmp_path):
    steps = list_with_gaps(tmp_path / "list.csv")
    available = read_checkpoint_csv(tmp_path / "list.csv", family_named("olmo1b"))
    assert steps_of(available) == steps
    assert len(steps) == 351


def test_rows_of_other_runs_are_left_out_and_counted(tmp_path, base_dir, capsys):
    path = tmp_path / "stage2.csv"
    address = "https://olmo-checkpoints.org/ai2-llm/peteish1/stage2/olmo2-1b-0425_stage2_ingredient{}/step{}-unsharded/"
    rows = [f"{n},{step},{address.format(n, step)}\n" for n in (1, 2) for step in (1000, 2000)]
    path.write_text("\ufeffIngredient,Step,Checkpoint Directory\n" + "".join(rows), encoding="utf-8")
    (base_dir / "families.yaml").write_text(
        "soup2: {checkpoint_format: olmo, urls: '" + address.replace("{}", "2", 1).format("{step}") + "'}\n"
    )
    with pytest.raises(UserError, match=r"stage2\.csv lists no checkpoint of family olmo1b .*another --family"):
        read_checkpoint_csv(path, family_named("olmo1b"))
    available = read_checkpoint_csv(path, family_named("soup2"))
    assert [one.location[-38:] for one in available] == [
        "olmo2-1b-0425_stage2_ingredient2/step1000-unsharded"[-38:],
        "olmo2-1b-0425_stage2_ingredient2/step2000-unsharded"[-38:],
    ]
    assert "left out 2 row(s) of other runs than soup2's" in capsys.readouterr().out


def test_every_error_in_a_list_is_named(tmp_path):
    path = tmp_path / "list.csv"
    write_csv(
        path,
        (1000, f"{STORE}/a/step1000-unsharded"),
        (2000, f"{STORE}/a/step1000-unsharded"),
        (1000, f"{STORE}/b/step1000-unsharded"),
        ("3k", f"{STORE}/a/step3000-unsharded"),
        (4000, "file:///etc/passwd"),
    )
    with pytest.raises(UserError) as error:
        read_checkpoint_csv(path, family_named("olmo1b"))
    for message in ("line 3: step 2000, but", "line 4: step 1000 again", "line 5: expected a step", "line 6: expected"):
        assert message in str(error.value)
    for text in ("a,b\n1,2\n", ""):
        path.write_text(text)
        with pytest.raises(UserError, match="expected columns Step,Checkpoint Directory"):
            read_checkpoint_csv(path, family_named("olmo1b"))
    write_csv(path)
    with pytest.raises(UserError, match="lists no checkpoint of family local; choose another --family"):
        read_checkpoint_csv(path, family_named("local"))
    with pytest.raises(UserError, match="not a list of checkpoints"):
        read_checkpoint_csv(tmp_path / "none.csv", family_named("olmo1b"))


# --- choices ---


def test_any_amount_can_be_chosen_from_351_steps_with_gaps(tmp_path):
    steps = list_with_gaps(tmp_path / "list.csv")
    available = read_checkpoint_csv(tmp_path / "list.csv", family_named("olmo1b"))
    for amount in (*range(1, 40), 100, 200, *range(345, 352)):
        chosen = steps_of(choose_amount(available, amount))
        assert len(chosen) == len(set(chosen)) == amount
        assert chosen == sorted(chosen)
        assert set(chosen) <= set(steps)
        assert chosen[-1] == steps[-1]
        assert amount == 1 or chosen[0] == steps[0]
    for amount in (0, 352):
        with pytest.raises(UserError, match=f"ckpt_amount is {amount}, expected 1 to 351"):
            choose_amount(available, amount)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 60), min_size=2, max_size=9), st.data())
def test_chosen_steps_are_as_evenly_spaced_as_possible(numbers, data):
    steps = sorted(numbers)
    amount = data.draw(st.integers(2, len(steps)))
    ideals = [steps[0] + (steps[-1] - steps[0]) * i / (amount - 1) for i in range(amount)]

    def distance(chosen):
        return sum(abs(step - ideal) for step, ideal in zip(chosen, ideals, strict=True))

    best = min(map(distance, itertools.combinations(steps, amount)))
    assert distance(steps_of(choose_amount(of_steps(*steps), amount))) == pytest.approx(best)


def test_main_is_chosen_only_without_intermediate_checkpoints():
    assert steps_of(choose_amount(of_steps(1, 2, 9, None), 2)) == [1, 9]
    assert steps_of(choose_amount(of_steps(None), 1)) == [None]


def test_missing_steps_are_refused_unless_the_nearest_are_accepted():
    available = of_steps(1000, 5000, 9000, None)
    assert list(choose_steps(available, [5000, None], nearest=False)) == [5000, None]
    with pytest.raises(UserError, match=r"step 2000 \(nearest: 1000, 5000\); 9999 \(nearest: 9000\); choose others"):
        choose_steps(available, [2000, 1000, 9999], nearest=False)
    chosen = choose_steps(available, [2000, 7000], nearest=True)
    assert {step: one.checkpoint.step for step, one in chosen.items()} == {2000: 1000, 7000: 5000}
    with pytest.raises(UserError, match="checkpoint-1000 is the nearest of several"):
        choose_steps(available, [900, 1100], nearest=True)
    with pytest.raises(UserError, match="no checkpoint of step main"):
        choose_steps(of_steps(1), [None], nearest=True)


@pytest.mark.parametrize("runs", [("default,small-aux-2",), ("default", "small-aux-2")])
def test_a_cached_list_is_printed_of_the_chosen_runs(runs, capsys):
    family = family_named("datadecide-c4-150M")
    names = [f"step{step}-seed-{run}" for run in family.runs for step in (1250, 2500)]
    revisions = tuple(ListedRevision(name, name) for name in names)
    keep(Listing(family.repository(None), "2026-11-28 10:00", revisions))
    download.main(download.Args(family.name, list=True, cached=True, runs=runs))
    printed = capsys.readouterr().out
    assert [name for name in names if name in printed] == names[:4]
    assert "listed 2026-11-28 10:00 UTC" in printed
