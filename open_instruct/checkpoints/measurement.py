"""Measure a checkpoint: hash and norm of every tensor, and bits per byte of held-out text."""

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn.functional import cross_entropy

from open_instruct.common.errors import UserError
from open_instruct.common.model_files import COPY_AGAIN, refused, weight_files
from open_instruct.common.model_loading import check_vocabulary, load_config, load_model, load_tokenizer, max_positions
from open_instruct.common.plain_pass import plain_logits
from open_instruct.data.encode import encode_prompts
from open_instruct.data.tiny_corpus import heldout_passages


def measure(folder: Path, num_documents: int, max_length: int) -> dict[str, Any]:
    return {"tensors": measure_tensors(folder), "bits_per_byte": measure_text(folder, num_documents, max_length)}


def measure_tensors(folder: Path) -> dict[str, dict[str, Any]]:
    """Measurements by tensor name.  Raises UserError where the weights are damaged, or one is not finite."""
    tensors: dict[str, dict[str, Any]] = {}
    for path in sorted(set(weight_files(folder).values())):
        with refused(folder, path.name, COPY_AGAIN), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                norm = torch.linalg.vector_norm(tensor.float()).item()
                if not math.isfinite(norm):
                    raise UserError(f"{path}: {name} has values that are not finite")
                tensors[name] = {
                    "sha256": hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy()).hexdigest(),
                    "norm": norm,
                    "is_constant": bool((tensor == tensor.flatten()[0]).all()),
                }
    return tensors


@torch.no_grad()
def measure_text(folder: Path, num_documents: int, max_length: int) -> list[float]:
    """Bits per byte of the first `max_length` tokens of each document; the first token is context."""
    if num_documents == 0:
        return []
    config = load_config(folder)
    tokenizer = load_tokenizer(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(folder, config=config, device_map=device).eval()
    check_vocabulary(model, tokenizer)
    longest = min(max_length, max_positions(config) or max_length)
    losses = []
    for ids in encode_prompts(tokenizer, heldout_passages()[:num_documents]):
        tokens = torch.tensor([ids[:longest]], device=device)
        logits = plain_logits(model, tokens)[0, :-1].float()  # (seq - 1, vocabulary)
        nats = cross_entropy(logits, tokens[0, 1:], reduction="sum").item()
        num_bytes = len(tokenizer.decode(tokens[0, 1:]).encode())
        losses.append(nats / math.log(2) / num_bytes)
    return losses
