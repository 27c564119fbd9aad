"""Review by readers: who is shown what, what is written down, what the numbers mean, and what the server refuses."""

from __future__ import annotations

import http.client
import io
import itertools
import json
import subprocess
import sys
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from medclm.corpus.build import BuildOptions, build
from medclm.corpus.ids import phantom_ids
from medclm.corpus.outlines import outlined
from medclm.corpus.review.sample import STAGES, STRATA, allocate, choose
from medclm.corpus.review.server import POLICY, ReviewServer
from medclm.corpus.review.session import ReviewSession
from medclm.corpus.review.statistics import LIMIT, Judged, assess, cohen_kappa, samples_needed, wilson95
from medclm.corpus.review.summary import judged_samples, review_of, summarise_review, write_review
from medclm.corpus.review.verdicts import (
    VERDICTS,
    Verdict,
    append_verdict,
    check_reader,
    exclusions,
    latest,
    read_verdicts,
)
from medclm.corpus.review.view import edges, gather, picture
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.manifest import read_manifest
from medclm.data.shards import Corpus
from medclm.data.stream import manifest_hash
from medclm.data.testing import record_row, write_small_corpus
from medclm.types import Box

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("review") / "phantoms"
    source = PhantomSource(40, seed=3, size=64)
    build(source, TemplateWriter(), folder, BuildOptions(ids=phantom_ids(3), seed=3, progress=False))
    return Corpus(folder)


def small(tmp_path: Path, **changes: object) -> Corpus:
    return Corpus(write_small_corpus(tmp_path / "corpus", 12, **changes))  # type: ignore[arg-type]


def said(record_id: str, verdict: str, *, reader: str = "A", stage: str = "easy", corpus: str = "c") -> Verdict:
    return Verdict(corpus=corpus, record_id=record_id, stage=stage, reader=reader, verdict=verdict)


# which samples


def test_shares_are_the_whole_numbers_nearest_to_proportional_with_at_least_one_each() -> None:
    draw = np.random.default_rng(0)
    for _ in range(40):
        sizes = {name: int(size) for name, size in zip("abc", draw.integers(1, 9, 3), strict=True)}
        total = sum(sizes.values())
        n = int(draw.integers(3, total + 1))

        def distance(shares: tuple[int, ...], n: int = n, sizes: dict[str, int] = sizes, total: int = total) -> float:
            return sum((share - n * size / total) ** 2 for share, size in zip(shares, sizes.values(), strict=True))

        possible = [
            shares for shares in itertools.product(*(range(1, size + 1) for size in sizes.values())) if sum(shares) == n
        ]
        found = tuple(allocate(sizes, n)[name] for name in sizes)
        assert found in possible
        assert distance(found) == pytest.approx(min(map(distance, possible)))


def test_fewer_samples_than_strata_are_refused_naming_the_flag() -> None:
    with pytest.raises(ValueError, match="--n 2: there are 3 strata"):
        allocate({"a": 5, "b": 5, "c": 5}, 2)


@pytest.mark.parametrize("stratify", STRATA)
def test_every_stratum_is_shown_in_proportion_and_at_a_stage_that_the_record_offers(phantoms: Corpus, stratify: str) -> None:
    column = [name for batch in phantoms.scan("records", [stratify]) for name in batch.column(0).to_pylist()]
    sizes, n = Counter(column), len(column) // 2
    chosen = choose(phantoms, n, stratify=stratify, seed=1)
    assert len({sample.record_id for sample in chosen}) == n
    shown = Counter(sample.stratum for sample in chosen)
    assert shown == allocate(sizes, n)
    for sample in chosen:
        record = phantoms.row("records", sample.record_row)
        assert (record["record_id"], record[stratify]) == (sample.record_id, sample.stratum)
        assert record[f"question_{sample.stage}"]
    assert {sample.stage for sample in chosen} == set(STAGES)


def test_the_draw_depends_on_the_seed_alone_and_a_larger_review_goes_on_from_a_smaller_one(phantoms: Corpus) -> None:
    first, again, other = (choose(phantoms, 30, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert {one.record_id for one in first} != {one.record_id for one in other}
    larger = choose(phantoms, 45, seed=0)
    assert len(set(first) & set(larger)) >= 27
    everything = choose(phantoms, 10**6)
    assert len(everything) == phantoms.count("records")


@pytest.mark.parametrize(("n", "stratify", "message"), [(0, "domain", "--n 0"), (5, "age", "--stratify age: expected one of")])
def test_a_draw_that_makes_no_sense_is_refused(phantoms: Corpus, n: int, stratify: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(phantoms, n, stratify=stratify)


# what is written down


def test_verdicts_come_back_and_the_last_of_a_reader_about_a_stage_wins(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    lines = [
        said("r1", "right"),
        Verdict("c", "r1", "easy", "B", "wrong_side", 12.5, "links ≠ rechts\nzweite Zeile\u2028"),
        said("r1", "wrong_box", stage="medium"),
        said("r1", "wrong_text"),
    ]
    for line in lines:
        append_verdict(path, line)
    assert read_verdicts(path) == lines
    current = latest(read_verdicts(path))
    assert current["A", "r1", "easy"].verdict == "wrong_text"
    assert current["A", "r1", "medium"].verdict == "wrong_box"
    assert current["B", "r1", "easy"].note == "links ≠ rechts\nzweite Zeile\u2028"


def test_many_writers_of_one_file_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    threads = [
        threading.Thread(target=lambda r=reader: [append_verdict(path, said(f"r{i}", "right", reader=r)) for i in range(25)])
        for reader in "ABCD"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(one.reader for one in read_verdicts(path)) == dict.fromkeys("ABCD", 25)


GOOD = {"schema": 1, "corpus": "c", "record_id": "r", "stage": "easy", "reader": "A", "verdict": "right"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"schema": 1, "corp', "not JSON"),
        ("[1]", "expected an object, found list"),
        (GOOD | {"schema": 2}, "schema=2, this version reads 1"),
        (GOOD | {"verdict": "fine"}, "verdict='fine': expected one of right, wrong_text"),
        (GOOD | {"stage": "harder"}, "stage='harder'"),
        (GOOD | {"stage": ["easy"]}, "stage=\\['easy'\\]"),
        (GOOD | {"record_id": 7}, "record_id=7"),
        (GOOD | {"seconds": -1}, "seconds=-1"),
        (GOOD | {"seconds": True}, "seconds=True"),
        (GOOD | {"note": 3}, "note=3"),
        (GOOD | {"name": "Dr Who"}, "unknown field 'name'"),
    ],
)
def test_a_line_that_is_no_verdict_is_named_by_file_and_line(tmp_path: Path, line: object, message: str) -> None:
    path = tmp_path / "verdicts.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_text(f"{json.dumps(GOOD)}\n\n{text}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"verdicts.jsonl:3: .*{message}"):
        read_verdicts(path)


def test_a_line_that_was_cut_off_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_text(json.dumps(GOOD), encoding="utf-8")
    append_verdict(path, said("r2", "right"))
    assert [one.record_id for one in read_verdicts(path)] == ["r", "r2"]


@pytest.mark.parametrize("label", ["", "Dr. Jane Doe", "a" * 17, "../A", "A\n"])
def test_a_reader_is_a_short_label(label: str) -> None:
    with pytest.raises(ValueError, match="--reader"):
        check_reader(label)


def test_the_next_build_leaves_out_what_any_reader_last_called_anything_but_right(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    for verdict in (
        said("corrected", "wrong_text"),
        said("corrected", "right"),
        said("split", "right"),
        said("split", "wrong_box", reader="B"),
        said("two", "wrong_text", stage="medium"),
        said("two", "wrong_side", reader="B"),
        said("odd", "unanswerable", corpus="an earlier build"),
        said("fine", "right", reader="B"),
    ):
        append_verdict(path, verdict)
    expected = {"odd": "review_unanswerable", "split": "review_wrong_box", "two": "review_wrong_side"}
    assert exclusions(path) == expected
    with pytest.raises(ValueError, match=r"none\.jsonl: cannot be read"):
        exclusions(tmp_path / "none.jsonl")


# what the numbers mean


@pytest.mark.parametrize(("wrong", "n"), [(0, 1), (0, 188), (0, 189), (1, 1), (3, 200), (7, 50), (50, 50), (5000, 90001)])
def test_the_interval_is_wilsons(wrong: int, n: int) -> None:
    oracle = binomtest(wrong, n).proportion_ci(0.95, method="wilson")
    assert wilson95(wrong, n) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@pytest.mark.parametrize("wrong", [0, 1, 2, 10])
def test_the_samples_that_acceptance_needs_are_the_least_that_pass(wrong: int) -> None:
    needed = samples_needed(wrong)
    passing = [n for n in range(max(wrong, 1), 2 * needed) if binomtest(wrong, n).proportion_ci(method="wilson").high <= LIMIT]
    assert needed == passing[0]


def test_kappa_is_cohens() -> None:
    draw = np.random.default_rng(0)
    for n in (5, 12, 40, 200):
        first = [VERDICTS[k] for k in draw.choice(5, n, p=(0.7, 0.1, 0.1, 0.05, 0.05))]
        second = [one if draw.random() < 0.6 else VERDICTS[draw.integers(5)] for one in first]
        assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))
    assert cohen_kappa(["right", "wrong_box"], ["wrong_box", "right"]) == pytest.approx(-1)
    assert cohen_kappa(["right"] * 5, ["right"] * 5) is None
    assert cohen_kappa([], []) is None


def judged(*verdicts: dict[str, str], domain: str = "mass / CT", writer: str = "template") -> list[Judged]:
    return [Judged(f"r{k}", "easy", domain, writer, of_readers) for k, of_readers in enumerate(verdicts)]


def test_a_sample_is_wrong_if_either_reader_says_so_and_unanswerable_is_counted_apart() -> None:
    review = assess(
        [
            *judged({"A": "right", "B": "right"}, {"A": "right", "B": "wrong_box"}, {"A": "wrong_text", "B": "wrong_side"}),
            *judged({"A": "unanswerable", "B": "right"}, {"A": "unanswerable", "B": "wrong_text"}, domain="nodule / DX"),
            *judged({"B": "right"}, writer="language model"),
        ]
    )
    assert review.readers == ("A", "B")
    assert (review.n, review.overall.n, review.overall.wrong, review.overall.unanswerable) == (6, 5, 3, 1)
    assert review.counts == {"right": 2, "wrong_box": 1, "wrong_side": 1, "wrong_text": 1, "unanswerable": 1}
    assert [(rate.name, rate.wrong, rate.n) for rate in review.domains] == [("mass / CT", 2, 4), ("nodule / DX", 1, 1)]
    assert [(rate.name, rate.wrong, rate.n) for rate in review.writers] == [("language model", 0, 1), ("template", 3, 4)]
    (pair,) = review.agreements
    assert (pair.readers, pair.n, pair.equal) == (("A", "B"), 5, 1)
    assert len(review.disagreements) == 4
    assert not review.accepted


@pytest.mark.parametrize(("clean", "accepted"), [(188, False), (189, True)])
def test_a_corpus_is_accepted_when_the_upper_bound_is_at_most_two_per_cent(clean: int, accepted: bool) -> None:
    review = assess(judged(*[{"A": "right", "B": "right"}] * clean, {"A": "unanswerable", "B": "right"}))
    assert review.accepted is accepted
    assert review.kappa == pytest.approx(0.0)
    assert not assess(judged({"A": "unanswerable"})).accepted
    assert not assess([]).accepted


# the summary and the manifest


def test_the_summary_writes_the_result_into_the_manifest_and_changes_nothing_else(tmp_path: Path) -> None:
    corpus = small(tmp_path)
    path, own = corpus.folder / "verdicts.jsonl", manifest_hash(corpus.manifest)
    assert review_of(corpus.manifest) == {"state": "unreviewed"}
    for sample in choose(corpus, 8):
        append_verdict(path, Verdict(own, sample.record_id, sample.stage, "A", "right", 4.0))
        verdict = "wrong_box" if sample.record_row == 0 else "right"
        append_verdict(path, Verdict(own, sample.record_id, sample.stage, "B", verdict, 6.0))
    append_verdict(path, said("r00001", "wrong_side", corpus="another build"))
    review, text = summarise_review(corpus, read_verdicts(path))
    before = read_manifest(corpus.folder)
    entry = write_review(corpus.folder, review)
    again = Corpus(corpus.folder, verify=True)
    assert again.manifest == {**before, "review": entry}
    assert manifest_hash(again.manifest) == own
    wrong = sum(sample.record_row == 0 for sample in choose(corpus, 8))
    upper = wilson95(wrong, 8)[1]
    assert entry == {
        "state": "reviewed",
        "n": 8,
        "readers": ["A", "B"],
        "kappa": 0.0 if wrong else None,
        "wrong": wrong,
        "unanswerable": 0,
        "upper": round(upper, 6),
        "accepted": False,
    }
    assert review_of(again.manifest) == entry
    assert "1 verdicts are about another build" in text
    assert f"wrong {wrong} of 8" in text
    assert "reader A: 8 samples, median 4 s" in text
    assert f"would pass among {samples_needed(wrong)}" in text


def test_a_verdict_about_a_record_that_is_not_there_is_named(tmp_path: Path) -> None:
    corpus = small(tmp_path)
    with pytest.raises(ValueError, match="record nowhere is not in"):
        judged_samples(corpus, [said("nowhere", "right", corpus=manifest_hash(corpus.manifest))])


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "launch/corpus.py", "review", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_says_what_is_missing_and_an_unreviewed_corpus_stays_unreviewed(tmp_path: Path) -> None:
    corpus = small(tmp_path)
    done = run(corpus.folder)
    assert (done.returncode, "--reader: say who judges" in done.stderr) == (2, True)
    done = run(corpus.folder, "--summary")
    assert (done.returncode, "unreviewed" in done.stdout) == (0, True)
    assert read_manifest(corpus.folder)["review"] == {"state": "unreviewed"}


# what is shown


@pytest.mark.parametrize(
    ("directions", "expected"),
    [
        ("L\\P", ("R", "L", "A", "P")),
        ("R\\P", ("L", "R", "A", "P")),
        ("P\\F", ("A", "P", "H", "F")),
        ("LA\\S", ("RP", "LA", "I", "S")),
        (None, None),
        ("L", None),
        ("L\\?", None),
    ],
)
def test_the_letters_at_the_edges_are_the_patients(directions: str | None, expected: tuple[str, ...] | None) -> None:
    found = edges(directions)
    assert (tuple(vars(found).values()) if found else None) == expected


def test_each_stage_shows_its_own_picture_texts_claims_and_facts(phantoms: Corpus) -> None:
    seen = Counter()
    for sample in choose(phantoms, 10**6):
        view, record = gather(phantoms, sample), phantoms.row("records", sample.record_row)
        seen[sample.stage] += 1
        assert view.answer == record[f"answer_{sample.stage}"]
        assert "{color}" not in view.question
        rows = [record["hard_annotation_row"]] if sample.stage == "hard" else record["annotation_rows"]
        assert len(view.findings) == len([row for row in rows if row >= 0])
        for finding, row in zip(view.findings, (row for row in rows if row >= 0), strict=True):
            annotation = phantoms.row("annotations", row)
            facts = json.loads(annotation["facts"])
            shown = dict(finding.facts)
            assert shown["class"].startswith(annotation["lesion_class"])
            assert (annotation["organ"] or "unknown") in shown["organ"]
            assert shown["side"].startswith(facts.get("side", "not stated"))
        image_row = record["hard_image_row" if sample.stage == "hard" else "image_row"]
        plain = picture(phantoms, view, drawn=False)
        assert plain.tobytes() == phantoms.picture(image_row).tobytes()
        if sample.stage == "easy":
            expected = outlined(plain, [box.box_unit for box in view.boxes], (255, 0, 0))
            assert picture(phantoms, view, drawn=True).tobytes() == expected.tobytes() != plain.tobytes()
        else:
            assert picture(phantoms, view, drawn=True).tobytes() == plain.tobytes()
        stated = [(claim["fact"], claim["text"]) for claim in json.loads(record["claims"]) if claim["stage"] == sample.stage]
        assert list(view.claims) == stated
    assert set(seen) == set(STAGES)


def test_easy_shows_the_boxes_that_the_rationale_names(tmp_path: Path) -> None:
    only_easy = {f"{part}_{stage}": None for part in ("question", "answer") for stage in ("medium", "hard")}
    rationales = ("See <box:1>.", "See <box:0> and <box:1>.", "Bright.")
    records = [record_row(k, images=12, rationale_easy=text, **only_easy) for k, text in enumerate(rationales)]
    corpus = small(tmp_path, records=records)
    found = {sample.record_row: gather(corpus, sample) for sample in choose(corpus, 3)}
    assert [[box.number for box in found[row].boxes] for row in range(3)] == [[2], [1, 2], [1]]
    row = corpus.row("annotations", 1, ["box_xyxy_unit"])
    assert found[0].boxes[0].box_unit == Box(*row["box_xyxy_unit"])


# the server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReviewServer]:
    corpus = small(tmp_path)
    session = ReviewSession(corpus, choose(corpus, 5), "A", corpus.folder / "verdicts.jsonl")
    with ReviewServer(session) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: ReviewServer, path: str, form: dict[str, str] | None = None, **headers: str
) -> tuple[int, http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    body = None if form is None else urllib.parse.urlencode(form)
    kind = {} if form is None else {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("GET" if form is None else "POST", path, body, kind | headers)
    answer = connection.getresponse()
    return answer.status, answer, answer.read()


def test_a_verdict_is_written_and_leads_to_the_next_sample(server: ReviewServer) -> None:
    start = f"/{server.key}/"
    status, answer, _ = ask(server, start)
    assert (status, answer.headers["Location"]) == (303, f"{start}sample/1")
    assert ask(server, f"{start}sample/1")[0] == 200
    form = {"token": server.token, "verdict": "wrong_side", "note": " left\r\nnot right "}
    status, answer, _ = ask(server, f"{start}sample/1", form)
    assert (status, answer.headers["Location"]) == (303, f"{start}sample/2")
    status, answer, _ = ask(server, f"{start}sample/5", {"token": server.token, "verdict": "right"})
    assert (status, answer.headers["Location"]) == (303, f"{start}done")
    assert ask(server, start)[1].headers["Location"] == f"{start}sample/2"
    first, last = read_verdicts(server.session.path)
    assert (first.verdict, first.note, first.reader) == ("wrong_side", "left\nnot right", "A")
    assert first.corpus == manifest_hash(server.session.corpus.manifest)
    assert first.seconds is not None
    assert last.seconds is None, "a sample that was not shown has no reading time"
    resumed = ReviewSession(server.session.corpus, server.session.samples, "A", server.session.path)
    assert resumed.open_numbers() == [2, 3, 4]
    assert ReviewSession(server.session.corpus, server.session.samples, "B", server.session.path).open_numbers() == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_strangers_are_refused_and_nothing_is_written(server: ReviewServer) -> None:
    sample, good = f"/{server.key}/sample/1", {"token": server.token, "verdict": "right"}
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1", "127.0.0.1.evil.example"):
        assert ask(server, sample, Host=host)[0] == 421
        assert ask(server, sample, good, Host=host)[0] == 421
    assert ask(server, sample, {"verdict": "right"})[0] == 403
    assert ask(server, sample, good | {"token": "guess"})[0] == 403
    assert ask(server, sample, good, Origin="http://evil.example")[0] == 403
    for path in ("/", "/sample/1", f"/{'A' * len(server.key)}/sample/1", "/%2e%2e/etc/passwd"):
        status, _, page = ask(server, path)
        assert status == 404
        assert server.key.encode() not in page
        assert server.token.encode() not in page
    assert ask(server, sample, good | {"verdict": "perhaps"})[0] == 422
    assert ask(server, sample, good | {"note": "x" * 501})[0] == 422
    assert ask(server, sample, good | {"note": "x" * 20000})[0] == 413
    assert ask(server, f"/{server.key}/sample/6", good)[0] == 404
    assert ask(server, f"/{server.key}/sample/0")[0] == 404
    assert not server.session.path.exists()
    assert ask(server, sample, good, Host=f"localhost:{server.port}")[0] == 303


def test_every_answer_forbids_what_is_foreign_and_is_not_kept(server: ReviewServer) -> None:
    kinds = {
        "style.css": "text/css",
        "script.js": "text/javascript",
        "sample/1": "text/html",
        "picture/1/plain.png": "image/png",
    }
    for path, kind in [*kinds.items(), ("done", "text/html"), ("nothing", "text/html")]:
        _, answer, body = ask(server, f"/{server.key}/{path}")
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Type"].startswith(kind)
        assert b"http" not in body.replace(b"http-equiv", b"") or kind == "image/png"
    assert "unsafe" not in POLICY
    assert Image.open(io.BytesIO(ask(server, f"/{server.key}/picture/1/plain.png")[2])).format == "PNG"


def test_it_listens_on_the_loopback_address_alone_and_a_taken_port_is_named(server: ReviewServer) -> None:
    assert server.socket.getsockname() == ("127.0.0.1", server.port)
    with pytest.raises(ValueError, match=f"--port {server.port}: .*in use"):
        ReviewServer(server.session, server.port)
    with pytest.raises(ValueError, match="--port 70000"):
        ReviewServer(server.session, 70000)


def test_a_page_escapes_what_a_corpus_and_a_reader_wrote(tmp_path: Path) -> None:
    bad = "<script>window.owned = 1</script>\"'><img src=x>"
    texts = {f"{part}_easy": f"{bad} <box:0>" for part in ("question", "rationale", "answer")}
    changes = texts | {"claims": json.dumps([{"stage": "easy", "fact": bad, "text": bad}]), "domain": bad, "writer": bad}
    only_easy = {f"{part}_{stage}": None for part in ("question", "answer") for stage in ("medium", "hard")}
    corpus = small(tmp_path, records=[record_row(0, images=12, **changes, **only_easy)])
    session = ReviewSession(corpus, choose(corpus, 1), "A", tmp_path / "verdicts.jsonl")
    session.judge(1, "wrong_text", f"</textarea>{bad}")
    with ReviewServer(session) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        page = ask(server, f"/{server.key}/sample/1")[2].decode()
        server.shutdown()
    assert "<script>" not in page
    assert "<img" not in page
    assert page.count("</textarea>") == 1
    assert page.count("window.owned = 1") >= 8
    assert page.count("<span class='box'>box 1</span>") == 3
