"""Folders whose captions stand in a list: metadata.jsonl and its kind."""

import json
from pathlib import Path

import pytest

from data.sources.folders import fill, names, opened, reasons, save_picture
from pochade.errors import PochadeError


def test_metadata(tmp_path: Path):
    fill(tmp_path, 2)
    save_picture(tmp_path / "sub" / "a.png")
    rows = [
        {"file_name": "sub/a.png", "text": ["a house", "a hut"]},
        {"file_name": "p000.png", "text": "something else", "more": 1},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    data = opened(tmp_path)
    assert [(data.item(i).name, data.item(i).captions) for i in range(len(data))] == [
        ("sub/a.png", ("a house", "a hut")),
        ("p000.png", ("something else",)),
    ]


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "a/../../b.png", "..\\b.png"])
def test_metadata_must_not_leave_the_folder(tmp_path: Path, name):
    save_picture(tmp_path / "outside.png")
    folder = fill(tmp_path / "in", 2)
    (folder / "metadata.jsonl").write_text(
        json.dumps({"file_name": "p000.png", "text": "x"}) + "\n" + json.dumps({"file_name": name, "text": "x"})
    )
    with pytest.raises(PochadeError, match=r"metadata.jsonl line 2.*leaves the folder"):
        opened(folder)
    assert not (folder / ".pochade").exists()


def test_bad_metadata_lines_are_named(tmp_path: Path):
    folder = fill(tmp_path, 4)
    lines = [json.dumps({"file_name": f"p{i:03d}.png", "text": f"caption {i}"}) for i in range(4)]
    lines += [
        "{not json",
        '{"text": "no name"}',
        '{"file_name": 3, "text": "x"}',
        '{"file_name": "p000.png", "text": 4}',
    ]
    lines += [
        "[]",
        lines[0],
        '{"file_name": "absent.png", "text": "x"}',
        '{"file_name": "p001.png", "text": " "}',
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    data = opened(folder, max_skipped=1.0)
    assert len(data) == 4
    assert data.report.skipped_count == 8
    by_reason = data.report.to_dict()["skipped_by_reason"]
    assert by_reason == {"unreadable entry": 5, "listed twice": 2, "missing file": 1}


def listed(folder: Path, rows: list[dict[str, object]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_lists_in_subfolders_are_read_and_their_names_are_splits(tmp_path: Path):
    for side, count in (("train", 12), ("test", 5), ("validation", 3)):
        for i in range(count):
            save_picture(tmp_path / side / f"{i}.png")
        listed(tmp_path / side, [{"file_name": f"{i}.png", "text": f"{side} {i}"} for i in range(count)])
    assert len(opened(tmp_path, "train")) == 12
    held_out = opened(tmp_path, "held_out")
    assert len(held_out) == 8
    assert {held_out.item(i).split for i in range(8)} == {"held_out"}
    assert held_out.item(0).captions == ("test 0",)
    assert not held_out.classes
    assert len(opened(tmp_path)) == 20


def test_one_subfolder_alone_is_no_split(tmp_path: Path):
    for i in range(40):
        save_picture(tmp_path / "train" / f"{i}.png")
    listed(tmp_path / "train", [{"file_name": f"{i}.png", "text": f"picture {i}"} for i in range(40)])
    assert 0 < len(opened(tmp_path, "held_out")) < 20


def test_facts_of_a_list_are_kept(tmp_path: Path):
    for i in range(6):
        save_picture(tmp_path / f"{i}.png", (i, 0, 0))
    rows: list[dict[str, object]] = [
        {"file_name": "0.png", "text": ["a cup", "cup"], "group": "cups", "split": "held_out", "licence": "CC0-1.0"},
        {"file_name": "1.png", "text": "a red cup", "group": "cups", "split": "test"},
        {"file_name": "2.png", "caption": "a pot", "split": "train", "license": "MIT"},
        {"file_name": "3.png", "prompt": "a pan"},
        {"file_name": "4.png", "text": "a lid", "split": " "},
    ]
    listed(tmp_path, rows)
    data = opened(tmp_path)
    items = [data.item(i) for i in range(5)]
    assert [item.captions[0] for item in items] == ["a cup", "a red cup", "a pot", "a pan", "a lid"]
    assert [item.group for item in items] == ["cups", "cups", "a pot", "a pan", "a lid"]
    assert [item.split for item in items[:3]] == ["held_out", "held_out", "train"]
    assert [item.licence for item in items[:3]] == ["CC0-1.0", None, "MIT"]
    assert data.report.to_dict()["notes"]["picture that the list of its folder does not name"]["names"] == ["5.png"]
    assert data.groups()["cups"] == [0, 1]


def test_a_split_that_is_missing_in_a_table_is_none(tmp_path: Path):
    lines: list[str] = []
    for number, split in enumerate(("NaN", "null", '""')):
        save_picture(tmp_path / f"{number}.png", (number, 0, 0))
        lines.append(f'{{"file_name": "{number}.png", "text": "thing {number}", "split": {split}}}')
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert len(opened(tmp_path, "all")) == 3


@pytest.mark.parametrize("form", ["jsonl", "csv", "json", "parquet"])
def test_a_stored_split_always_counts(tmp_path: Path, form: str):
    named = {"Test": 6, " EVAL ": 5, "dev": 4, "valid": 3, "Train": 8, "training": 2, "": 0}
    rows: list[dict[str, object]] = []
    for split, count in named.items():
        for number in range(count):
            save_picture(tmp_path / f"{len(rows)}.png", (len(rows), 0, 0))
            rows.append({"file_name": f"{len(rows)}.png", "text": f"{split.strip()} {number}", "split": split})
    write_list(tmp_path, form, rows)
    assert (len(opened(tmp_path, "train")), len(opened(tmp_path, "held_out"))) == (10, 18)
    write_list(tmp_path, form, [*rows[:3], {**rows[3], "split": "Tset"}])
    with pytest.raises(
        PochadeError, match=rf"metadata\.{form} \w+ \d: split 'Tset' given, allowed are train, .*or none$"
    ):
        opened(tmp_path)


def write_list(folder: Path, form: str, rows: list[dict[str, object]]) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.Table.from_pylist(rows), folder / "metadata.parquet")
    elif form == "csv":
        lines = ["file_name,text,split", *(",".join(map(str, row.values())) for row in rows)]
        (folder / "metadata.csv").write_text("\n".join(lines))
    elif form == "json":
        (folder / "metadata.json").write_text(json.dumps(rows))
    else:
        listed(folder, rows)


def test_folders_of_a_split_in_capitals_are_its_sides(tmp_path: Path):
    for side, count in (("Train", 6), ("Test", 5), ("dev", 4)):
        for number in range(count):
            save_picture(tmp_path / side / f"{number}.png", (number, 0, 0))
            (tmp_path / side / f"{number}.txt").write_text(f"{side} {number}")
    assert (len(opened(tmp_path, "train")), len(opened(tmp_path, "held_out"))) == (6, 9)


ROWS = [{"file_name": f"p{i:03d}.png", "text": f"a plate {i}"} for i in range(5)]


def renamed(**names: str) -> list[dict[str, str]]:
    return [{names.get(key, key): value for key, value in row.items()} for row in ROWS]


def table(rows: list[dict[str, str]], separator: str = ",") -> str:
    return "".join(
        separator.join(f'"{value}"' for value in row) + "\n" for row in ([*rows[0]], *(r.values() for r in rows))
    )


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("metadata.jsonl", "".join(json.dumps(row) + "\n" for row in renamed(text="caption")), "caption"),
        (
            "metadata.jsonl",
            "".join(json.dumps(row) + "\n" for row in renamed(text="prompt", file_name="image")),
            "prompt",
        ),
        ("Metadata.JSONL", "".join(json.dumps(row) + "\n" for row in renamed(text="Caption")), "caption"),
        ("metadata.json", json.dumps(ROWS), "text"),
        ("metadata.json", json.dumps({row["file_name"]: row["text"] for row in ROWS}), "text"),
        ("metadata.json", json.dumps({row["file_name"]: {"caption": row["text"]} for row in ROWS}), "caption"),
        ("metadata.jsonl", json.dumps(ROWS), "text"),
        ("metadata.jsonl", "\n" + json.dumps(ROWS, indent=1), "text"),
        ("metadata.jsonl", json.dumps({row["file_name"]: row["text"] for row in ROWS}, indent=1), "text"),
        ("metadata.json", "".join(json.dumps(row) + "\n" for row in ROWS), "text"),
        ("metadata.csv", table(ROWS), "text"),
        ("METADATA.csv", table(renamed(text="Prompt", file_name="filename"), ";"), "prompt"),
        ("metadata.csv", "\ufeff" + table(ROWS, "\t").replace("plate 3", "plate\n3"), "text"),
    ],
)
def test_the_usual_forms_of_lists_are_read(tmp_path: Path, name: str, content: str, key: str):
    fill(tmp_path, 5)
    (tmp_path / name).write_text(content)
    data = opened(tmp_path)
    assert [data.item(i).captions for i in range(5)] == [(f"a plate {i}",) for i in range(5)]
    assert data.report.captions == {f"{name} ({key})": 5}
    assert f"captions from {name} ({key}) (5)" in data.report.summary()


def test_a_list_may_be_parquet(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    fill(tmp_path, 5)
    rows = [{**row, "bytes": b"x" * 100} for row in renamed(text="Caption")]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    data = opened(tmp_path)
    assert [data.item(i).captions for i in range(5)] == [(f"a plate {i}",) for i in range(5)]
    parquet.write_table(pyarrow.Table.from_pylist([{"picture": "a", "words": "b"}]), tmp_path / "metadata.parquet")
    with pytest.raises(
        PochadeError, match=r"parquet: no entry can be used: its keys are picture, words; expected are f"
    ):
        opened(tmp_path)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(PochadeError, match=r"metadata.parquet: cannot be read as a list \("):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "metadata.jsonl",
            '{"file_name": "p000.png", "description": "x"}\n',
            "its keys are file_name, description; expected",
        ),
        (
            "metadata.csv",
            "p000.png,a plate\np001.png,a plate\n",
            "its keys are p000.png, a plate; expected are file_name",
        ),
        ("metadata.csv", "", "an empty list"),
        ("metadata.json", "[]", "an empty list"),
        ("metadata.json", '{"file_name": ', "cannot be read as a list"),
        ("metadata.json", '[\n{"file_name": "p000.png", "text": "x"},\n', "cannot be read as a list"),
        ("metadata.jsonl", "[]", "an empty list"),
        ("metadata.jsonl", "p000.png a plate\n", "no entry can be used: JSONDecodeError"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(tmp_path: Path, name: str, content: str, reason: str):
    save_picture(tmp_path / "p000.png")
    (tmp_path / name).write_text(content)
    with pytest.raises(PochadeError, match=rf"{name}: .*{reason}"):
        opened(tmp_path)


def test_a_caption_with_commas_and_no_quotes_is_no_caption(tmp_path: Path):
    fill(tmp_path, 3)
    (tmp_path / "metadata.csv").write_text("file_name,text\np000.png,a dog, sitting\np001.png,a cat\np002.png,\n")
    data = opened(tmp_path, max_skipped=1)
    assert names(data) == ["p001.png"]
    assert reasons(data) == {"metadata.csv line 2": "unreadable entry", "p002.png": "empty caption"}
    assert "' sitting' is beyond its columns" in data.report.skipped[0]["detail"]


def test_a_json_that_lists_no_pictures_is_no_list(tmp_path: Path):
    fill(tmp_path, 3)
    (tmp_path / "metadata.json").write_text(json.dumps({"name": "plates", "version": 1}))
    data = opened(tmp_path)
    assert data.report.captions == {".txt files": 3}
    assert list(data.report.notes) == ["file that is no picture, caption or list"]


def test_names_in_another_spelling_are_found_and_noted(tmp_path: Path):
    for name in ("Fox 1.PNG", "owl.png", "elk.png", "hare.png", "hare.jpg"):
        save_picture(tmp_path / name)
    given = ["fox 1.png", "owl", "Elk.png", "sub\\none.png", "HARE"]
    listed(tmp_path, [{"file_name": name, "text": name} for name in given])
    data = opened(tmp_path, max_skipped=1)
    assert names(data) == ["Fox 1.PNG", "owl.png", "elk.png"]
    assert reasons(data) == {"sub/none.png": "missing file", "HARE": "missing file"}  # there are two hares
    spelled = data.report.to_dict()["notes"]["found by a name in another spelling"]
    assert spelled["names"] == ["Fox 1.PNG", "owl.png", "elk.png"]


def test_a_list_and_captions_beside_pictures_go_together(tmp_path: Path):
    fill(tmp_path / "mine", 3)
    save_picture(tmp_path / "listed" / "a.png")
    listed(tmp_path / "listed", [{"file_name": "a.png", "text": "a plate"}])
    assert names(opened(tmp_path)) == ["listed/a.png", "mine/p000.png", "mine/p001.png", "mine/p002.png"]


def test_lists_below_are_read_and_no_folder_is_a_class(tmp_path: Path):
    for side in ("train", "test"):
        for i in range(12):
            save_picture(tmp_path / side / f"{i}.png", (i, 0, 0))
        listed(tmp_path / side, [{"file_name": f"{i}.png", "text": f"{side} plate {i}"} for i in range(12)])
    data = opened(tmp_path)
    assert (len(data), data.classes) == (24, ())
    assert {(data.item(i).captions[0].split()[0], data.item(i).split) for i in range(24)} == {
        ("train", "train"),
        ("test", "held_out"),
    }
