"""What table formats share: strict CSV, pictures found by name, official lists, and readers' boxes made one."""

from __future__ import annotations

import gzip
import itertools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.official import read_names, split_of
from medclm.corpus.sources.picture_files import PictureFiles, walk_files
from medclm.corpus.sources.readers import MIN_IOU, fuse, iou
from medclm.corpus.sources.tables import read_table
from medclm.corpus.sources.vocabulary import check_declared, in_doubt, of_dataset, person
from medclm.draws import generator
from medclm.types import Box
from tests.source_files import options, picture


def table(root: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = root / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        "a,b,c\n1,x y,\n2,z,nan\n",
        "a;b;c\r\n1;x y;\r\n2;z;NaN\r\n",
        "a\tb\tc\n\n1\tx y\t\n2\tz\tnull\n\n",
        '"a","b","c"\n"1","x y",""\n"2","z",""',
        "\ufeffa,b,c,,\n1,x y,,,\n2,z,\n",
    ],
)
def test_delimiters_marks_and_blank_cells(tmp_path: Path, content: str) -> None:
    found = read_table(table(tmp_path, content), ("a", "b"), ("c", "d"))
    assert [(row["a"], row["b"], row["c"], row["d"], row.number) for row in found.rows] == [
        ("1", "x y", "", "", 0),
        ("2", "z", "", "", 1),
    ]
    assert found.columns == {"a", "b", "c"}


def test_other_encodings_with_a_mark_and_packed_files_are_read(tmp_path: Path) -> None:
    text = "a,b\n1,é\n"
    for name, content in (("t.csv", text.encode("utf-16")), ("t.csv.gz", gzip.compress(text.encode()))):
        assert read_table(table(tmp_path, content, name), ("b",)).rows[0]["b"] == "é"


def test_a_quoted_line_break_keeps_later_line_numbers_true(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, 'a,b\n"1\n2",x\n3,y\n'), ("a", "b"))
    assert [(row.line, row["a"]) for row in found.rows] == [(2, "1\n2"), (4, "3")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", r"t\.csv: empty: give a table with the columns image, x"),
        (" \n\n", r"t\.csv: empty"),
        ("Image,x\n1,2\n", r"t\.csv:1: no column image: did you mean Image\?"),
        ("foo,bar\n1,2\n", r"t\.csv:1: no column image: there are foo, bar"),
        ("image,x,x\n1,2,3\n", r"t\.csv:1: column x stands 2 times"),
        ("image,x\n1,2\n3\n", r"t\.csv:3: 1 cells under a header of 2"),
        ("image,x\n1,2,3\n", r"t\.csv:2: 3 cells under a header of 2: quote cells that hold a ','"),
        ('image,x\n1,"2\n', r"t\.csv:\d: unexpected end of data: close the quotes"),
        ('image,x\n1,"2"3\n', r"t\.csv:\d: .*: close the quotes"),
        ("image,x\n1," + "9" * 200_000 + "\n", r"t\.csv:\d: field larger than field limit"),
        (b"image,x\n1,\xe9\n", r"t\.csv: byte 10 is not utf-8: save the file as UTF-8"),
        (b"\xff\xfei", r"t\.csv: byte \d is not utf-16"),
    ],
)
def test_faults_of_a_table_name_file_line_and_cure(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_table(table(tmp_path, content), ("image", "x"))


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.csv: No such file"):
        read_table(tmp_path / "absent.csv", ("a",))
    with pytest.raises(ValueError, match="Is a directory"):
        read_table(tmp_path, ("a",))
    whole = gzip.compress(b"a\n1\n" * 500)
    for content in (b"nothing", whole[:-12], whole[:20] + b"\0\0\0" + whole[23:]):
        with pytest.raises(ValueError, match="not a whole gzip file"):
            read_table(table(tmp_path, content, "t.csv.gz"), ("a",))


def test_one_row_per_key(tmp_path: Path) -> None:
    same = read_table(table(tmp_path, "k,v\na,1\nb,2\na,1\n"), ("k", "v")).one_per("k")
    assert {key: row["v"] for key, row in same.items()} == {"a": "1", "b": "2"}
    with pytest.raises(ValueError, match=r"t\.csv:3: line 2 says something else of the same k"):
        read_table(table(tmp_path, "k,v\na,1\na,2\n"), ("k", "v")).one_per("k")
    with pytest.raises(ValueError, match=r"t\.csv:2: k is empty"):
        read_table(table(tmp_path, "k,v\n,1\n"), ("k", "v")).one_per("k")


def test_pictures_are_found_below_the_folder_by_name_or_stem(tmp_path: Path) -> None:
    for name in ("one/a.png", "two/B.PNG", "two/c.jpg", "one/1.2.840.dcm", "x/109.png", "y/109.png", ".cache/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = PictureFiles(tmp_path)
    assert found.find("a.png") == tmp_path / "one" / "a.png"
    assert found.find("one/a.png") == tmp_path / "one" / "a.png"
    assert found.find("b.png") == tmp_path / "two" / "B.PNG"
    assert found.find("Y/109.png") == tmp_path / "y" / "109.png"
    assert found.find_stem("1.2.840") == tmp_path / "one" / "1.2.840.dcm"
    assert found.find_stem("C") == tmp_path / "two" / "c.jpg"
    for name, reason in (
        ("109.png", "image_name_ambiguous"),
        ("d.png", "image_missing"),
        ("z/109.png", "image_missing"),
        ("../a.png", "path_outside_root"),
        ("/etc/hostname", "path_outside_root"),
        ("x" * 5000, "image_missing"),
        ("a\0.png", "image_missing"),
        ("", "image_missing"),
    ):
        with pytest.raises(RejectedImage) as caught:
            found.find(name)
        assert caught.value.reason == reason
        assert len(name) < 3 or name not in caught.value.detail
    assert pickle.loads(pickle.dumps(found)).find("b.png").name == "B.PNG"
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        PictureFiles(tmp_path / "nowhere")


def test_a_folder_that_links_to_itself_is_walked_once(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    os.symlink(tmp_path, tmp_path / "in" / "loop")
    os.symlink(tmp_path / "in" / "a.png", tmp_path / "b.png")
    assert [path.name for path in walk_files(tmp_path, (".png",))] == ["b.png", "a.png"]


def test_official_lists_and_words(tmp_path: Path) -> None:
    names = read_names(table(tmp_path, "A.png\r\nfolder/b.png\n\n", "list.txt"))
    assert names == {"a.png", "b.png"}
    with pytest.raises(ValueError, match="no name in it"):
        read_names(table(tmp_path, "\n", "list.txt"))
    assert [split_of(word) for word in ("Train", "validate", " TEST ", "default", "")] == ["train", "val", "test", None, None]


def test_a_declaration_wins_over_the_dataset(tmp_path: Path) -> None:
    plain = of_dataset(options(), modality="DX", plane="frontal", aliases={"effusion": "pleural effusion"})
    assert (plain.modality, plain.plane, plain.canonical("Effusion")) == ("DX", "frontal", "pleural effusion")
    declared = options(modality="CR", aliases={"Effusion": "fluid"}, exhaustive=("Effusion",))
    kept = of_dataset(declared, modality="DX", aliases={"effusion": "pleural effusion"})
    assert (kept.modality, kept.plane, kept.canonical("effusion"), kept.exhaustive) == ("CR", None, "fluid", ("fluid",))
    with pytest.raises(ValueError, match=r"t\.csv: --exhaustive nodul is no class of this dataset: did you mean nodule\?"):
        check_declared("t.csv", options(exhaustive=("nodul",)), ["Nodule"])


def test_a_broader_class_is_not_absent_where_a_narrower_is_present() -> None:
    scope = ("lung opacity", "nodule", "mass", "fracture")
    assert in_doubt(scope, ["consolidation", "rib fracture"]) == {"lung opacity": "uncertain", "fracture": "uncertain"}
    assert in_doubt(scope, ["diffuse nodule"]) == {"lung opacity": "uncertain", "nodule": "uncertain"}
    assert in_doubt(scope, ["cardiomegaly"]) == {}
    assert in_doubt(scope, ["lung opacity", "consolidation"]) == {}


@pytest.mark.parametrize(
    ("sex", "age", "kept"),
    [
        ("F", "58", {"sex": "F", "age_decade": 50}),
        ("male", "058Y", {"sex": "M", "age_decade": 50}),
        ("M", "89", {"sex": "M", "age_decade": 80}),
        ("M", "90", {"sex": "M"}),
        ("M", "414", {"sex": "M"}),
        ("", "-1", {}),
        ("unknown", "nan", {}),
        ("O", "inf", {}),
        ("", "6M", {}),
    ],
)
def test_of_a_person_sex_and_decade_are_kept_and_no_age_over_89(sex: str, age: str, kept: dict[str, object]) -> None:
    assert person(sex, age) == kept


def slow_fuse(boxes: list[tuple[str, Box]]) -> list[tuple[int, ...]]:
    """The same rule by brute force over all pairs with arrays of corners."""
    groups = [frozenset({place}) for place in range(len(boxes))]

    def mean(group: frozenset[int]) -> Box:
        return Box(*np.mean([boxes[place][1] for place in sorted(group)], axis=0).tolist())

    while True:
        pairs = [
            (iou(mean(one), mean(other)), -min(one), -min(other), one, other)
            for one, other in itertools.combinations(sorted(groups, key=min), 2)
            if not {boxes[place][0] for place in one} & {boxes[place][0] for place in other}
        ]
        pairs = [pair for pair in pairs if pair[0] >= MIN_IOU]
        if not pairs:
            return sorted(tuple(sorted(group)) for group in groups)
        *_, one, other = max(pairs, key=lambda pair: pair[:3])
        groups = [group for group in groups if group not in (one, other)] + [one | other]


def test_readers_boxes_are_joined_as_by_brute_force() -> None:
    draw = generator(5, "fused boxes")
    joined = 0
    for _ in range(60):
        centres = draw.uniform(20, 80, (3, 2))
        boxes = []
        for _ in range(int(draw.integers(2, 10))):
            x, y = centres[int(draw.integers(3))] + draw.normal(0, 1.5, 2)
            boxes.append((f"R{draw.integers(3)}", Box(x, y, x + draw.uniform(10, 15), y + draw.uniform(10, 15))))
        found = fuse(boxes)
        assert [one.members for one in found] == slow_fuse(boxes)
        for one in found:
            np.testing.assert_allclose(one.box_px, np.mean([boxes[place][1] for place in one.members], axis=0))
            assert len(one.readers) == len(one.members)  # never two boxes of one reader
        joined += sum(len(one.members) > 1 for one in found)
    assert joined > 40


def test_overlap_of_boxes() -> None:
    assert iou(Box(0, 0, 2, 2), Box(1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou(Box(0, 0, 2, 2), Box(2, 0, 3, 2)) == 0
