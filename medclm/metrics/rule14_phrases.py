"""The tables of `rule14`: which words name an observation, and which states of an organ mean one. Cues are in rule14_cues.py.

Patterns are regular expressions over lower case in which a blank stands for white space or a hyphen and ` ?` for neither or
either; they match whole words. Of two phrases of which one lies inside the other only the longer speaks, so a longer phrase
in `UNRELATED` silences a shorter one. Names of the observations: Irvin et al. 2019 (CheXpert); the phrases are our own. Tables
only; rule14.py reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import NamedTuple

OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
SIDELESS = frozenset(("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly"))
"""Observations that have no side."""


class Status(IntEnum):
    """What a text says of an observation; of several statements the largest counts."""

    NOT_MENTIONED = 0
    ABSENT = 1
    UNCERTAIN = 2
    PRESENT = 3


class Side(IntFlag):
    """Where a finding is said to be; left with right is bilateral."""

    NONE_SAID = 0
    LEFT = 1
    RIGHT = 2
    BILATERAL = 3


# What a phrase says when no cue reaches it: present by default, uncertain for a sign that has other causes too.
NAMES: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": (
        r"(widen\w*|enlarge\w*|broad\w*) (of )?(the )?(superior |upper )?mediastin\w+",
        r"mediastinal (widening|enlargement|broadening)",
    ),
    "Cardiomegaly": (
        r"cardiomegaly",
        r"cardiac enlargement|enlargement of the heart|(enlarged|large) heart|heart enlargement",
        r"(right|left|bi) ?(ventricular|atrial) enlargement|ventricular hypertrophy",
    ),
    "Lung Lesion": (
        r"(micro)?nodul(e|es|ar|arity)",
        r"nodular (airspace |air space |like )?(densit\w+|opacit\w+|shadow\w*|focus|foci)",
        r"mass(es)?|mass ?like (densit\w+|opacit\w+|consolidation|lesion|area)|mass ?like",
        r"round(ed)? (area of )?(densit\w+|opacit\w+)",
        r"(lung|pulmonary|cavitary|cavitating|coin|parenchymal|hilar|suspicious) lesions?|cavit(y|ies|ation)",
        r"neoplas\w+|malignan\w+|tumou?rs?|carcinoma\w*|(lung )?cancer|metasta\w+",
        r"granulomas?|granulomata",
    ),
    "Lung Opacity": (
        r"opacit(y|ies)|opacifi\w+|(ground ?glass|hazy|haziness)( opacit\w+)?",
        r"consolidative (airspace |air space )?(opacit\w+|changes?)",
        r"infiltrat(e|es|ion|ions|ive)",
        r"(air ?space|alveolar|parenchymal) (disease|process|densit\w+|changes?)",
        r"densit(y|ies)",
        r"interstitial (lung |pulmonary )?(disease|markings|prominence|thickening|changes?|fibrosis|pattern|process|infiltrat\w+)",
        r"(increased|prominent|prominence of (the )?|coarse\w*|accentuated|chronic) (lung|pulmonary|perihilar|reticular) markings",
        r"fibrosis|fibrotic( changes?)?|reticul(ar|ation|onodular)( (pattern|opacit\w+))?|honeycomb\w*",
        r"scar(s|ring)?|pleuro ?parenchymal (scar\w*|irregularit\w+)|cicatri\w+|parenchymal bands?",
    ),
    "Edema": (
        r"o?edema|pulmonary o?edema",
        r"(congestive )?heart failure|chf|(cardiac|heart) decompensation",
        r"kerley\w*( b)?( lines)?",
    ),
    "Consolidation": (r"consolidat(ion|ions|ed|ing)", r"consolidative (airspace |air space )?(opacit\w+|changes?)"),
    "Pneumonia": (
        r"(broncho)?pneumonias?|pneumonitis|pneumonic",
        r"infections?|infectious( (process|infiltrat\w+|etiolog\w+))?",
    ),
    "Atelectasis": (
        r"atelecta\w+",
        r"(lobar|lobe|lung|segmental|alveolar|rul|rml|rll|lul|lll) collapse|collaps\w+ (of )?(the )?((right|left) )?((upper|middle|lower) )?(lung|lobe)",
    ),
    "Pneumothorax": (r"pneumo ?thora\w+|hydro ?pneumothora\w+|h(a?)emo ?pneumothora\w+|ptx", r"pleural air( collections?)?"),
    "Pleural Effusion": (
        r"effusions?|pleural (fluid|effusions?|collections?|fluid collections?)",
        r"hydro ?(pneumo ?)?thora\w+|ha?emo ?(pneumo ?)?thora\w+|empyema",
        r"fluid (is )?(seen )?(with)?in (the )?((major|minor|right|left|horizontal|oblique) )*fissures?|fissural fluid",
    ),
    "Pleural Other": (
        r"pleural (\w+ )?(thickening|plaques?|calcifications?|scar\w*|reaction|disease|nodularity|masse?s?)|thickened pleura",
        r"pleuro ?parenchymal (scar\w*|thickening|irregularit\w+)|fibrothorax|apical cap\w*",
        r"thickening of the (\w+ )?pleura|(apical|biapical) thickening",
    ),
    "Fracture": (r"fractur\w+|fx",),
    "Support Devices": (
        r"(endotracheal|nasogastric|orogastric|enteric|feeding|gastric|tracheostomy|chest|thoracostomy|drainage|pleural|ng|og|et|dobhoff|dobbhoff) (tube|catheter|drain)s?",
        r"(tube|catheter|drain|cannula|port|infusaport|tracheostomy|drainage tube|pigtail)s?|ett|ngt|ogt",
        r"(port|infus|medi|port a) ?(a )?(cath|port)\w*|chemotherapy port|central (venous )?(line|catheter)s?|vascular catheters?",
        r"(central|picc|venous|arterial|subclavian|jugular|ij|dialysis|swan ?ganz|support) lines?|lines and tubes|picc|swan ?ganz|cvc|vascath|permacath",
        r"pace ?makers?|pacer\w*|pacing (device|wire|lead)s?|(icd|aicd|defibrillator|cardioverter)s?( (leads?|device))?",
        r"(biventricular|pacer|pacemaker|dual|single|cardiac|electronic|monitoring|implantable|medical|support|assist|stimulator) (\w+ )?(leads?|devices?|generators?)",
        r"stimulators?|loop recorders?|(prosthetic|artificial|mechanical|bioprosthetic|replaced) (\w+ )?valves?|valve (prosthesis|replacement)s?",
        r"stents?|(septal )?occluder|balloon pump|iabp|lvad|ecmo|impella|(baclofen|infusion|pain) pump|ivc filter|vena cava filter",
        r"tips? (\w+ ){0,4}?(svc|superior vena cava|cavo ?atrial|caval atrial|atriocaval|carina)",
    ),
}

# Signs that are named by words which other causes share: uncertain even where nothing doubts them.
SIGNS: dict[str, tuple[str, ...]] = {
    "Edema": (  # congestion is the stage before edema; a radiograph often shows the one without the other
        r"(pulmonary |vascular |venous |central |pulmonary vascular |pulmonary venous )+(congestion|engorgement|redistribution|hypertension|cephalization)",
        r"(indistinct\w*|ill defined) (of )?(the )?(pulmonary )?(vascular\w*|vasculature)( margin\w*)?|cephalization",
        r"(prominen\w+|accentuat\w+|fullness) (of )?(the )?(central )?(pulmonary )?(vascular\w*|vasculature)|vascular prominence",
        r"(fluid|volume) overload",
    ),
    "Atelectasis": (r"volume loss",),  # fibrosis and surgery lose volume too
    "Fracture": (  # a deformity is most often, not always, an old fracture
        r"(compression|wedge|wedging|xxxx) (xxxx )?deformit\w+",
        r"(ribs?|clavic\w+|vertebra\w*|posttraumatic|post traumatic) (\w+ )?(contour )?deformit\w+",
        r"deformit\w+ (of|in|within|involving) (the )?(\w+ ){0,3}?(ribs?|clavicle|vertebra\w*|spine|t ?\d+|l ?\d)",
        r"post ?traumatic (changes?|deformit\w+) (of|in|to) (\w+ ){0,3}ribs?|vertebral (body )?height loss|loss of (vertebral )?height",
    ),
}

# Words for an abnormality of a whole organ: their denial denies the observations, their assertion names none of them.
GENERAL: dict[str, tuple[str, ...]] = {
    "Fracture": (
        r"(bony?|osseous|skeletal) (\w+ )?(abnormalit\w+|findings?|injur\w+|process|lesions?)",
        r"(abnormalit\w+|injur\w+) of the (bones|osseous structures|bony thorax|ribs)",
    ),
    "Pleural Effusion": (r"pleural (space )?(abnormalit\w+|process|disease)",),
    "Pneumothorax": (r"pleural (space )?(abnormalit\w+|process|disease)",),
}

# Longer phrases that hold a word of the tables above and mean something else.
UNRELATED: tuple[str, ...] = (
    r"pericardial (effusions?|fluid|mass|thickening|calcifications?)|joint effusions?|subpulmonic",
    r"(bone|bony|mineral|osseous|breast|fat|soft tissue|low|normal|metallic|calcific|sternal|substernal|retrosternal) densit\w+|bone mineral densit\w+",
    r"(sub ?cutaneous|soft tissue|chest wall|ankle|leg|limb|peripheral) (o?edema|opacit\w+|infiltrat\w+)",
    r"mass effect|body mass|muscle mass|(mediastinal|breast|adrenal|abdominal|chest wall|soft tissue|renal|thyroid|neck) (\w+ )?(mass|masses|lesions?|nodules?)",
    r"mediastinal (densit\w+|opacit\w+)",
    r"(lytic|blastic|sclerotic|bone|bony|osseous|destructive|rib|expansile|skeletal) (or \w+ )?(lesions?|metasta\w+|nodules?)|nipple shadows?",
    r"(breast|colon|prostate|renal|thyroid|ovarian|bladder|oesophageal|esophageal) (cancer|carcinoma|neoplasm|tumou?r)",
    r"(splenic|spleen|hepatic|liver|mediastinal|paratracheal|subcarinal|nodal) (\w+ )?granulomas?|granulomas? (in|of|within) the (spleen|liver|mediastinum)",
    r"(prior|previous|old|remote|chronic|treated) (granulomatous |healed )?(pneumonias?|infections?|infectious process|pneumonitis|histoplasmosis)",
    r"(tuberculo\w+|tb|fungal|granulomatous|wound|urinary) (\w+ )?infections?",
    r"(resection|excision|biopsy|ablation|removal|treatment) of (a |the )?(\w+ ){0,4}?(mass|nodule|tumou?r|cancer|carcinoma|neoplasm)",
    r"(lobectomy|pneumonectomy|segmentectomy|mastectomy|surgery|radiation|radiotherapy|chemotherapy) for (\w+ ){0,3}?(mass|nodule|tumou?r|cancer|carcinoma|malignancy)",
    r"(wire|lead|screw|hardware|catheter)s? (is |are )?fractur\w+|fractur\w+ (of )?(the )?(\w+ )?(wire|lead|screw|hardware|catheter)s?",
    r"eustachian tubes?|hiatal (hernia|densit\w+)|bronchial (cuffing|thickening|wall thickening)|peribronchial (cuffing|thickening)",
    r"(support|x ?ray|film) (of|markers?)|valve (calcification|plane|area)",
    r"(vertebral|disc|airway|bronchial|tracheal) (body )?collapse",
    r"surgical scars?|renal scar\w*|heart borders?|cardiac (apex|borders?)",
    r"normal (interstitial|lung|pulmonary) (lung )?markings",
    r"(left|right|remaining|underlying|visualized) lung( fields?)?|(left|right) (hemi ?)?(chest|thorax)( wall)?",
)

# Organs of which a text says how they are; "A state" below is bound to the organs it is said of.
ORGANS: dict[str, str] = {
    "heart": r"heart( size| silhouette| shadow| contours?)?|cardiac(?=,| and)|cardiac (and mediastinal )?(silhouettes?|contours?|size|shadow|outline)",
    "cardiomediastinum": r"cardio ?(mediastin\w+|pulmonary)( and hilar)?( silhouettes?| contours?)|cardiomediastinum|heart and mediastin(um|al contours?)",
    "mediastinum": r"mediastinum( size)?|mediastinal,?( and hilar)? (contours?|silhouettes?|structures|width|size|borders?|shadow)",
    "lungs": r"lungs|lung (fields?|zones|parenchyma)|pulmonary parenchyma",
    "pleura": r"pleura|pleural (spaces?|surfaces?|cavit\w+)",
    "angles": r"costo ?(phrenic|diaphragmatic)( angles?| sulc\w+| recess\w*| xxxx)?",
    "bones": r"bones|(osseous|bony|skeletal) (structures?|thorax)|skeleton|ribs|bony thorax",
    "chest": r"(radiographs?|films?|x ?rays?|exam\w*|appearance|study) of (the )?chest|chest( (x ?\w+|radiographs?|films?|exam\w*|study))?",
    "other": r"trachea|aorta|hil(a|um|ar contours?)|(pulmonary )?vascul\w+|hemi ?diaphragms?|diaphragms?|soft tissues?|lung volumes?|abdomen|spine|"
    r"pulmonary (arter\w+|vessels?)",
}
_LUNG_FIELD = ("Lung Opacity", "Consolidation", "Edema", "Pneumonia", "Atelectasis")
_SILHOUETTE = ("Cardiomegaly", "Enlarged Cardiomediastinum")

# What a normal or clear organ denies: only what would be seen in it. Clear lungs deny opacities, not nodules: radiologists
# write `lungs are clear` above granulomas. One clear lung denies nothing, since the other may not be.
NORMAL: dict[str, tuple[str, ...]] = {
    "heart": ("Cardiomegaly",),
    "cardiomediastinum": _SILHOUETTE,
    "mediastinum": ("Enlarged Cardiomediastinum",),
    "lungs": _LUNG_FIELD,
    "pleura": ("Pleural Effusion", "Pneumothorax"),
    "angles": ("Pleural Effusion",),
    "bones": ("Fracture",),
    "chest": tuple(name for name in OBSERVATIONS if name not in ("No Finding", "Support Devices")),
}
CLEAR: dict[str, tuple[str, ...]] = {
    "lungs": _LUNG_FIELD,
    "chest": _LUNG_FIELD,
    "pleura": ("Pleural Effusion", "Pneumothorax"),
    "angles": ("Pleural Effusion",),
}
_LARGE = {
    "heart": ("Cardiomegaly",),
    "cardiomediastinum": ("Enlarged Cardiomediastinum",),
    "mediastinum": ("Enlarged Cardiomediastinum",),
}


class State(NamedTuple):
    """How an organ is, and what that says of observations."""

    pattern: str
    status: Status
    says: Mapping[str, tuple[str, ...]]
    """Organ -> observations."""


STATES: tuple[State, ...] = (
    State(
        r"(with)?in (the )?(normal limits|limits of normal)|normal|unremarkable|(upper|high) limits? (of )?normal|(top|high) normal",
        Status.ABSENT,
        NORMAL,
    ),
    State(
        r"(shows?|reveals?|demonstrates?|have|has|with|without) (no )?(evidence of )?((acute|significant|focal|gross|active) )*abnormalit\w+",
        Status.ABSENT,
        NORMAL,
    ),
    State(r"clear", Status.ABSENT, CLEAR),
    State(r"sharp", Status.ABSENT, {"angles": ("Pleural Effusion",)}),
    State(r"intact", Status.ABSENT, {"bones": ("Fracture",)}),
    State(r"negative", Status.ABSENT, {"chest": NORMAL["chest"]}),
    State(r"enlarged|enlargement|(is|are|appears?|remains?) (\w+ )?large|increased in size", Status.PRESENT, _LARGE),
    State(
        r"widened|widening",
        Status.PRESENT,
        {"cardiomediastinum": _LARGE["cardiomediastinum"], "mediastinum": _LARGE["mediastinum"]},
    ),
    State(r"prominent|prominence|fullness|borderline", Status.UNCERTAIN, _LARGE),
    State(r"blunt(ed|ing)", Status.UNCERTAIN, {"angles": ("Pleural Effusion",)}),  # a small effusion, or an old scar
    State(r"stable|unchanged|similar|obscured|hyper ?\w+|hypo ?\w+|low|tortuous|ectatic|midline", Status.NOT_MENTIONED, {}),
)
