"""Mutated files of a model: right numbers and exit code 0, or one sentence and exit code 2."""

import itertools
import logging

import pytest
from model_folder_trials import MODEL, SCRIPTS, Trials, mutate_header
from mutations import mutate_json, mutations

FILES = (*MODEL, "adapter_config.json", "adapter_model.safetensors")
COUNT = {"config.json": 300, "tokenizer.json": 220, "tokenizer_config.json": 120, "model.safetensors": 180}
"""Mutations of these files; of the others 45 each."""


@pytest.fixture(scope="module", autouse=True)
def no_logs():
    """Libraries log mutated values: half characters, which a process of pytest-xdist cannot send to the main one."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        yield Trials(tmp_path_factory.mktemp("trials"), monkeypatch)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_numbers_of_a_whole_model_are_those_of_transformers(script, trials):
    assert trials.run(script, "config.json", None) is None
    assert trials.run(script, "model.safetensors.index.json", None) is None
    assert trials.unmutated[script]


def wrong_outcomes(trials, file: str, *, seed: int, count: int) -> list[str]:
    mutate = mutate_header if file.endswith(".safetensors") else mutate_json
    readers = itertools.cycle(name for name, script in SCRIPTS.items() if file in script.reads)
    found = []
    for mutation in mutations((trials.source(file) / file).read_bytes(), mutate, seed=seed, count=count):
        script = next(readers)
        if wrong := trials.run(script, file, mutation.content):
            found.append(f"{script}, {file}: {mutation.name}: {wrong}")
    return found


@pytest.mark.parametrize("file", FILES)
def test_mutated_files_are_refused_or_give_the_right_numbers(file, trials):
    assert wrong_outcomes(trials, file, seed=1, count=7) == []


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_thousand_mutated_files_are_refused_or_give_the_right_numbers(file, trials):
    assert wrong_outcomes(trials, file, seed=2, count=COUNT.get(file, 45)) == []
