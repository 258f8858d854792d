"""Clusters that do not answer, that were started for a call, or that see other folders."""

import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from cli.run import cli
from data.prepare.test_curate import write
from pochade.data.prepare.executors import check_gpus, check_mark, check_seen, each_piece
from pochade.errors import FailureError, PochadeError


@pytest.mark.parametrize(
    ("address", "error", "code"),
    [
        ("nowhere", "'nowhere' given, allowed are HOST:PORT, ray://HOST:PORT, auto and local", 2),
        ("localhost:99999", "'localhost:99999' given, allowed are HOST:PORT, ray://HOST:PORT, auto and local", 2),
        ("127.0.0.1:PORT", "'127.0.0.1:PORT' given, but no cluster answers there (", 1),
        ("ray://127.0.0.1:PORT", "'ray://127.0.0.1:PORT' given, but no cluster answers there (", 1),
    ],
)
def test_a_cluster_that_does_not_answer_is_found_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    address: str,
    error: str,
    code: int,
) -> None:
    library, data = ModuleType("ray"), ModuleType("ray.data")
    vars(library).update(data=data, is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", library)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    write(tmp_path / "in", 1, 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # which takes no connections
        port = str(free.getsockname()[1])
        monkeypatch.setenv("RAY_ADDRESS", address.replace("PORT", port))
        given = ["data", "prepare", "folder", "--path", str(tmp_path / "in"), str(tmp_path / "out"), "--on", "ray"]
        said = cli(capsys, *given, code=code).error
        assert said.startswith(f"error: RAY_ADDRESS: {error if code == 2 else error.replace('PORT', port)}")
        assert [path.name for path in tmp_path.iterdir()] == ["in"]
        with pytest.raises(PochadeError, match="out: s3://bucket/out given with --on ray and RAY_ADDRESS"):
            check_seen("ray", {"path": tmp_path / "in", "out": Path("s3://bucket/out")})


@pytest.mark.parametrize("theirs", ["", "notebook"])
def test_ctrl_c_ends_the_cluster_that_was_started_for_it_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, theirs: str
) -> None:
    namespace, ended = [theirs] if theirs else [], list[bool]()

    def interrupted() -> None:
        raise KeyboardInterrupt

    library, data = ModuleType("ray"), ModuleType("ray.data")
    pieces = SimpleNamespace(iter_rows=interrupted)
    vars(data).update(
        range=lambda *_, **__: SimpleNamespace(map=lambda *_, **__: pieces),
        DataContext=SimpleNamespace(get_current=SimpleNamespace),
    )
    vars(library).update(
        data=data,
        is_initialized=lambda: bool(namespace),
        init=lambda **options: namespace.append(options["namespace"]),
        get_runtime_context=lambda: SimpleNamespace(namespace=namespace[0]),
        shutdown=lambda: ended.append(True),
    )
    monkeypatch.setitem(sys.modules, "ray", library)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    for _ in range(2):  # the second call finds the cluster of the first
        with pytest.raises(KeyboardInterrupt):
            list(each_piece(lambda _: 0, 3, "ray", tmp_path))
    assert ended == ([] if theirs else [True, True])
    assert not list(tmp_path.iterdir())


def test_gpus_that_are_not_there_are_refused_or_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0, "GPU": 1.0})
    check_gpus(cluster, 0)
    check_gpus(cluster, 0.5)
    with pytest.raises(PochadeError, match=r"^gpus: 2 given for each piece, the cluster has 1, allowed is at most 1$"):
        check_gpus(cluster, 2)
    with pytest.raises(PochadeError, match=r"^gpus: 1 given .* the cluster has 0, allowed is 0$"):
        check_gpus(SimpleNamespace(cluster_resources=dict), 1)
    assert not capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    check_gpus(cluster, 2)
    assert capsys.readouterr().err.endswith("the cluster has 1; the work begins when it has them\n")


def test_a_machine_that_has_another_folder_of_that_name_does_no_work(tmp_path: Path) -> None:
    check_mark(tmp_path)
    with pytest.raises(FailureError, match=r"^on: .* is not the folder of that name on .* under one path"):
        check_mark(tmp_path / "elsewhere")
