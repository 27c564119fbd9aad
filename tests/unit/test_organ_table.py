"""The plausible-organ table: every row sourced, the public datasets covered, a table of one's own read strictly."""

from __future__ import annotations

import re

import pytest

from medclm.corpus.anatomy import link
from medclm.corpus.organs import ANY_ORGAN_SOURCES, TABLE, allows, host_names, read_name, read_table, row_for
from medclm.corpus.sources.classes import canonical_class
from tests.drawn_anatomy import disc, host, image, lesion

CHEST_FILMS = {
    "NIH ChestX-ray14": "Atelectasis Cardiomegaly Effusion Infiltrate Mass Nodule Pneumonia Pneumothorax Consolidation Edema "
    "Emphysema Fibrosis Pleural_Thickening Hernia",
    "VinDr-CXR": "Aortic_enlargement Atelectasis Calcification Cardiomegaly Clavicle_fracture Consolidation Edema Emphysema "
    "Enlarged_PA ILD Infiltration Lung_Opacity Lung_cavity Lung_cyst Mediastinal_shift Nodule/Mass Pleural_effusion "
    "Pleural_thickening Pneumothorax Pulmonary_fibrosis Rib_fracture",
    "RSNA": "Lung_Opacity",
    "ChestX-Det": "Consolidation Effusion Nodule Fibrosis Fracture Pleural_Thickening Atelectasis Calcification Emphysema "
    "Diffuse_Nodule Cardiomegaly Pneumothorax Mass",
    "TBX11K": "ActiveTuberculosis ObsoletePulmonaryTuberculosis PulmonaryTuberculosis",
}
SLICES = {
    "DeepLesion": "bone_lesion abdominal_lesion mediastinal_lesion liver_lesion lung_lesion kidney_lesion soft_tissue_lesion "
    "pelvic_lesion",
    "LIDC and LUNA": "lung_nodule",
    "LiTS and KiTS": "liver_tumor kidney_tumor kidney_cyst",
    "Decathlon": "liver_cancer lung_cancer pancreas_cancer colon_cancer_primaries non-enhancing_tumour peritumoral_edema",
}


def test_every_row_of_the_table_has_a_source_and_known_names():
    for name, row in TABLE.items():
        assert row.source
        assert row.organs
        assert name == canonical_class(name) == row.lesion_class
        for organ in row.organs:
            assert read_name(organ) == (organ, None)
            assert organ in host_names({})


@pytest.mark.parametrize(
    ("names", "projection"), [*((n, True) for n in CHEST_FILMS.values()), *((n, False) for n in SLICES.values())]
)
def test_the_classes_of_public_datasets_have_a_row(names, projection):
    for name in names.split():
        row = row_for(canonical_class(name), source="x", projection=projection)
        assert row is not None, name
        if projection:
            assert not allows(row, "kidney"), name


@pytest.mark.parametrize(
    "name", ["nodule", "mass", "edema", "effusion", "calcification", "fracture", "tuberculosis", "fibrosis"]
)
def test_a_chest_films_word_limits_nothing_on_slices(name):
    assert row_for(name, source="x", projection=True) is not None
    assert row_for(name, source="x", projection=False) is None
    assert all(row_for(name, source=source, projection=True) is None for source in ANY_ORGAN_SOURCES)


def test_a_compartment_allows_the_organs_that_lie_in_it():
    for lesion_class, organ, expected in (
        ("bone lesion", "vertebra l3", True),
        ("bone lesion", "rib 3", True),
        ("bone lesion", "liver", False),
        ("mediastinal lesion", "left heart atrium", True),
        ("mediastinal lesion", "trachea", True),
        ("mediastinal lesion", "lung upper lobe", False),
        ("abdominal lesion", "duodenum", True),
        ("pelvic lesion", "prostate", True),
        ("soft tissue lesion", "gluteus maximus", True),
        ("kidney tumor", "kidney", True),
    ):
        assert allows(TABLE[lesion_class], organ) == expected, (lesion_class, organ)


def test_a_table_of_ones_own_replaces_the_built_in_one(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(
        "\ufeffClass,organs,source,state\n"
        'Ground-Glass_Opacity,lung,"a paper, 2020",no\n'
        "\n"
        "Ascites,abdomen | pelvis,our reviewers,yes\n",
        encoding="utf-8",
    )
    table = read_table(path)
    assert {name: (row.organs, row.source, row.state, row.only_projections) for name, row in table.items()} == {
        "ground glass opacity": (("lung",), "a paper, 2020", False, False),
        "ascites": (("abdomen", "pelvis"), "our reviewers", True, False),
    }
    liver = {"liver": disc(48, 48, 30)}
    spot = disc(48, 48, 5)
    assert host(link(image(lesion(spot, "ground glass opacity"), organs=liver), seed=0, table=table)) == (None, "unknown")
    unlisted = link(image(lesion(spot, "liver cyst"), organs=liver), seed=0, table=table)
    assert host(unlisted) == ("liver", "inside")
    assert unlisted.annotations[0].facts["organ_candidates"] == "any"  # a missing class is anywhere, and says so


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["class,organ,source", "a,lung,b"], ":1: the header is class,organ,source"),
        ([""], ":1: the header is"),
        (["class,organs,source"], ": holds no row"),
        (["class,organs,source", ",lung,b"], ":2: class is empty"),
        (["class,organs,source", "a,,b"], ":2: organs is empty"),
        (["class,organs,source", "a,|,b"], ":2: organs is empty"),
        (["class,organs,source", "a,lung,"], ":2: source is empty"),
        (["class,organs,source", "a,lung"], ":2: source is empty"),
        (["class,organs,source", "a,lung,b,c"], ":2: more cells than the header"),
        (["class,organs,source", "a,left lung,b"], ":2: organ 'left lung' has a side: write lung"),
        (["class,organs,source", "a,lung,b", "b,levir,c"], ":3: organ 'levir' is not known: did you mean liver?"),
        (["class,organs,source,state", "a,lung,b,maybe"], ":2: state is 'maybe': write yes or no"),
        (["class,organs,source", "Nodules,lung,b", "nodule,liver,c"], ":3: class nodule has a row already"),
    ],
)
def test_a_faulty_table_is_refused_by_file_and_row(tmp_path, lines, says):
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}{says}")):
        read_table(path)


def test_a_table_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "latin.csv").write_bytes(b"class,organs,source\na,lung,caf\xe9\n")
    for path in (tmp_path / "absent.csv", tmp_path, tmp_path / "latin.csv"):
        with pytest.raises(ValueError, match="cannot be read as CSV in UTF-8"):
            read_table(path)
