"""`--help` answers without importing the heavy packages."""

import subprocess
import sys

import pytest

from open_instruct.common import paths

HEAVY = {"torch", "transformers", "accelerate", "peft", "datasets", "numpy", "pyarrow", "huggingface_hub"}
RUN_AND_LIST_MODULES = """
import runpy, sys
try:
    sys.argv = [sys.argv[1], "--help"]
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    print("modules:", *sys.modules)
"""


@pytest.mark.parametrize("script", ["finetune", "merge_lora"])
def test_help_imports_no_heavy_package(script):
    command = [sys.executable, "-c", RUN_AND_LIST_MODULES, f"open_instruct/{script}.py"]
    done = subprocess.run(command, cwd=paths.REPOSITORY, capture_output=True, text=True, check=True)
    help_text, modules = done.stdout.split("modules: ")
    assert "--overwrite" in help_text
    assert HEAVY & set(modules.split()) == set()
