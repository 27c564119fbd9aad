"""Text scores of written reports against one reference each: BLEU, ROUGE-L, CIDEr, METEOR. They reward shared words, not truth.

Every score reads the same `words`: nothing is folded but case, since a report is judged as written and not as an answer, so
the articles and number words that `parsing.tokens` drops or folds stay, and so do blanks such as `XXXX`. An unparsed report is
scored as an empty one. ROUGE-L and CIDEr are computed by the scorers of the package pycocoevalcap 1.2, METEOR's matches by the Java
program in it. CIDEr alone depends on the other reports of the set. Knows nothing of findings, models or files.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medclm.metrics.bleu import ORDER, bleu, counts
from medclm.metrics.intervals import Formula

NEEDS_JAVA = "not run: needs Java"
NEEDS_PACKAGE = "not run: needs pycocoevalcap"

BLEU_COLUMNS = (
    *(f"report_matches_{n}" for n in range(1, ORDER + 1)),
    *(f"report_ngrams_{n}" for n in range(1, ORDER + 1)),
    "report_words",
    "report_reference_words",
)
"""Names of the additive counts of `bleu_table`, in its order."""

METEOR_COLUMNS = tuple(f"report_meteor_{column}" for column in range(23))
"""Names of METEOR's additive statistics: words of prediction and reference, function words of both; for each of four stages
(exact, stem, synonym, paraphrase) matched content words of both, matched function words of both; chunks, matches of both."""

_WORD = re.compile(r"[^\W_]+(?:(?<=\d)\.(?=\d)[^\W_]+)*")

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75  # METEOR 1.5 for English, as its jar has them
_STAGES = np.array([1.0, 0.6, 0.8, 0.6])

_JAVA_OPTIONS = ("-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm")


@dataclass(frozen=True)
class Meteor:
    """How METEOR matched each report, or why it did not."""

    table: np.ndarray | None
    """(n, 23) float64: additive statistics, named by `METEOR_COLUMNS`; None where it was not run, never for a part of a set."""
    note: str
    """`not run: needs ...`, empty where it was run."""


@dataclass(frozen=True)
class Judged:
    """Text scores of a set of reports."""

    values: list[dict[str, float]]
    """By report: each value under the name of the mean it enters. A score that was not run is in none of them."""
    not_run: dict[str, str]
    """`not run: needs ...` by report_rouge_l, report_cider, report_meteor."""


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits; a point between digits stays, all other punctuation separates and is dropped.

    `A 2.50 cm well-defined mass.` -> a, 2.50, cm, well, defined, mass. Accents are composed (NFC), not folded.
    """
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def _word_pairs(predictions: Sequence[str], references: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Words of both; raises ValueError for unequal numbers and for a reference without a word."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references: give one reference to each")
    truths = [words(reference) for reference in references]
    for index, truth in enumerate(truths):
        if not truth:
            raise ValueError(f"references[{index}] has no word: leave reports without a reference out and count them")
    return [words(prediction) for prediction in predictions], truths


def bleu_table(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """(n, 2 * ORDER + 2) float64: the additive counts of `bleu.counts`, named by `BLEU_COLUMNS`.

    Raises:
        ValueError: as every score here, for unequal numbers of texts and for a reference without a word (its index).
    """
    said, truths = _word_pairs(predictions, references)
    rows = [counts(one, [truth]) for one, truth in zip(said, truths, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(-1, len(BLEU_COLUMNS))


def corpus_bleu_formula(n: int) -> Formula:
    """Corpus BLEU-n as a formula of the means of `BLEU_COLUMNS`: BLEU is a function of ratios, so means serve as sums do."""
    return partial(bleu, n=n)


def corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """(ORDER,) float64 in 0..1: BLEU-1..4 of the summed counts (Papineni et al. 2002)."""
    return _orders(bleu_table(predictions, references).sum(axis=0))


def sample_bleu(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """(n, ORDER) float64 in 0..1: BLEU-1..4 of each report, whose mean is mean-of-sample BLEU, not corpus BLEU.

    Unsmoothed: 0 where any order has no match. pycocoevalcap adds 1e-15 to matches and 1e-9 to totals instead, so that such
    a report gets up to 0.03 there (a right report of three words has BLEU-4 0.0316); elsewhere both agree to 1e-8.
    """
    return _orders(bleu_table(predictions, references))


def _orders(table: np.ndarray) -> np.ndarray:
    return np.stack([bleu(table, n) for n in range(1, ORDER + 1)], axis=-1)


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """(n,) float64 in 0..1: F of the longest common subsequence, recall weighted by beta = 1.2 (Lin 2004).

    (1 + beta^2) P R / (R + beta^2 P) with P = LCS / words said, R = LCS / words of the reference.
    """
    said, truths = _word_pairs(predictions, references)
    scorer = _scorers("rouge.rouge").Rouge()
    scores = [scorer.calc_score([" ".join(one)], [" ".join(truth)]) for one, truth in zip(said, truths, strict=True)]
    return np.array(scores, dtype=np.float64)


def cider(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """(n,) float64 in 0..10: CIDEr (Vedantam et al. 2015), document frequencies from the references of this very set.

    As pycocoevalcap computes it, which is the paper's CIDEr-D: clipped counts and a Gaussian penalty (sigma 6) on the
    difference in length, which it counts in word pairs. An n-gram that every reference has weighs nothing: of a set of one
    report CIDEr is 0 by construction, of a few reports it says little, and sets of other references are not comparable.
    A right report of fewer than four words stays below 10.

    Not additive: an interval over these values holds the document frequencies as they are.
    """
    said, truths = _word_pairs(predictions, references)
    if not said:
        return np.zeros(0)
    scorer = _scorers("cider.cider_scorer").CiderScorer(n=4, sigma=6.0)
    for one, truth in zip(said, truths, strict=True):
        scorer += (" ".join(one), [" ".join(truth)])
    return np.asarray(scorer.compute_score()[1], dtype=np.float64)


def meteor(predictions: Sequence[str], references: Sequence[str]) -> Meteor:
    """Match statistics of METEOR 1.5 for English (Denkowski and Lavie 2014): exact, stem, synonym and paraphrase matches.

    One Java process aligns all pairs. It gets `words` joined by spaces, so no newline and no `|||` of a text reaches its line
    protocol, and is asked for matches alone: to score them it would read numbers as the locale writes them, 0,5 in a German one.

    Raises:
        RuntimeError: Java is there, but METEOR failed in it.
    """
    said, truths = _word_pairs(predictions, references)
    package, java = _package(), _java()
    if package is None or java is None:
        return Meteor(None, NEEDS_PACKAGE if package is None else NEEDS_JAVA)
    lines = [f"SCORE ||| {' '.join(truth)} ||| {' '.join(one)}\n" for one, truth in zip(said, truths, strict=True)]
    return Meteor(_meteor_table(java, package / "meteor", lines) if lines else np.zeros((0, len(METEOR_COLUMNS))), "")


def meteor_score(table: np.ndarray) -> np.ndarray:
    """METEOR in 0..1 of statistics, (..., 23) -> (...): of rows, each report's; of their means, that of the whole set.

    The latter is what pycocoevalcap prints and papers quote; it is not the mean of the former. F of weighted matches, recall
    weighing 0.85, content words 0.75 and function words 0.25, less a penalty for matches scattered over many chunks. A set
    of right reports is 1 here; METEOR itself spares one right report the penalty, but not the sum of several.
    """
    lengths, function, chunks, matched = table[..., :2], table[..., 2:4], table[..., 20], table[..., 21:]
    of_kind = np.array([_DELTA, 1 - _DELTA])  # content words, function words
    by_stage = table[..., 4:20].reshape(*table.shape[:-1], len(_STAGES), 2, 2)
    weighted = np.einsum("...mks,m,k->...s", by_stage, _STAGES, of_kind)
    whole = _DELTA * (lengths - function) + (1 - _DELTA) * function
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing said or nothing matched: 0 / 0, which is a score of 0
        precision, recall = np.moveaxis(weighted / whole, -1, 0)
        mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
        scattered = np.where((chunks == 1) & (matched == lengths).all(axis=-1), 0.0, chunks / matched.mean(axis=-1))
        return np.asarray(np.nan_to_num(mean * (1 - _GAMMA * scattered**_BETA), nan=0.0))


def judge_reports(predictions: Sequence[str], references: Sequence[str]) -> Judged:
    """Every text score of a set of reports, as values whose means, and formulas of means, are the scores.

    Means: report_bleu1_mean..report_bleu4_mean, report_rouge_l, report_cider, report_meteor_mean. Formulas: corpus BLEU is
    `corpus_bleu_formula(n)` of `BLEU_COLUMNS`, METEOR of the set is `meteor_score` of `METEOR_COLUMNS`.
    """
    table = bleu_table(predictions, references)
    scores = {name: table[:, column] for column, name in enumerate(BLEU_COLUMNS)}
    scores |= {f"report_bleu{n + 1}_mean": column for n, column in enumerate(_orders(table).T)}
    not_run = {}
    if _package() is None:
        not_run = dict.fromkeys(("report_rouge_l", "report_cider"), NEEDS_PACKAGE)
    else:
        scores |= {"report_rouge_l": rouge_l(predictions, references), "report_cider": cider(predictions, references)}
    aligned = meteor(predictions, references)
    if aligned.table is None:
        not_run["report_meteor"] = aligned.note
    else:
        scores |= {name: aligned.table[:, column] for column, name in enumerate(METEOR_COLUMNS)}
        scores["report_meteor_mean"] = meteor_score(aligned.table)
    rows = [{name: float(column[row]) for name, column in scores.items()} for row in range(len(table))]
    return Judged(values=rows, not_run=not_run)


def _package() -> Path | None:
    """Folder of pycocoevalcap, or None where it is not installed."""
    spec = importlib.util.find_spec("pycocoevalcap")
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _scorers(module: str) -> Any:
    """A module of pycocoevalcap, which is imported where it is used: BLEU and the language check do without."""
    try:
        return importlib.import_module(f"pycocoevalcap.{module}")
    except ImportError as error:
        raise RuntimeError("ROUGE-L and CIDEr need the package pycocoevalcap: pip install pycocoevalcap==1.2") from error


def _java() -> str | None:
    """The `java` of the path if it runs: some systems have one that only says where to get Java."""
    java = shutil.which("java")
    runs = java is not None and subprocess.run([java, "-version"], capture_output=True, check=False).returncode == 0
    return java if runs else None


def _meteor_table(java: str, folder: Path, lines: Sequence[str]) -> np.ndarray:
    """Statistics of each `SCORE ||| reference ||| prediction` line, (n, 23); the process ends with this, interrupted or not."""
    command = [java, *_JAVA_OPTIONS]
    done = subprocess.run(
        command, cwd=folder, input="".join(lines), capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    rows = [row.split() for row in done.stdout.splitlines()]
    if done.returncode or len(rows) != len(lines) or any(len(row) != len(METEOR_COLUMNS) for row in rows):
        said = "; ".join([*done.stderr.splitlines()[:3], *done.stdout.splitlines()[-1:]])
        raise RuntimeError(
            f"METEOR failed in {java} (status {done.returncode}, {len(rows)} answers to {len(lines)} pairs): {said}. "
            "It needs 2 GB of memory and pycocoevalcap 1.2 with its meteor folder"
        )
    return np.array(rows, dtype=np.float64)


_ENGLISH = frozenset(
    words("the of and are with within without there has have been this these that for from to by not which be at or")
)
_OTHERS: Mapping[str, frozenset[str]] = {
    "Spanish": frozenset(words("el los las del de un una se sin con que por para es y ni hay su observa observan aprecia")),
    "Portuguese": frozenset(words("sem não há da dos das de um uma com são ao pelo pela que por para na nas se observa")),
    "French": frozenset(words("les des du de dans est sans avec pour sur un une aucun aucune pas ni droit gauche que qui")),
    "Italian": frozenset(words("il lo gli della del dei delle di che con senza nella nel una un sono è alla dell assenza")),
    "German": frozenset(words("der die das und ist sind kein keine keinen nicht mit ohne ein eine dem den des auf bei für")),
    "Dutch": frozenset(words("het een geen van niet zijn met zonder voor bij aan wordt de naar ook deze zichtbaar")),
}
"""Common words of reports that English ones lack. Left out: la (left atrium), le (lower extremity), et, en and non (et al, en
face, non-displaced), do, on, in, im, am, si, er, op (post-op), os: English words and abbreviations."""


def require_english(texts: Sequence[str]) -> None:
    """Refuse texts that are clearly not English: the scores here are defined for English alone. Meant for the references.

    A text is refused if
    - it has two or more letters outside ASCII and they are more than a tenth of its letters (Chinese, Russian, Greek), or
    - it has a common word of one of six languages (`_OTHERS`), together with others of them or with words of accented
      letters two or more different ones, and more of these than different English function words (`_ENGLISH`).

    A short text without such words passes (`Tórax normal.`), as do empty ones and blanks such as `XXXX`; so may other
    languages in Latin letters without accents.

    Raises:
        ValueError: the index of the first such text and the evidence, which quotes nothing but words of the lists.
    """
    for index, text in enumerate(texts):
        if evidence := _foreign(text):
            raise ValueError(f"texts[{index}] is not English ({evidence}): leave it out, or translate the reports first")


def _foreign(text: str) -> str:
    """Evidence that a text is not English; empty for none."""
    found = frozenset(words(text))
    letters = [letter for word in words(text) for letter in word if letter.isalpha()]
    outside = sum(not letter.isascii() for letter in letters)
    if outside >= 2 and outside > 0.1 * len(letters):
        return f"{outside} of its {len(letters)} letters are not ASCII"
    language, known = max(((name, found & vocabulary) for name, vocabulary in _OTHERS.items()), key=lambda pair: len(pair[1]))
    accented = {word for word in found - known if not word.isascii()}
    if known and len(known) + len(accented) > max(1, len(found & _ENGLISH)):
        return f"{language}: {', '.join(sorted(known))}"
    return ""
