"""Names to folders."""

import hashlib
from pathlib import Path

import pytest

from pochade.errors import FailureError, PochadeError
from pochade.pipelines import hub


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hub, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setattr(hub, "BESIDE", tmp_path / "beside")
    for place, name in (
        ("checkpoints", hub.DEFAULT_MODEL),
        ("checkpoints", "lrf-openmoji"),
        ("beside", "iris-openmoji"),
    ):
        folder = tmp_path / place / name
        folder.mkdir(parents=True)
        (folder / hub.INDEX).write_text("{}")
    (tmp_path / "checkpoints/unfinished").mkdir()
    return tmp_path


def test_shipped_names(shelf: Path) -> None:
    assert list(hub.shipped()) == ["iris-openmoji", "lrf-openmoji", hub.DEFAULT_MODEL]
    assert hub.resolve(hub.DEFAULT_MODEL) == shelf / "checkpoints" / hub.DEFAULT_MODEL
    assert hub.resolve("iris-openmoji") == shelf / "beside/iris-openmoji"
    with pytest.raises(PochadeError, match=r"neither a shipped model \(iris-.*did you mean 'lrf-openmoji'"):
        hub.resolve("lrf-openmojy")
    with pytest.raises(PochadeError, match="model: '' given, allowed is a name or a path"):
        hub.resolve("")


def test_folders(shelf: Path) -> None:
    assert hub.resolve(shelf / "checkpoints/lrf-openmoji") == shelf / "checkpoints/lrf-openmoji"
    with pytest.raises(PochadeError, match=r"holds no model_index\.json"):
        hub.resolve(shelf)
    (shelf / "file").touch()
    with pytest.raises(PochadeError, match="is a file, allowed is the folder"):
        hub.resolve(shelf / "file")


def test_no_checkpoints_at_all(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "CHECKPOINTS", shelf / "nowhere")
    monkeypatch.setattr(hub, "BESIDE", shelf / "nowhere either")
    assert hub.shipped() == {}


def test_hub_out_of_reach_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FailureError, match="'someone/model' is no folder here, and could not be fetched") as error:
        hub.resolve("someone/model", local_files_only=True, cache_dir=tmp_path)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1


def test_hub_cache_is_used_offline(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    with pytest.raises(PochadeError, match=r"'someone/model' on the hub holds no model_index\.json"):
        hub.resolve("someone/model", local_files_only=True, cache_dir=tmp_path)
    (snapshot / hub.INDEX).write_text("{}")
    assert hub.resolve("someone/model", local_files_only=True, cache_dir=tmp_path) == snapshot


def test_sha256_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    files = {
        "model_index.json": b'{"part": ["a", "B"], "none": [null, null]}',
        "part/config.json": b"{}",
        "part/x.safetensors": b"1",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    lines = "".join(f"{hashlib.sha256(files[n]).hexdigest()}  {n}\n" for n in sorted(files))
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert hub.model_sha256(tmp_path) == expected
    (tmp_path / "README.md").write_text("a card changes nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{}")
    assert hub.model_sha256(tmp_path) == expected
    (tmp_path / "part/x.safetensors").write_bytes(b"2")
    assert hub.model_sha256(tmp_path) != expected


@pytest.mark.parametrize("text", ["[]", '{"part": ["a"]}', '{"../part": ["a", "b"]}', "nonsense", '"'])
def test_bad_index(tmp_path: Path, text: str) -> None:
    (tmp_path / hub.INDEX).write_text(text)
    with pytest.raises(PochadeError, match=r"model_index\.json"):
        hub.component_classes(tmp_path)


def test_a_checkpoint_that_a_training_deleted_is_told_from_a_wrong_name(tmp_path: Path) -> None:
    (tmp_path / "run" / "1-flow").mkdir(parents=True)
    with pytest.raises(PochadeError, match=r"checkpoint-00000160/model' is not there: .* allowed is '.*run/1-flow'"):
        hub.resolve(tmp_path / "run" / "1-flow" / "checkpoint-00000160" / "model")


def test_a_checkpoint_that_is_deleted_while_a_command_starts_gives_way_to_the_newest(tmp_path: Path) -> None:
    for step in (10, 20):
        folder = tmp_path / "1-flow" / f"checkpoint-{step:08d}" / "model"
        folder.mkdir(parents=True)
        (folder / hub.INDEX).write_text("{}")
    with pytest.warns(hub.UnfinishedWarning, match="of step 20"):
        chosen = hub.resolve(tmp_path)
    assert hub.current(chosen) == chosen
    (tmp_path / "1-flow" / "checkpoint-00000020").rename(tmp_path / "1-flow" / "checkpoint-00000030")
    with pytest.warns(hub.UnfinishedWarning, match="of step 30"):
        assert hub.current(chosen) == tmp_path / "1-flow" / "checkpoint-00000030" / "model"
