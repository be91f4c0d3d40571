"""A run on each device has the losses of fp32 on the CPU, whatever its precision and its options."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from devices import any_device, on_cpu
from toy_training import toy_training

from open_instruct import finetune
from open_instruct.training.arguments import Args

LORA: dict[str, Any] = {"use_lora": True, "lora_rank": 4, "lora_alpha": 64, "lora_dropout": 0.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "padded": {},
    "packed": {"packing": True},
    "checkpointed": {"gradient_checkpointing": True},
    "packed adapters": LORA | {"packing": True},
}
TOLERANCES = {"no": 2e-4, "bf16": 3e-3, "fp16": 3e-3}
"""Nats. Measured on a CPU: 5e-4 in bfloat16."""


def losses_of(args: Args, folder: Path) -> list[float]:
    """Of a run into `folder`: each step's, and the validation's before training and after each epoch."""
    finetune.main(replace(args, output_dir=folder))
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    return [line["loss"] if "loss" in line else line["validation_loss"] for line in log]


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> tuple[Args, dict[bool, list[float]]]:
    """Arguments of a run, and its losses on the CPU without and with adapters."""
    folder = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch, on_cpu():
        patch.setenv("base_dir", str(folder))
        # Wide enough for the attention kernels of GPUs, which need heads of 8 and more.
        args = replace(toy_training(hidden_size=64), num_validation_rows=4)
        full, adapted = losses_of(args, folder / "full"), losses_of(replace(args, **LORA), folder / "adapted")
        return args, {False: full, True: adapted}


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_losses_are_those_of_fp32_on_the_cpu(expected, tmp_path, device, precision):
    if (device.type, precision) == ("cpu", "fp16"):
        pytest.skip("accelerate has fp16 on GPUs only")
    args, losses = expected
    for name, options in OPTIONS.items():
        with any_device():
            found = losses_of(replace(args, mixed_precision=precision, **options), tmp_path / name)
        wanted = losses["use_lora" in options]
        assert wanted[-1] < wanted[0] - 0.1
        if precision == "fp16":
            # The first updates are skipped while the scale of the loss is too large for fp16.
            assert found[-1] < found[0] - 0.1, name
            found, wanted = found[:2], wanted[:2]
        assert found == pytest.approx(wanted, abs=TOLERANCES[precision]), name
