"""The stores that the paper's study reads, on this machine: a Hub, and a web server with OLMo-1B's checkpoints.

The Hub has small copies of all data sets at their pinned revisions, the rows of the suite's tasks, a model that the
authors published, and a revision of a later OLMo. The server has a random checkpoint in OLMo's format where the shipped
list of OLMo-1B's says it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import toy_datasets
from loopback_hub import LoopbackHub
from loopback_store import LoopbackStore
from native_downloads import folder_of
from toy_models import toy_native_olmo, toy_olmo

from olmo_eval.ranked_task import RankedTask
from olmo_eval.rows import parts
from olmo_eval.tasks import TASKS
from open_instruct.checkpoints import families
from open_instruct.checkpoints.families import family_named
from open_instruct.data import sources
from open_instruct.tasks.declarations import Split
from open_instruct.tasks.instruction import LLMBAR_ROWS

STEP = 1000
PUBLISHED = f"olmo1b_hf_ckpt{STEP}_xsum_3epoch_2e-7"


@contextmanager
def paper_stores(base_dir: Path, *, suite_tasks: tuple[str, ...]) -> Iterator[None]:
    """Let commands in this process find the stores, and LLMBar's files in data_dir, with this base_dir."""
    with pytest.MonkeyPatch.context() as patch, LoopbackHub() as hub, checkpoint_store(base_dir) as store:
        patch.setenv("base_dir", str(base_dir))
        patch.delenv("data_dir", raising=False)
        patch.setattr(families, "BUILT_IN", on_host(store.url, base_dir / "families"))
        sources.hub_files.cache_clear()
        hub.point_clients_here(patch, base_dir / "cache")
        toy_datasets.fill_hub(hub)
        for name in suite_tasks:
            for split, num_rows in splits_of(TASKS[name]):
                toy_datasets.add_split(hub, split, num_rows)
        publish(hub, base_dir / "published")
        hub.add("model", "allenai/OLMo-1.7-7B-hf", {"config.json": "{}"}, ref=f"step{STEP}-tokens4B")
        toy_datasets.fill_llmbar(base_dir / "data" / "llmbar", LLMBAR_ROWS)
        yield


def checkpoint_store(folder: Path) -> LoopbackStore:
    """A store with OLMo-1B's first checkpoint: its vocabulary and context, two layers with random weights."""
    sizes = {"vocab_size": 50280, "embedding_size": 50304, "max_sequence_length": 2048, "d_model": 16}
    toy_native_olmo(folder / "native", **sizes)
    names = ("config.yaml", "model.pt")
    return LoopbackStore({f"{folder_of(STEP)}/{name}": (folder / "native" / name).read_bytes() for name in names})


def on_host(url: str, folder: Path) -> Path:
    """The shipped families and OLMo-1B's list of checkpoints, with another host."""
    folder.mkdir()
    for name in ("families.yaml", "OLMo-1B.csv"):
        shipped = families.BUILT_IN.with_name(name).read_text()
        (folder / name).write_text(shipped.replace("https://olmo-checkpoints.org", url))
    return folder / "families.yaml"


def splits_of(task: RankedTask) -> Iterator[tuple[Split, int]]:
    """Evaluated rows, of the real number, and rows for exemplars."""
    for one in [TASKS[f"mmlu_{subject}"] for subject in task.subjects] or [task]:
        (evaluated,), (exemplars,) = parts(one, "validation"), parts(one, one.exemplar_split or "train")
        yield evaluated, one.rows.num_rows
        yield exemplars, toy_datasets.NUM_ROWS


def publish(hub: LoopbackHub, folder: Path) -> None:
    store = family_named("olmo1b").fine_tuned
    assert store is not None
    toy_olmo(folder, max_position_embeddings=2048)
    hub.add("model", store.hub, {path.name: path for path in folder.iterdir()}, ref=PUBLISHED)
