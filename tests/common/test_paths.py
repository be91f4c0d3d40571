"""Names of files are safe in paths and shells; folders come from base_dir and data_dir."""

import pytest

from open_instruct.common import paths
from open_instruct.common.errors import UserError


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "$(x)", "a\nb", "-rf", "a..b", "'x'"])
def test_names_that_are_unsafe_in_a_path_or_shell_are_refused(name):
    with pytest.raises(UserError, match="expected letters"):
        paths.safe_name(name)


def test_unset_folders_have_defaults_and_missing_ones_are_named(tmp_path, monkeypatch):
    assert paths.data_dir() == tmp_path / "data"
    monkeypatch.setenv("base_dir", str(tmp_path / "no where"))
    with pytest.raises(UserError, match=r"base_dir is .*, which is no folder; make it \(`mkdir -p '.*no where'`\)"):
        paths.base_dir()
    monkeypatch.delenv("base_dir")
    assert paths.base_dir() == paths.REPOSITORY
