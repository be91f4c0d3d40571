"""Studies of a two-layer model that run in seconds, and the script that runs them."""

from open_instruct.common import paths

SCRIPT = paths.REPOSITORY / "scripts" / "run_study.py"
TOY = {
    "name": "toy",
    "family": "tiny",
    "steps": [0, 4],
    "pretrain": {"d_model": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 512, "lr": 3e-3},
    "train_sets": {"socialiqa": {"rows": 16, "epochs": 1, "lr": 1e-3, "mixed_precision": "no"}},
    "evaluation": {
        "socialiqa": {"formats": ["default", "instruct"], "limit": 6},
        "rte": {"limit": 6},
        "heldout_text": {"limit": 6},
    },
    "predict": {"max_new_tokens": 4},
    "suite": {"tasks": ["openbookqa"], "limit": 6, "train_sets": ["socialiqa"]},
}
SMALL = TOY | {"steps": [4], "evaluation": {"rte": {"limit": 6}, "heldout_text": {"limit": 6}}}
"""One checkpoint, one fine-tuned model."""
FAMILY = "tiny_d32-heads2-vocab512"
"""Family and run of their models, as names have them."""
NUM_JOBS = 12
"""Of SMALL."""
