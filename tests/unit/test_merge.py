"""Tasks and sources that are merged: the bytes of one build, every part once, no patient in two splits."""

from __future__ import annotations

import hashlib
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medclm.corpus.build import BuildOptions, build, build_task
from medclm.corpus.contract import SourceAnnotation, SourceImage
from medclm.corpus.ids import Ids
from medclm.corpus.merge import merge
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.splits import SplitRule
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.shards import Corpus
from medclm.types import Box

KEY = Ids(b"0123456789abcdef")
OPTIONS = BuildOptions(ids=KEY, images_per_part=4, progress=False)
SOURCE = PhantomSource(count=30, size=64)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("whole") / "corpus"
    build(SOURCE, TemplateWriter(), out, OPTIONS)
    return digests(out)


def test_three_tasks_in_one_folder_give_the_bytes_of_one_build(tmp_path: Path, whole: dict[str, str]) -> None:
    out = tmp_path / "corpus"
    missing = [build_task(SOURCE, TemplateWriter(), out, OPTIONS, (number, 3)).missing for number in (2, 0, 1)]
    assert missing == [6, 3, 0]
    merge([out], out)
    assert digests(out) == whole


def test_tasks_in_folders_of_their_own_do_so_too(tmp_path: Path, whole: dict[str, str]) -> None:
    folders = [tmp_path / f"task{number}" for number in range(3)]
    for number in (1, 2, 0):
        build_task(SOURCE, TemplateWriter(), folders[number], OPTIONS, (number, 3))
    merge(folders, tmp_path / "corpus")
    assert digests(tmp_path / "corpus") == whole


def test_missing_and_double_parts_are_refused_by_number(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        build_task(SOURCE, TemplateWriter(), folder, OPTIONS, (0, 3))
    with pytest.raises(ValueError, match=r"5 of 8 parts are missing \(1, 2, 4, 5, 7\)"):
        merge([one], one)
    with pytest.raises(ValueError, match=r"part 0 is also in .*one: two tasks did the same work"):
        merge([one, other], tmp_path / "corpus")
    with pytest.raises(ValueError, match="given twice"):
        merge([one, one], tmp_path / "corpus")
    with pytest.raises(ValueError, match="holds no unfinished build"):
        merge([tmp_path], tmp_path / "corpus")
    with pytest.raises(ValueError, match="--task 3/3"):
        build_task(SOURCE, TemplateWriter(), one, OPTIONS, (3, 3))
    assert not (tmp_path / "corpus").exists()


def test_builds_of_other_keys_or_splits_are_refused(tmp_path: Path) -> None:
    build_task(SOURCE, TemplateWriter(), tmp_path / "one", OPTIONS, (0, 1))
    build_task(Films("b"), TemplateWriter(), tmp_path / "key", replace(OPTIONS, ids=Ids(b"another key, no less")), (0, 1))
    with pytest.raises(ValueError, match="different id keys"):
        merge([tmp_path / "one", tmp_path / "key"], tmp_path / "corpus")
    build_task(Films("b"), TemplateWriter(), tmp_path / "rule", replace(OPTIONS, split=SplitRule("patient")), (0, 1))
    with pytest.raises(ValueError, match="another rule"):
        merge([tmp_path / "one", tmp_path / "rule"], tmp_path / "corpus")


class Films:
    """Twenty films with a nodule each; film i is that of patient i of a collection that both sources took from."""

    rejects = ()

    def __init__(self, name: str) -> None:
        self.name = name

    def __len__(self) -> int:
        return 20

    def read(self, index: int) -> SourceImage:
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32), np.uint8)
        return SourceImage(
            index=f"images[{index}]",
            key=f"{self.name}{index}",
            pixels=pixels,
            source=self.name,
            licence="none",
            shareable=True,
            annotations=(SourceAnnotation("annotations[0]", "nodule", "nodule", Box(4, 4, 20, 20)),),
            patient=f"{self.name} patient {index}",
            modality="DX",
            origin_patient=f"nih:{index}",
        )


def test_two_sources_are_one_corpus_and_a_shared_origin_is_split_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_task(Films(name), TemplateWriter(), tmp_path / name, OPTIONS, (0, 1))
    report = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "corpus")
    corpus = Corpus(tmp_path / "corpus")
    assert corpus.manifest["sources"].keys() == {"a", "b"}
    assert [one["source"] for one in corpus.manifest["builder"]["builds"]] == ["a", "b"]
    assert report.images == 40
    assert min(report.records.values()) > 0
    splits = defaultdict(set)
    partners = 0
    for row in range(corpus.count("records")):
        record = corpus.row("records", row)
        origin = corpus.row("images", record["image_row"])["origin_patient"]
        splits[origin].add(record["split"])
        if record["hard_image_row"] >= 0:
            partners += 1
            assert corpus.row("images", record["hard_image_row"])["origin_patient"] != origin
    assert len(splits) == 20
    assert all(len(found) == 1 for found in splits.values())
    assert partners


def test_what_readers_judged_wrong_is_left_out_and_counted(tmp_path: Path) -> None:
    build_task(SOURCE, TemplateWriter(), tmp_path / "parts", OPTIONS, (0, 1))
    shutil.copytree(tmp_path / "parts", tmp_path / "again")
    merge([tmp_path / "parts"], tmp_path / "before")
    wrong = Corpus(tmp_path / "before").row("records", 5)["record_id"]
    report = merge([tmp_path / "again"], tmp_path / "after", exclusions={wrong: "review_wrong_side"})
    corpus = Corpus(tmp_path / "after")
    assert report.rejects["review_wrong_side"] == 1
    assert corpus.count("records") == Corpus(tmp_path / "before").count("records") - 1
    assert wrong not in {corpus.row("records", row)["record_id"] for row in range(corpus.count("records"))}
