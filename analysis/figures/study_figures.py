"""The study's figures: title, grid of panels and caption of each; writing them as files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from analysis.figures.drawing import draw, save
from analysis.figures.grids import (
    base_models,
    cross_task,
    every_bits,
    every_score,
    heldout_text,
    instruction_suites,
    out_of_domain,
    own_task,
    task_format,
)
from analysis.figures.panels import Grid
from analysis.figures.paper_bars import learned_when, other_domains, transfer
from analysis.figures.replicate_curves import completed, interval_note, models_of
from analysis.figures.size_grid import gain_by_size, has_several_sizes
from analysis.figures.token_axis import Axis, on_axis
from analysis.figures.weight_grids import interpolation, noise_on_weights, update_rank, weight_distance
from analysis.tables.frames import Tables
from open_instruct.common.artifacts import Artifact


@dataclass(frozen=True)
class StudyFigure:
    title: str
    grid: Callable[[Tables], Grid]
    caption: str
    table: str = ""
    """Field of Tables without whose rows there is no such figure, since few studies measure it."""
    is_drawn: Callable[[Tables], bool] = lambda tables: True
    """Whether the tables have what it compares."""


FIGURES = {
    "fig2_base_models": StudyFigure(
        "Base models over pre-training",
        base_models,
        "Base models over checkpoints. A task is improving where the 95% interval at the last checkpoint is above that "
        "at the first. Lower bits per byte are better.",
    ),
    "fig3_own_task": StudyFigure(
        "In-domain performance before and after fine-tuning",
        own_task,
        "Base models and models fine-tuned on the task's train set, on its evaluation set. "
        "If pre-training has a latent benefit, the two curves diverge.",
    ),
    "fig3_bars": StudyFigure(
        "Tasks learned in fine-tuning and in pre-training",
        learned_when,
        "Fine-tuned minus base: mean over the paper's pairs of train and evaluation set in each group, SciQ counted "
        "twice as there; the numbers are in paper_means.csv.",
        table="paper_means",
    ),
    "fig4_suites": StudyFigure(
        "Ranked classification and instruction following",
        instruction_suites,
        "Base and instruction-tuned models on the ranked-classification suites and on instruction following.",
    ),
    "fig5_task_format": StudyFigure(
        "Sensitivity to the prompt format",
        task_format,
        "The same items in several prompt formats, and the variance of the score between formats, less its noise. "
        "Fine-tuning uses the default format only.",
    ),
    "fig6_cross_task": StudyFigure(
        "Cross-task transfer: fine-tuned minus base",
        cross_task,
        "Change by fine-tuning on tasks other than the one trained on. "
        "Above zero is a higher score, or higher bits per byte.",
    ),
    "fig6_bars": StudyFigure(
        "Transfer between kinds of tasks",
        transfer,
        "Fine-tuned minus base: mean over the paper's pairs that train on classification and evaluate generation, and "
        "the reverse; the numbers are in paper_means.csv.",
        table="paper_means",
    ),
    "fig7_out_of_domain": StudyFigure(
        "Out-of-domain generalisation: fine-tuned minus base",
        out_of_domain,
        "Change by fine-tuning on other data of the same task, a panel for each train set. "
        "Above zero is a higher score, or higher bits per byte.",
    ),
    "fig7_bars": StudyFigure(
        "Out of domain: mean changes",
        other_domains,
        "Fine-tuned minus base on other data of the same task: mean over the paper's pairs at each checkpoint, and for "
        "each family of tasks; the numbers are in paper_means.csv.",
        table="paper_means",
    ),
    "fig8_heldout_text": StudyFigure(
        "Held-out text before and after fine-tuning",
        heldout_text,
        "Bits per byte of held-out pre-training text before and after fine-tuning, and their difference. "
        "Above zero is forgetting.",
    ),
    "fig9_noise_on_weights": StudyFigure(
        "Sensitivity to weight noise",
        noise_on_weights,
        "Change of bits per byte under Gaussian noise on every weight, by noise size relative to each tensor's root "
        "mean square.",
        table="noise",
    ),
    "fig10_weight_distance": StudyFigure(
        "Weight change by fine-tuning, and the gain",
        weight_distance,
        "Norm of the change of each layer relative to its norm before. Below, the change on the task against it, a "
        "point for each checkpoint.",
        table="distances",
    ),
    "fig11_update_rank": StudyFigure(
        "Effective rank of the weight change",
        update_rank,
        "Effective rank of fine-tuned minus base, exp of the entropy of its singular values: mean over the matrices of "
        "each layer, and over the layers for each kind of matrix, of those that fine-tuning changed.",
        table="ranks",
    ),
    "fig12_interpolation": StudyFigure(
        "Loss between base and fine-tuned weights",
        interpolation,
        "Bits per byte on the line from base to fine-tuned weights, less those of the base. The barrier is the most by "
        "which they exceed the straight line between both ends.",
        table="interpolation",
    ),
    "fig13_gain_by_size": StudyFigure(
        "Gain by fine-tuning against size and tokens",
        gain_by_size,
        "Fine-tuned minus base on the task itself, over the tokens seen in pre-training: a curve for each size, the "
        "larger the lighter. Above zero is a higher score, or higher bits per byte. Step 0 and checkpoints whose "
        "tokens are not known, such as main, are left out.",
        is_drawn=has_several_sizes,
    ),
    "appendix_a_scores": StudyFigure(
        "Scores on every evaluation set, format and number of shots",
        every_score,
        "Primary metric of every model on every evaluation set, in every format.",
    ),
    "appendix_b_bits_per_byte": StudyFigure(
        "Bits per byte on every evaluation set and format",
        every_bits,
        "Bits per byte of the gold completion, for every model, evaluation set and format.",
    ),
}


def build_grids(tables: Tables) -> dict[str, Grid]:
    """Name -> panels of every figure that these tables, of one axis (on_axis), have rows for."""
    models = models_of(tables)
    return {
        name: completed(figure.grid(tables.pooled), models)
        for name, figure in FIGURES.items()
        if (not figure.table or len(getattr(tables, figure.table))) and figure.is_drawn(tables)
    }


def caption_of(name: str, grid: Grid) -> str:
    """What the figure shows, and over what its intervals are."""
    return f"{FIGURES[name].caption} {interval_note(grid)}".strip()


def write_figures(
    grids: Mapping[str, Grid], folder: Path, inputs: Mapping[str, Path], *, scale: str = "index", axis: str = "step"
) -> None:
    """Write every figure as PNG and PDF.  The grids are made of the tables of that axis (on_axis)."""
    written = []
    with Artifact(folder, arguments={"scale": scale, "axis": axis}, inputs=inputs).making_folder() as (made, _):
        for name, grid in grids.items():
            figure = draw(grid, title=FIGURES[name].title, note=interval_note(grid), scale=scale, axis=axis)
            written += save(figure, made / name)
    print(f"wrote {len(written)} files to {folder}")


def draw_figure(name: str, tables: Tables, *, scale: str = "index", axis: Axis = "auto") -> Figure:
    chosen, unit = on_axis(tables, axis)
    grid = completed(FIGURES[name].grid(chosen.pooled), models_of(chosen))
    return draw(grid, title=FIGURES[name].title, note=interval_note(grid), scale=scale, axis=unit)
