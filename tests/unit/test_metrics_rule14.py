"""What rule14 reads in sentences of every construct, and what must never change its reading."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.metrics.rule14 import OBSERVATIONS, Label, Side, Status, as_arrays, label, read_text
from tests.source_files import real

SHORT = {
    "wide": "Enlarged Cardiomediastinum",
    "heart": "Cardiomegaly",
    "lesion": "Lung Lesion",
    "opacity": "Lung Opacity",
    "edema": "Edema",
    "consolidation": "Consolidation",
    "pneumonia": "Pneumonia",
    "atelectasis": "Atelectasis",
    "pneumothorax": "Pneumothorax",
    "effusion": "Pleural Effusion",
    "pleural": "Pleural Other",
    "fracture": "Fracture",
    "devices": "Support Devices",
}
SIGN = {"+": Status.PRESENT, "-": Status.ABSENT, "?": Status.UNCERTAIN}
SIDE = {"L": Side.LEFT, "R": Side.RIGHT, "B": Side.BILATERAL}

# construct -> sentence -> every observation it mentions: + present, - absent, ? uncertain; then L, R, B for its side
READINGS: dict[str, dict[str, str]] = {
    "plain": {
        "There is a pleural effusion.": "effusion+",
        "Moderate cardiomegaly.": "heart+",
        "Diffuse interstitial pulmonary edema.": "edema+",
        "An ill-defined infiltrate and a cavitating mass.": "opacity+ lesion+",
        "Air-space disease of the lower zones.": "opacity+",
        "Dense consolidation.": "consolidation+",
        "Findings are those of pneumonia.": "pneumonia+",
        "Plate-like atelectasis.": "atelectasis+",
        "Tiny apical pneumothorax.": "pneumothorax+",
        "Hydropneumothorax is demonstrated.": "effusion+ pneumothorax+",
        "Calcified pleural plaques.": "pleural+",
        "Acute fracture of the clavicle.": "fracture+",
        "Endotracheal tube and nasogastric tube are in place.": "devices+",
        "The mediastinum is widened.": "wide+",
        "A nodular opacity is seen.": "lesion+",
    },
    "negation": {
        "No pneumothorax today.": "pneumothorax-",
        "There is no evidence of an effusion.": "effusion-",
        "The lungs are free of consolidation.": "consolidation-",
        "The study is negative for pneumonia.": "pneumonia-",
        "Cardiomegaly without edema.": "heart+ edema-",
        "The heart is not enlarged.": "heart-",
        "Absence of a focal opacity.": "opacity-",
        "Pneumothorax is not seen.": "pneumothorax-",
        "A fracture is not identified.": "fracture-",
        "Pleural effusion: none.": "effusion-",
        "Neither effusion nor pneumothorax.": "effusion- pneumothorax-",
        "No acute bony injury.": "fracture-",
        "A bony abnormality is noted.": "",
        "No mediastinal widening.": "wide-",
        "No airspace opacity to suggest pneumonia.": "opacity- pneumonia-",
    },
    "lists": {
        "No effusion, pneumothorax or consolidation.": "effusion- pneumothorax- consolidation-",
        "No focal consolidation, large effusion, or pneumothorax is seen.": "consolidation- effusion- pneumothorax-",
        "No edema, effusion, pneumothorax.": "edema- effusion- pneumothorax-",
        "Effusion, consolidation and pneumothorax are absent.": "effusion- consolidation- pneumothorax-",
        "There are small effusions, cardiomegaly and edema.": "effusion+ heart+ edema+",
        "No nodule, small effusion or fracture.": "lesion- effusion- fracture-",
    },
    "scope end": {
        "No pneumothorax but a small effusion.": "pneumothorax- effusion+",
        "There is no effusion; however, consolidation is present.": "effusion- consolidation+",
        "No effusion, although atelectasis persists.": "effusion- atelectasis+",
        "No pneumothorax, the heart is enlarged.": "pneumothorax- heart+",
        "No pneumothorax and there is an effusion.": "pneumothorax- effusion+",
        "No edema; cardiomegaly.": "edema- heart+",
        "No opacity except for a granuloma.": "opacity- lesion+",
        "No pneumothorax, small effusion.": "pneumothorax- effusion+",
        "No effusion and the heart is large.": "effusion- heart+",
        "Aside from atelectasis, no abnormality.": "atelectasis+",
        "Small effusion, pneumothorax is not seen.": "effusion+ pneumothorax-",
        "No pneumothorax with mild atelectasis.": "pneumothorax- atelectasis+",
    },
    "double negation": {
        "Not without effusion.": "effusion?",
        "No pneumonia is excluded.": "pneumonia?",
        "The film is not negative for pneumothorax.": "pneumothorax?",
        "The pleural spaces are not free of effusion.": "effusion?",
    },
    "cannot exclude": {
        "Cannot exclude pneumonia.": "pneumonia?",
        "Pneumonia cannot be entirely excluded.": "pneumonia?",
        "It is difficult to exclude a small pneumothorax.": "pneumothorax?",
        "An underlying mass is not ruled out.": "lesion?",
        "This does not exclude a fracture.": "fracture?",
        "A pneumothorax has been excluded.": "pneumothorax-",
        "Lateral view advised to rule out effusion.": "effusion?",
    },
    "uncertainty": {
        "Possible pneumonia.": "pneumonia?",
        "The opacity may represent pneumonia or edema.": "opacity+ pneumonia? edema?",
        "Questionable nodule.": "lesion?",
        "Atelectasis versus pneumonia.": "atelectasis? pneumonia?",
        "Basal opacity suspicious for pneumonia.": "opacity+ pneumonia?",
        "Likely atelectasis.": "atelectasis?",
        "Pneumonia is suspected.": "pneumonia?",
        "Consolidation and/or atelectasis.": "consolidation? atelectasis?",
        "Borderline cardiomegaly at most.": "heart?",
        "The heart looks borderline enlarged.": "heart?",
        "Blunting of the costophrenic angle.": "effusion?",
        "Pulmonary vascular congestion.": "edema?",
        "No possible pneumothorax.": "pneumothorax-",
        "Possible effusion and a mass.": "effusion? lesion+",
        "Opacity consistent with pneumonia.": "opacity+ pneumonia+",
        "Findings could reflect edema, pneumonia, or aspiration.": "edema? pneumonia?",
        "The differential includes pneumonia and neoplasm.": "pneumonia? lesion?",
        "Compression deformity of a vertebral body.": "fracture?",
    },
    "resolved and changed": {
        "The effusion has resolved.": "effusion-",
        "Interval resolution of the pneumothorax.": "pneumothorax-",
        "The consolidation is no longer seen.": "consolidation-",
        "The chest tube has been removed.": "devices-",
        "Interval removal of the endotracheal tube.": "devices-",
        "Effusion and edema have resolved.": "effusion- edema-",
        "Resolving pneumonia.": "pneumonia+",
        "The effusion has partially resolved.": "effusion+",
        "The pneumothorax has not resolved.": "pneumothorax+",
        "No change in the effusion.": "effusion+",
        "No significant interval change in cardiomegaly.": "heart+",
        "The effusion has resolved and atelectasis persists.": "effusion- atelectasis+",
        "Improved edema.": "edema+",
        "No new consolidation.": "consolidation-",
    },
    "history and conditions": {
        "History of pneumonia.": "",
        "Scarring from prior pneumonia.": "opacity+",
        "If pneumonia persists, repeat the film.": "",
        "Recommend CT to characterise the nodule.": "",
        "CT may be helpful to look for a mass.": "",
        "Limited evaluation for pneumothorax.": "",
        "Healed rib fracture.": "fracture+",
        "Non-displaced fracture.": "fracture+",
        "Known breast cancer.": "",
        "The previously noted effusion is unchanged.": "effusion+",
    },
    "normal statements": {
        "The size of the heart is normal.": "heart-",
        "Heart and mediastinum are within normal limits.": "heart- wide-",
        "The cardiomediastinal silhouette is unremarkable.": "heart- wide-",
        "The lungs are now clear.": "opacity- consolidation- edema- pneumonia- atelectasis-",
        "Clear lungs, normal heart size.": "opacity- consolidation- edema- pneumonia- atelectasis- heart-",
        "The left lung is clear.": "",
        "The lungs look otherwise clear.": "",
        "Pleural spaces are clear.": "effusion- pneumothorax-",
        "Costophrenic angles are sharp.": "effusion-",
        "All osseous structures are intact.": "fracture-",
        "The heart is not normal.": "",
        "No acute abnormality of heart or lungs.": "",
        "The heart is stable, the mediastinum normal.": "wide-",
        "Normal heart and enlarged mediastinum.": "heart- wide+",
        "Normal vascularity of the lungs.": "",
        "The heart is at the upper limit of normal.": "heart-",
        "A normal chest.": " ".join(f"{name}-" for name in SHORT if name != "devices"),
    },
    "laterality": {
        "Left pleural effusion.": "effusion+L",
        "Small left effusion and right basilar atelectasis.": "effusion+L atelectasis+R",
        "Opacity in the right base and left effusion.": "opacity+R effusion+L",
        "Bilateral effusions, left greater than right.": "effusion+B",
        "Left and right effusions.": "effusion+B",
        "In the right lower lobe there is consolidation.": "consolidation+R",
        "Left lower lobe atelectasis and effusion.": "atelectasis+L effusion+L",
        "Right base opacity may represent pneumonia.": "opacity+R pneumonia?R",
        "Scarring in the lingula.": "opacity+L",
        "RML collapse and LLL pneumonia.": "atelectasis+R pneumonia+L",
        "No left effusion.": "effusion-",
        "Right-sided PICC with a left pneumothorax.": "devices+R pneumothorax+L",
        "Left ventricular enlargement and an effusion.": "heart+ effusion+",
        "Bibasilar atelectasis.": "atelectasis+B",
        "The left effusion has resolved. A right effusion remains.": "effusion+R",
        "Left effusion. Right effusion.": "effusion+B",
        "Effusion on the left, pneumothorax on the right.": "effusion+L pneumothorax+R",
        "Left effusion with cardiomegaly.": "effusion+L heart+",
        "Opacities in the lung bases.": "opacity+B",
        "Right effusion with underlying atelectasis, left lung clear.": "effusion+R atelectasis+R",
        "Elevated left hemidiaphragm and atelectasis.": "atelectasis+",
        "Opacity, probably scarring, at the right apex.": "opacity+R",
    },
    "other meanings": {
        "Pericardial effusion.": "",
        "Bone mineral density is normal.": "",
        "Subcutaneous edema.": "",
        "Fractured sternal wire.": "",
        "Splenic granulomas.": "",
        "Portable film.": "",
        "Calcified lymph nodes from old granulomatous disease.": "",
    },
    "precedence": {
        "No effusion on the right. Small effusion on the left.": "effusion+L",
        "Possible nodule. No nodule.": "lesion?",
        "Possible nodule. A nodule is present.": "lesion+",
        "The lungs are clear. Minimal atelectasis.": "atelectasis+ opacity- consolidation- edema- pneumonia-",
    },
    "sections": {
        "INDICATION: pneumonia. FINDINGS: No effusion. IMPRESSION: Normal heart size.": "effusion- heart-",
        "Technique: chest tube visible. Findings: cardiomegaly.": "heart+",
        "Comparison: small effusion. Impression: No effusion.": "effusion-",
        "History: fracture.\n\nThe heart is enlarged.": "heart+",
        "Clinical history: r/o pneumothorax\nFindings:\n\nEffusion.": "effusion+",
        "Impression: 1. Edema. 2. No effusion": "edema+ effusion-",
        "Effusion.\n- No edema\n- Fracture": "effusion+ edema- fracture+",
        "FINDINGS: Effusion seen in comparison: no.": "effusion-",
    },
}
CASES = [
    pytest.param(text, expected, id=f"{kind}: {text[:50]!r}")
    for kind, rows in READINGS.items()
    for text, expected in rows.items()
]
SENTENCES = [text for kind, rows in READINGS.items() if kind != "sections" for text in rows]


def said(text: str) -> dict[str, tuple[Status, Side]]:
    return {name: (one.status, one.side) for name, one in label(text).items()}


def expectation(row: str) -> dict[str, tuple[Status, Side]]:
    found = {}
    for part in row.split():
        side = SIDE.get(part[-1], Side.NONE_SAID)
        part = part.rstrip("LRB")
        found[SHORT[part[:-1]]] = (SIGN[part[-1]], side)
    return found


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_reads(text, expected):
    found = {name: one for name, one in said(text).items() if one[0] and name != "No Finding"}
    assert found == expectation(expected)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Nothing acute.", Status.PRESENT),
        ("A pacemaker is in place.", Status.PRESENT),
        ("No effusion at all.", Status.PRESENT),
        ("Cardiomegaly.", Status.ABSENT),
        ("Possible effusion.", Status.ABSENT),
        ("", Status.NOT_MENTIONED),
        (" \n 12. ", Status.NOT_MENTIONED),
        ("Indication: cough.", Status.NOT_MENTIONED),
    ],
)
def test_no_finding_needs_words_and_nothing_found(text, status):
    assert label(text)["No Finding"].status == status


def test_evidence_points_at_the_words():
    text = "IMPRESSION: No İ edema. The HEART is enlarged, small Effusion, left effusion."
    found = label(text)
    assert [text[start:end] for start, end in found["Cardiomegaly"].evidence] == ["HEART is enlarged"]
    assert [text[start:end] for start, end in found["Pleural Effusion"].evidence] == ["Effusion", "effusion"]
    assert [text[start:end] for start, end in found["Edema"].evidence] == ["edema"]
    assert found["Fracture"] == Label(Status.NOT_MENTIONED)


def test_arrays_hold_codes_in_the_order_of_observations():
    status, side = as_arrays([label("Left effusion, no edema."), label("Normal.")])
    assert status.shape == side.shape == (2, 14)
    column = OBSERVATIONS.index("Pleural Effusion")
    assert status[:, column].tolist() == [Status.PRESENT, Status.NOT_MENTIONED]
    assert side[0, column] == Side.LEFT
    assert status[1, 0] == Status.PRESENT
    assert as_arrays([])[0].shape == (0, 14)


def test_read_text_drops_what_is_no_finding():
    assert read_text("Indication: fever. Findings: Clear lungs.").strip() == "Clear lungs."


IRRELEVANT = [
    "The patient is rotated.",
    "Two views were obtained.",
    "Spondylosis of the lower spine.",
    "The trachea lies in the middle.",
]


@settings(max_examples=150)
@given(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=4), st.sampled_from(IRRELEVANT), st.integers(0, 4))
def test_an_irrelevant_sentence_changes_nothing(sentences, other, place):
    more = [*sentences[:place], other, *sentences[place:]]
    assert said(" ".join(more)) == said(" ".join(sentences))


@settings(max_examples=150)
@given(st.lists(st.sampled_from(SENTENCES), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_order_of_sentences_does_not_matter(sentences, rng):
    mixed = list(sentences)
    rng.shuffle(mixed)
    assert said(" ".join(mixed)) == said(" ".join(sentences))


@settings(max_examples=150)
@given(st.sampled_from(SENTENCES), st.lists(st.sampled_from([" ", "  ", "\n", "\t", " \n "]), min_size=8, max_size=8))
def test_case_and_white_space_do_not_matter(sentence, blanks):
    words = sentence.split(" ")
    spaced = "".join(word + blanks[index % 8] for index, word in enumerate(words))
    assert said(spaced) == said(sentence.upper()) == said(sentence)


@settings(max_examples=100)
@given(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=4))
def test_a_text_says_what_its_sentences_say_together(sentences):
    """Precedence by an oracle: the strongest statement of the sentences read alone."""
    alone = [label(sentence) for sentence in sentences]
    for name, found in label(" ".join(sentences)).items():
        if name != "No Finding":
            assert found.status == max(one[name].status for one in alone)


@settings(max_examples=100)
@given(st.text(max_size=80))
def test_any_text_is_read(text):
    assert list(label(text)) == list(OBSERVATIONS)


def test_real_reports_are_read_in_any_order():
    path = real("openi_reports") / "reports.jsonl"
    reports = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:60]]
    texts = [f"{report['findings']} {report['impression']}".strip() for report in reports]
    status, _ = as_arrays([label(text) for text in texts])
    assert ((status[:, 0] == Status.NOT_MENTIONED) == np.array([not text for text in texts])).all()
    found = (status[:, 1:-1] >= Status.UNCERTAIN).any(axis=1)
    assert ((status[:, 0] == Status.PRESENT) == ~found & (status[:, 0] > 0)).all()
    rng = random.Random(0)
    for report, row in zip(reports, status, strict=True):
        halves = [half for half in (report["findings"], report["impression"]) if half]
        rng.shuffle(halves)
        assert as_arrays([label("\n\n".join(halves))])[0][0].tolist() == row.tolist()
