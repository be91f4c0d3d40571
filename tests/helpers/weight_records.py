"""A simulated study with records of weight noise, weight change and interpolation.

Simulated, by checkpoint index i: noise of size s raises bits per byte by s * (1 + i); fine-tuning changes layers.0 by
0.01 * (1 + i) of its norm, proportionally to the growth of the gain in the simulated study, and the embedding by 0.001.
The updates of layers.0 have the effective ranks 4 (1 + i) and 8 (1 + i), and that of the embedding is zero. From base
to fine-tuned weights the loss falls by 1, and half way lies above the straight line by 0.1 (1 + i).
In run r = 0, 1, ... of several all but the embedding's change are (1 + r / 10) times as large.
"""

from contextlib import contextmanager

import pytest
from simulated_study import STUDY, WITH_RUNS, write_study, write_with_sidecar

from analysis import findings, produce_tables
from open_instruct.common import paths
from open_instruct.study.loading import load_study

SIZES, DRAWS = (0.1, 0.2, 0.4), (-0.01, 0.0, 0.01)
STUDY_OF_FIVE = STUDY.replace("  rte: {}\n  mrpc: {}\n", "").replace("[default, instruct, inputoutput]", "[default]")
STUDY_OF_FOUR_RUNS = (
    WITH_RUNS.replace("[42, 43, 44]", "[42, 43, 44, 45]")
    .replace("  rte: {}\n  mrpc: {}\n  sciq: {}\n", "")
    .replace("[default, instruct, inputoutput]", "[default]")
    .replace("  qa_chat: {epochs: 5, lr: 1e-3}\n", "")
    .replace("suite: {tasks: [arc_easy, sciq, openbookqa, hellaswag, boolq], train_sets: [qa_chat]}\n", "")
)


def write_records(study_file):
    study = load_study(study_file)
    runs = list(dict.fromkeys(variant.checkpoint.run for variant in study.variants()))
    for variant in study.variants():
        index, identity = study.steps.index(variant.checkpoint.step), variant.identity()
        of_run = 1 + runs.index(variant.checkpoint.run) / 10
        noise = [
            {"size": size, "draw": d, "bits_per_byte": 2.0 + of_run * size * (1 + index) + deviation}
            for size in SIZES
            for d, deviation in enumerate(DRAWS)
        ]
        about = identity | {"eval_set": "heldout_text", "format": "default"}
        path = paths.perturbation_file("heldout_text", "default", variant.model_id)
        write_with_sidecar(path, {"identity": about, "n": 9, "bits_per_byte": 2.0, "noise": noise}, about)
        if variant.train_set:
            of_layers = (
                ("model.embed_tokens", 0.001),
                ("model.layers.0", of_run * 0.01 * (1 + index)),
                ("all", of_run * 0.01 * (1 + index)),
            )
            layers = [
                {"layer": name, "distance": 4 * share, "base_norm": 4.0, "num_weights": 7} for name, share in of_layers
            ]
            path = paths.weight_distance_file(variant.model_id)
            record = {"identity": identity, "layers": layers, "matrices": matrices(of_run * (1 + index))}
            write_with_sidecar(path, record, identity)
            path = paths.interpolation_file("heldout_text", "default", variant.model_id)
            points = [(0.0, 2.0), (0.5, 2.0 + of_run * (0.1 * (1 + index) - 0.5)), (1.0, 2.0 - of_run)]
            record = {"identity": about, "n": 9, "barrier": of_run * 0.1 * (1 + index)}
            record["points"] = [{"alpha": alpha, "bits_per_byte": loss} for alpha, loss in points]
            write_with_sidecar(path, record, about)


def matrices(size):
    """Updates of effective rank 4 and 8 times `size`, and one that is zero."""
    ranks = {"model.layers.0.mlp.up_proj": 4 * size, "model.layers.0.mlp.down_proj": 8 * size}
    found = [
        {"tensor": f"{name}.weight", "layer": "model.layers.0", "kind": name.removeprefix("model.layers.0.")}
        | {"shape": [64, 256], "rank": 64, "effective_rank": rank, "stable_rank": rank / 2}
        for name, rank in ranks.items()
    ]
    name = "model.embed_tokens"
    zero = {"tensor": f"{name}.weight", "layer": name, "kind": name, "shape": [300, 64]}
    return [zero | {"rank": 0, "effective_rank": None, "stable_rank": None}, *found]


@contextmanager
def results_with_records(base_dir, text):
    """Tables and findings of a simulated study with records of its weights, in `base_dir`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        study_file = write_study(base_dir, num_items=25, text=text)
        write_records(study_file)
        produce_tables.main(produce_tables.Args(study_file))
        findings.main(findings.Args(study_file))
        yield base_dir / "results" / "simulated"
