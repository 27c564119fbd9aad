"""Class maps from files: every layout reads to the same map, every bad line is named."""

from __future__ import annotations

import re

import pytest

from medclm.corpus.class_maps import read_class_map

EXPECTED = {1: "liver", 2: "kidney left", 7: "vertebrae l3"}
LAYOUTS = {
    "values.json": '{"0": "background", "1": "Liver", "2": "left_kidney", "7": "vertebrae_L3"}',
    "names.json": '{"background": 0, "Liver": 1, "kidney_left": 2, "vertebrae_L3": 7}',
    "trainer.json": '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "kidney_left": 2, "vertebrae_L3": 7}}',
    "header.csv": "value,name,colour\n0,background,0\n1,liver,12\n\n2,kidney_left,13\n7,vertebrae_L3,14\n",
    "turned.csv": "Name,LabelValue\nliver,1\nkidney left,2\nvertebrae_L3,7\n",
    "bare.csv": "# ours\n1,liver\n2,kidney_left\n7,vertebrae_L3\n",
    "semicolons.csv": "1;liver\n2;kidney_left\n7;vertebrae_L3\n",
    "bare.tsv": "1\tliver\n2\tkidney_left\n7\tvertebrae_L3\n",
    "snap.txt": "# ITK-SNAP Label Description File\n#\n"
    '    0     0    0    0        0  0  0    "Clear Label"\n'
    '    1   255    0    0        1  1  1    "liver"\n'
    '    2     0  255    0        0.5  1  0    "kidney left"\n'
    '    7     0    0  255        1  1  1    "vertebrae L3"\n',
    "slicer.ctbl": "# Color table file C:/x.ctbl\n# 3 values\n0 Background 0 0 0 0\n1 liver 216 101 79 255\n"
    "2 kidney_left 1 2 3 255\n7 vertebrae_L3 1 2 3 255\n",
    "slicer.txt": "1 liver 216 101 79 255\n2 kidney_left 1 2 3 255\n7 vertebrae_L3 1 2 3 255\n",
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_map(tmp_path, name):
    path = tmp_path / name
    path.write_text("\ufeff" + LAYOUTS[name] if name.endswith("csv") else LAYOUTS[name], encoding="utf-8")
    assert read_class_map(str(path)) == EXPECTED


def test_several_values_may_be_one_organ(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1,lung\n2,lung\n2,Lung\n")
    assert read_class_map(str(path)) == {1: "lung", 2: "lung"}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", '{"1": "liver",\n "2": }', "{path}:2: not JSON"),
        ("a.json", '["liver"]', "{path}: entry 1: give"),
        ("a.json", "3", "{path}: entry 1: give"),
        ("a.json", '{"1": "liver", "2": ["kidney"]}', "{path}: entry 2: give"),
        ("a.json", '{"1": "liver", "1": "spleen"}', "{path}: entry 2: value 1 is spleen here and liver before"),
        ("a.json", '{"liver": -1}', "{path}: entry 1: value '-1': give a whole number"),
        ("a.json", "{}", "class map {path}: names no organ"),
        ("a.csv", "1,liver\n2\n", "{path}:2: give a value and a name"),
        ("a.csv", "1,liver\n2.5,spleen\n", "{path}:2: value '2.5'"),
        ("a.csv", "liver\n", "{path}:1: neither a header"),
        ("a.csv", "value,name\n1,\n", "{path}:2: value 1 has no name"),
        ("a.csv", "1,liver\n1,spleen\n", "{path}:2: value 1 is spleen here and liver before"),
        ("a.csv", "0,background\n", "class map {path}: names no organ"),
        ("a.txt", '1 255 0 0 1 1 1 "liver\n', "{path}:1: a quotation mark"),
        ("a.txt", "1 liver 1 2 3 255\nliver\n", "{path}:2: neither ITK-SNAP"),
        ("a.ctbl", "1 liver 1 2 red 255\n", "{path}:1: neither ITK-SNAP"),
    ],
)
def test_a_bad_line_is_named(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(says.format(path=path))):
        read_class_map(str(path))


def test_a_map_that_is_none_is_refused(tmp_path):
    (tmp_path / "latin.csv").write_bytes(b"1,r\xe9n\n")
    for name, says in (
        ("totalsegmenter", "give totalsegmentator, totalsegmentator_mr or a file"),
        (str(tmp_path / "map.nii"), "give totalsegmentator"),
        (str(tmp_path / "absent.csv"), "cannot be read"),
        (str(tmp_path / "latin.csv"), "cannot be read"),
    ):
        with pytest.raises(ValueError, match=says):
            read_class_map(name)
