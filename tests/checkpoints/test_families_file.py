"""Mistakes in a families.yaml with several families an entry, runs, repositories of runs, or stages: each is named."""

import pytest

from open_instruct.checkpoints.families import families, family_named
from open_instruct.common.errors import UserError

NAMES = "expected names of letters, digits and . _ + - only, other than main and all, found"
EACH = "each needs a list or mapping of the values of every {name} in the family's name"
STAGES = "stages: {stage1: {revision: 'a{step}'%s}, stage2: {revision: 'b{step}'%s}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a-{size}: {each: {data: [x]}}", f"a-{{size}}: {EACH}"),
        ("a-{size}: {each: {size: []}}", EACH),
        ("a-{size}: {each: {size: x}}", EACH),
        ("a-{size}: {each: [x]}", EACH),
        ("a: {each: {size: [x]}}", EACH),
        ("a-{size}: {hub: a/b}", "a-{size}: expected a name of letters"),
        ("a-{size}: {each: {size: ['x/y']}}", "a-x/y: expected a name of letters"),
        ("a-{step}: {each: {step: [1]}}", "each has step, which patterns of revisions have; choose another name"),
        ("a-{size}: {each: {size: {1B: [runs]}}}", "each has ['runs'], expected a mapping of what only that value has"),
        ("a-{x}: {each: {x: [1, 2]}}\na-{y}: {each: {y: [2, 3]}}", "a-{y}: a-2 is declared twice"),
        ("a-{x}: {each: {x: {1: {runz: [b]}}}}", "unknown key a-1.runz (did you mean runs"),
        # runs
        *((f"a: {{runs: [{run}]}}", f"a: runs: {NAMES} '{run}'") for run in ("main", "all", "x/y", "..")),
        ("a: {runs: main}", f"a: runs: {NAMES} 'main'"),
        ("a: {runs: [x, x]}", "a: runs: expected each once, found x, x"),
        ("a: {runs: [x], main_run: y}", "a: main_run is y, expected one of `runs`"),
        ("a: {runs: [1]}", "a.runs[0]: expected str, found '1'; write it in quotes"),
        ("a: {runs: [stage2_1], " + STAGES % ("", "") + "}", "runs: stage2_1 begins like a stage; the two would share"),
        ("a: {runs: [stage2], " + STAGES % ("", "") + "}", "runs: stage2 begins like a stage"),
        # repositories of runs
        ("a: {hub: a/b, run_hub: a/b, runs: [x]}", "run_hub is 'a/b', expected OWNER/NAME with {run} in it, once"),
        ("a: {hub: a/b, run_hub: 'a/{run}-{run}', runs: [x]}", "expected OWNER/NAME with {run} in it, once"),
        ("a: {hub: a/b, run_hub: '{run}', runs: [x]}", "run_hub is '{run}', expected OWNER/NAME"),
        ("a: {hub: a/b, run_hub: 'a/{run}'}", "run_hub needs `runs`, their names, and `hub`"),
        ("a: {run_hub: 'a/{run}', runs: [x]}", "run_hub needs `runs`, their names, and `hub`"),
        ("a: {path: /a, run_hub: 'a/{run}', runs: [x]}", "path is a folder of yours; leave out hub, run_hub"),
        # stages
        ("a: {stages: [x]}", "a.stages: expected a mapping, found a list"),
        ("a: {stages: {x: 3}}", "a.stages.x: expected a mapping, found '3'"),
        *(
            (f"a: {{stages: {{'{stage}': {{revision: 'b{{step}}'}}}}}}", f"stages: {NAMES} '{stage}'")
            for stage in ("main", "all", "x/y")
        ),
        ("a: {stages: {x: {last_step: 5}}}", "stages.x: expected a revision with {step}, found none"),
        ("a: {stages: {x: {revision: main}}}", "stages.x: expected a revision with {step}, found main"),
        ("a: {stages: {x: {revision: 'b{stp}'}}}", "stages.x: revision names stp; known: step, tokens, run"),
        ("a: {revision: 's{step}', " + STAGES % ("", "") + "}", "revision: with stages, each of them has its own"),
        ("a: {" + STAGES % (", last_step: -1", "") + "}", "stages.stage1: last_step is -1, expected 1 or more"),
        ("a: {" + STAGES % (", after: stage2", "") + "}", "after is stage2, expected an earlier stage: none"),
        ("a: {" + STAGES % ("", ", after: stage3") + "}", "after is stage3, expected an earlier stage: stage1"),
        ("a: {" + STAGES % ("", ", after: stage1") + "}", "it begins after stage1, whose last_step is not given"),
        (
            "a: {stages: {x: {revision: 'b{step}'}, x_1: {revision: 'c{step}'}}}",
            "x_1 begins like x; the two could share",
        ),
        ("a: {path: '/a/{step}', " + STAGES % ("", "") + "}", "path takes {step} and {run}, not stages"),
    ],
)
def test_a_mistake_is_named(base_dir, text, message):
    (base_dir / "families.yaml").write_text(f"{text}\n")
    with pytest.raises(UserError) as error:
        families()
    assert message in str(error.value)


def test_an_entry_stands_for_every_combination_and_what_a_value_has_is_its_own(base_dir):
    (base_dir / "families.yaml").write_text(
        "my-{data}-{size}:\n  about: '{size} on {data}'\n  hub: me/{data}-{size}\n  revision: ['{data}-{step}']\n"
        "  tokens_per_step: 8\n  each: {data: [web, books], size: {1B: {tokens_per_step: 16, runs: [a]}, 2B: }}\n"
    )
    own = {name: family for name, family in families().items() if name.startswith("my-")}
    assert list(own) == ["my-web-1B", "my-web-2B", "my-books-1B", "my-books-2B"]
    books = own["my-books-1B"]
    assert (books.hub, books.revision, books.about) == ("me/books-1B", ("books-{step}",), "1B on books")
    assert [(family.tokens_per_step, family.runs) for family in own.values()] == [(16, ("a",)), (8, ())] * 2


def test_stages_are_in_the_order_of_the_file_whatever_their_names(base_dir):
    (base_dir / "families.yaml").write_text(
        "mine:\n  tokens_per_step: 10\n  stages:\n    web: {revision: 'web{step}', last_step: 100}\n"
        "    anneal: {revision: 'anneal{step}', after: web}\n    again: {revision: 'again{step}', tokens_at_start: 7}\n"
    )
    family = family_named("mine")
    assert list(family.by_stage) == [None, "anneal", "again"]
    assert [family.num_tokens(3, stage) for stage in family.by_stage] == [30, 1030, 37]
    assert [family.tokens_of_stage(3, stage) for stage in family.by_stage] == [30, 30, 37]
