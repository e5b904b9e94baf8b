import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from reelscan.pretrain.annotations import CaptionedVideo, path_below_root, read_annotations

DOGS = [
    CaptionedVideo(video="a.mp4", captions=("a dog", "a dog, running")),
    CaptionedVideo(video="deep/b.mp4", captions=("ein Hund läuft",)),
]
LISTS = [
    {"video": "a.mp4", "caption": ["a dog", "a dog, running"]},
    {"video": "deep/b.mp4", "caption": "ein Hund läuft"},
]
ROWS = [("a.mp4", "a dog"), ("deep/b.mp4", "ein Hund läuft"), ("a.mp4", "a dog, running")]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def dogs_in(kind: str, folder: Path) -> Path:
    path = folder / f"annotations.{kind}"
    if kind == "csv":
        return write(
            path, 'video,caption\na.mp4,a dog\ndeep/b.mp4,ein Hund läuft\na.mp4,"a dog, running"\n'
        )
    if kind == "tsv":
        return write(path, "path\ttext\n" + "".join("\t".join(row) + "\n" for row in ROWS))
    if kind == "json":
        return write(path, json.dumps(LISTS))
    if kind == "jsonl":
        return write(path, "\n".join(json.dumps(row) for row in LISTS) + "\n\n")
    table = pa.table({"Video": [v for v, _ in ROWS], "sentence": [c for _, c in ROWS]})
    parquet.write_table(table, path)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_videos(kind: str, tmp_path: Path) -> None:
    assert read_annotations(dogs_in(kind, tmp_path), root=tmp_path) == DOGS


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl"])
def test_byte_order_mark_and_windows_line_ends(kind: str, tmp_path: Path) -> None:
    path = dogs_in(kind, tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_annotations(path, root=tmp_path) == DOGS


def test_parquet_lists(tmp_path: Path) -> None:
    table = pa.table({"video": ["a.mp4", "b.mp4"], "captions": [["x", "y"], ["z"]]})
    parquet.write_table(table, tmp_path / "t.parquet")
    videos = read_annotations(tmp_path / "t.parquet", root=tmp_path)
    assert [video.captions for video in videos] == [("x", "y"), ("z",)]


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ('"[""a dog"", ""it\'s""]"', ("a dog", "it's")),
        ("\"['a dog', 'it runs']\"", ("a dog", "it runs")),
        ("[music] plays", ("[music] plays",)),
        ("[music]", ("[music]",)),
        ('"one\u2028line"', ("one\u2028line",)),
        ('"two\nlines"', ("two\nlines",)),
        ("  spaces  ", ("spaces",)),
    ],
)
def test_csv_cells(cell: str, captions: tuple[str, ...], tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"file,caption\na.mp4,{cell}\n")
    assert read_annotations(path, root=tmp_path)[0].captions == captions


def test_a_line_separator_inside_a_json_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"video": "a.mp4", "caption": "one\u2028line"}\n')
    assert read_annotations(path, root=tmp_path)[0].captions == ("one\u2028line",)


def test_repeated_captions_stay(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "video,caption\na.mp4,x\na.mp4,x\n")
    assert read_annotations(path, root=tmp_path)[0].captions == ("x", "x")


def test_different_spellings_of_a_path_are_one_video(tmp_path: Path) -> None:
    rows = f"video,caption\na/b.mp4,1\n./a//b.mp4,2\na/../a/b.mp4,3\n{tmp_path}/a/b.mp4,4\n"
    path = write(tmp_path / "a.csv", rows)
    assert read_annotations(path, root=tmp_path) == [
        CaptionedVideo(video="a/b.mp4", captions=("1", "2", "3", "4"))
    ]


@pytest.mark.parametrize(
    "video",
    [
        "../a.mp4",
        "a/../../b.mp4",
        "/etc/passwd",
        ".",
        "a/..",
        "https://x.org/a.mp4",
        "a\x00.mp4",
        "a\n.mp4",
    ],
)
def test_paths_that_lead_outside_or_nowhere(video: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps([{"video": video, "caption": "x"}]))
    with pytest.raises(ValueError, match="row 1: "):
        read_annotations(path, root=tmp_path)


def test_a_sibling_folder_with_the_same_start_is_outside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(ValueError, match="not below the root"):
        path_below_root("../rooted/a.mp4", tmp_path / "root")


def test_unusual_but_good_names(tmp_path: Path) -> None:
    for name in ("..a.mp4", "犬 走る\u3000.mp4", "a b#?{1..2}.mp4", "-a.mp4"):
        assert path_below_root(name, tmp_path) == name


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"video": "a.mp4"}, "no caption"),
        ({"caption": "x"}, "no video"),
        ({"video": "a.mp4", "caption": None}, "no caption"),
        ({"video": "a.mp4", "caption": " "}, "caption is empty"),
        ({"video": "a.mp4", "caption": []}, "empty list"),
        ({"video": "a.mp4", "caption": ["x", ""]}, "caption 2 is empty"),
        ({"video": "a.mp4", "caption": ["x", 3]}, "caption 2 is int"),
        ({"video": "a.mp4", "caption": {"en": "x"}}, "caption is dict"),
        ({"video": 7, "caption": "x"}, "video is int '7'"),
        ({"video": "", "caption": "x"}, "video is empty"),
        ({"video": "a.mp4", "caption": "\ud800"}, "half a character"),
    ],
)
def test_bad_rows_are_named(row: dict[str, object], reason: str, tmp_path: Path) -> None:
    rows = [{"video": "good.mp4", "caption": "x"}, row]
    path = write(tmp_path / "a.json", json.dumps(rows))
    with pytest.raises(ValueError, match=rf"1 of 2 rows are bad\. row 2: .*{reason}"):
        read_annotations(path, root=tmp_path)


def test_many_bad_rows_make_one_short_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "video,caption\n" + "a.mp4,\n" * 100)
    with pytest.raises(
        ValueError, match=r"100 of 100 rows are bad\. line 2: .*and 95 more"
    ) as raised:
        read_annotations(path, root=tmp_path)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "video,caption\na.mp4,a dog, running\n", "line 2: 3 cells, but the header has 2"),
        ("a.csv", 'video,caption\na.mp4,"a dog\n', "line 2: unexpected end of data"),
        ("a.csv", "video,video,caption\na,b,c\n", "appears twice"),
        ("a.csv", "video,caption\n", "holds no rows"),
        ("a.csv", "", "holds no rows"),
        ("a.csv", "video,caption\na.mp4,\"['a', b()]\"\n", "line 2: .*not JSON"),
        ("a.json", "{", "is not JSON"),
        ("a.json", '{"video": "a.mp4", "caption": "x"}', "must hold a list of objects"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.json", '["a.mp4"]', "row 1: str 'a.mp4'"),
        ("a.jsonl", '{"video": "a.mp4", "caption": "x"}\n{"video"', "line 2 is not JSON"),
        ("a.parquet", "PAR1 no", "not a readable parquet file"),
        ("a.xlsx", "", "must end in one of .csv"),
    ],
)
def test_unreadable_files(name: str, text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        read_annotations(write(tmp_path / name, text), root=tmp_path)


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "video,caption\na.mp4,läuft\n", encoding="latin-1")
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_annotations(path, root=tmp_path)


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "video,clip,caption,note\nv.mp4,c.mp4,x,y\n")
    read = read_annotations(path, root=tmp_path, video_column="clip", caption_column="note")
    assert read == [CaptionedVideo(video="c.mp4", captions=("y",))]


def test_wrong_columns_list_the_right_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "vidoe,captoin,id\na.mp4,x,1\n")
    with pytest.raises(ValueError, match=r"'vidoe', 'captoin', 'id'; did you mean 'vidoe'\?"):
        read_annotations(path, root=tmp_path)
    with pytest.raises(ValueError, match=r"no column 'captions'.*did you mean 'captoin'\?"):
        read_annotations(path, root=tmp_path, video_column="vidoe", caption_column="captions")


def test_two_likely_columns_are_not_guessed_between(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "video,caption,text\na.mp4,x,y\n")
    with pytest.raises(ValueError, match="'caption' and 'text' could each be the caption column"):
        read_annotations(path, root=tmp_path)


def test_root_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        read_annotations(dogs_in("csv", tmp_path), root=tmp_path / "nowhere")


def test_a_group_column_is_kept(tmp_path: Path) -> None:
    rows = [
        {"video": "a.mp4", "caption": "up", "group": "twins"},
        {"video": "b.mp4", "caption": "down", "group": "twins"},
        {"video": "c.mp4", "caption": "still"},
    ]
    path = write(tmp_path / "a.json", json.dumps(rows))
    videos = read_annotations(path, root=tmp_path)
    assert [video.group for video in videos] == ["twins", "twins", None]
