"""accelerate reads the configurations of scripts/accelerate; sharded weights train to the same values."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from devices import on_cpu
from toy_training import command_line, environment, largest_difference, toy_training, weights

from open_instruct import finetune
from open_instruct.common import paths
from open_instruct.common.sidecars import read_sidecar

FOLDER = paths.REPOSITORY / "scripts" / "accelerate"
KINDS = {
    "one": DistributedType.NO,
    "ddp": DistributedType.MULTI_GPU,
    "cpu": DistributedType.MULTI_GPU,
    "fsdp": DistributedType.FSDP,
    "zero3": DistributedType.DEEPSPEED,
}


def parsed(name: str):
    """The file as `accelerate launch` reads it, with the options of the shell script on the first of two nodes."""
    line = ["--config_file", str(FOLDER / f"{name}.yaml"), "--mixed_precision", "bf16", "--dynamo_backend", "no"]
    line += ["--num_processes", "8", "--num_machines", "2", "--machine_rank", "0"]
    line += ["--main_process_ip", "127.0.0.1", "--main_process_port", "29500", "finetune.py"]
    return _validate_launch_command(launch_command_parser().parse_args(line))[0]


def test_every_configuration_is_tested():
    assert {path.stem for path in FOLDER.iterdir()} == KINDS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_every_file_and_no_key_is_lost(name):
    file = FOLDER / f"{name}.yaml"
    assert load_config_from_file(str(file)).distributed_type == KINDS[name]
    args = parsed(name)
    assert args.use_fsdp == (name == "fsdp")
    assert args.use_deepspeed == (name == "zero3")
    # accelerate ignores unknown keys inside these two without a message.
    settings = yaml.safe_load(file.read_text())
    known = vars(launch_command_parser().parse_args(["finetune.py"]))
    for key, value in {**settings.get("fsdp_config", {}), **settings.get("deepspeed_config", {})}.items():
        assert key in known, key
        assert getattr(args, key) == value


def test_processes_on_cpus_see_no_gpu():
    assert prepare_multi_gpu_env(parsed("cpu"))["CUDA_VISIBLE_DEVICES"] == "-1,-1"
    assert prepare_multi_gpu_env(parsed("ddp")).get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")


def test_the_launcher_passes_the_fsdp_settings_on(monkeypatch):
    variables = prepare_multi_gpu_env(parsed("fsdp"))
    assert variables["ACCELERATE_USE_FSDP"] == "true"
    for name, value in variables.items():
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
    assert plugin.activation_checkpointing is False
    assert plugin.auto_wrap_policy is not None


def test_the_launcher_passes_the_deepspeed_settings_on(monkeypatch):
    pytest.importorskip("deepspeed", reason="DeepSpeed is optional")
    from accelerate import DeepSpeedPlugin
    from deepspeed.runtime.config import DeepSpeedConfig

    args = parsed("zero3")
    args.deepspeed_fields_from_accelerate_config = ""
    _, variables = prepare_deepspeed_cmd_env(args)
    for name, value in variables.items():
        if name.startswith("ACCELERATE_"):
            monkeypatch.setenv(name, value)
    config = DeepSpeedPlugin().deepspeed_config | {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 1.0}
    config = {name: value for name, value in config.items() if value != "auto"}
    config["zero_optimization"] = {k: v for k, v in config["zero_optimization"].items() if v != "auto"}
    assert DeepSpeedConfig(config).zero_config.stage == 3


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_weights_sharded_over_two_processes_train_to_the_same_values(tmp_path, precision):
    args = replace(toy_training(hidden_size=64, tie_word_embeddings=True), mixed_precision=precision)
    with on_cpu():
        finetune.main(replace(args, output_dir=tmp_path / "one"))
    out, in_precision = tmp_path / "two", ["--mixed_precision", precision]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FOLDER / "fsdp.yaml")]
    launch += ["--num_processes", "2", "--num_machines", "1", "--main_process_port", "0", *in_precision]
    # finetune.py itself takes the launcher's precision.
    script, *flags = command_line(args, "--output_dir", str(out), "--checkpointing_steps", "2")
    assert script == "open_instruct/finetune.py"
    done = subprocess.run(
        [*launch, str(Path(__file__).parents[1] / "helpers" / "sharded_on_cpu.py"), *flags],
        cwd=paths.REPOSITORY,
        env=environment() | {"ACCELERATE_TORCH_DEVICE": "cpu", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"sharded by {KINDS['fsdp']}" in done.stdout
    assert read_sidecar(out)["arguments"]["mixed_precision"] == precision
    # In bfloat16, a gradient that is next to zero may change its sign, and AdamW's step with it.
    steps_of_adamw = 6 * args.learning_rate
    assert largest_difference(weights(tmp_path / "one"), weights(out)) < (1e-5 if precision == "no" else steps_of_adamw)
    for logged, tolerance in {"loss": 2e-3, "grad_norm": 1e-2}.items():
        expected = log_of(tmp_path / "one", logged)
        assert log_of(out, logged) == pytest.approx(expected, abs=2e-4 if precision == "no" else tolerance)


def log_of(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "training_log.jsonl").read_text().splitlines()]
