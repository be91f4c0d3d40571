"""Every test has a base_dir of its own, so that none sees the repository's output or another's."""

import pytest


@pytest.fixture(autouse=True)
def base_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    monkeypatch.delenv("data_dir", raising=False)
    return tmp_path
