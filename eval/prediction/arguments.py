"""The arguments of a prediction run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Constraint = Literal["none", "next_word", "constraint", "label"]
"""How a label is chosen (label_scoring.py)."""


@dataclass(frozen=True)
class Args:
    model_name_or_path: Path
    """Folder of the model, in transformers format."""
    input_files: tuple[Path, ...]
    """Evaluation files, as format_generalization.py writes them."""
    tokenizer_name_or_path: Path | None = None
    """Folder of the tokenizer (default: the model's folder)."""
    output_file: Path | None = None
    """Where the predictions go, for a single input file (default: output/predictions/, named by what they are)."""
    num_shots: int = 0
    """Exemplars before each item."""
    batch_size: int | None = None
    """Items that are answered at once (default: as many as a budget of tokens holds)."""
    max_new_tokens: int = 60
    """Longest generated text, in tokens."""
    do_sample: bool = False
    """Sample instead of taking the likeliest token."""
    temperature: float = 1.0
    """Of sampling; below 1 sharpens the distribution."""
    top_p: float = 1.0
    """Sample from the fewest likeliest tokens that together have this probability."""
    seed: int = 42
    """Of sampling."""
    use_chat_format: bool = False
    """Put each item as a user's turn, for models that were tuned on chats."""
    load_in_float16: bool = False
    """Load the weights in float16 instead of float32."""
    limit: tuple[int, ...] = ()
    """Ask only this many items, the same for every model: one number for all input files, or one for each
    (default: all items)."""
    truncate_left: bool = False
    """Cut prompts that are too long for the model on the left, and count them (default: refuse them)."""
    stop_at_newline: bool = False
    """End a generated text at its first line break."""
    constraint_type: Constraint | None = None
    """How a label is chosen: by its likelihood as a whole (label), by its likeliest sub-token (next_word), by greedy
    decoding that may write labels only (constraint), or freely (none) (default: label; next_word in the paper's
    protocol)."""
    use_vllm: bool = False
    """Let vLLM write texts, on a GPU; likelihoods are computed here in any case."""
    overwrite: bool = False
    """Make predictions again that are done, or that other arguments made."""
