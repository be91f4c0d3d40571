"""The model that is trained, and the loss that is trained on: no logits where there is no target."""

import ctypes
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.import_utils import is_flash_attn_2_available

from open_instruct.encode import IGNORED, eos_id
from open_instruct.records import UserError

HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What of a Hub repository is downloaded: weights as safetensors, never pickles or code."""


def model_folder(name: str, revision: str | None = None) -> Path:
    """The folder `name`, or the folder to which the Hub's model `name` is downloaded.

    Raises UserError where it is neither, or a folder in OLMo's own format.
    """
    folder = Path(name)
    if (folder / "model.pt").is_file():
        raise UserError(
            f"{folder} is in OLMo's own format; convert it first: "
            f"python open_instruct/olmo_hf/convert_olmo_to_tf.py --input_dir {folder} --output_dir …"
        )
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name} is neither a model folder nor a model of the Hub: {reason}") from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Raises UserError where there is none, or it names no EOS."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no tokenizer ({str(error).splitlines()[0]}); give --tokenizer_name") from error
    eos_id(tokenizer)
    return tokenizer


def load_model(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    config_folder: Path | None = None,
    packing: bool = False,
    half_precision: bool = False,
) -> Any:
    """The model in float32.

    Raises UserError where the weights are not those of its config, or the tokenizer has more tokens than the model.
    """
    model = load_weights(folder, config_folder=config_folder, packing=packing, half_precision=half_precision)
    num_embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_embeddings:
        raise UserError(f"the tokenizer has {len(tokenizer)} tokens, {folder} embeds {num_embeddings}; use its own")
    return model


def load_weights(folder: Path, *, config_folder: Path | None = None, packing: bool, half_precision: bool) -> Any:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=AutoConfig.from_pretrained(config_folder or folder),
            dtype=torch.float32,
            attn_implementation=attention_for(packing=packing, half_precision=half_precision),
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder} holds no model that can be loaded: {str(error).strip().splitlines()[0]}") from error
    model, info = loaded
    wrong = {kind: sorted(info[kind])[:3] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        raise UserError(f"{folder}: the weights are not those of the config: {wrong}; make the folder again")
    return model


def attention_for(*, packing: bool, half_precision: bool) -> str:
    """Flash attention where it is installed and can run; it tells packed examples apart by their positions."""
    if half_precision and torch.cuda.is_available() and is_flash_attn_2_available():
        return "flash_attention_2"
    return "within_examples" if packing else "sdpa"


def attend_within_examples(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: list[int],
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of examples that lie end to end, each to itself: the blocks of a block-diagonal mask.

    query: (1, heads, tokens, head_dim); key, value: (1, key-value heads, tokens, head_dim).
    -> (1, tokens, heads, head_dim)
    """
    blocks = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    attended = [
        scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        for q, k, v in blocks
    ]
    return torch.cat(attended, dim=2).transpose(1, 2), None


AttentionInterface.register("within_examples", attend_within_examples)


def add_adapters(model: Any, *, rank: int, alpha: int, dropout: float) -> Any:
    """Low-rank adapters on all linear layers but the head; only they are trained."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def spare_memory_traffic(model: Any) -> None:
    """On a CPU small models wait for memory: a third of a step of a 17 M model with a vocabulary of 50 k went into it.

    The gradient of a tied embedding's rows is added to the head's in place, not by way of a matrix of zeros; and what
    is freed stays with the process, so that the kernel does not clear the same pages for every step.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, nn.Embedding) and embedding.weight is head.weight and embedding.weight.requires_grad:
        embedding.sparse = True
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


class TargetLoss(nn.Module):
    """A causal language model that returns the summed loss of its targets, and projects nothing else."""

    def __init__(self, model: Any) -> None:
        """model: a transformers model for causal language modelling, or a PeftModel of one."""
        super().__init__()
        self.model = model

        self._no_split_modules = getattr(self.language_model, "_no_split_modules", None)  # what FSDP wraps

    @property
    def language_model(self) -> Any:
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def forward(self, ids: Tensor, labels: Tensor, lengths: list[int] | None = None) -> Tensor:
        """A Batch's fields.  -> () nats, summed over targets."""
        # Causal attention never looks right, so padding there needs no mask.
        packed: dict[str, Any] = {}
        if lengths is not None:
            positions = torch.cat([torch.arange(length, device=ids.device) for length in lengths])
            packed = {"position_ids": positions[None], "lengths": lengths}
        inner = self.language_model
        hidden = inner.base_model(input_ids=ids, use_cache=False, **packed).last_hidden_state[
            :, :-1
        ]  # (batch, seq-1, d)
        targets = labels[:, 1:]
        is_target = targets != IGNORED
        logits = inner.get_output_embeddings()(hidden[is_target]).float()  # (targets, vocabulary)
        return cross_entropy(logits, targets[is_target], reduction="sum")


@torch.no_grad()
def check_projection(model: Any, *, packing: bool) -> None:
    """Raises UserError where the model does more between its last layer and its logits than its head does."""
    ids = torch.arange(4)[None]
    lengths = [ids.shape[1]] if packing else None
    model.eval()
    found = TargetLoss(model)(ids, ids, lengths)
    logits = model(input_ids=ids, use_cache=False, **({"lengths": lengths} if packing else {})).logits
    expected = cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="sum")
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
        raise UserError(
            f"{type(model).__name__}: its logits are not its head's projection of its last layer "
            f"(loss {expected:.4f}, projected {found:.4f}), so finetune.py cannot train it"
        )
