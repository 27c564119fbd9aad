"""The audit: a planted identifier is found in every carrier and spelling, never shown, and clean folders stay clean."""

from __future__ import annotations

import argparse
import base64
import bz2
import gzip
import io
import json
import lzma
import sqlite3
import struct
import zipfile
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from launch.corpus_commands import audit as command
from medclm.corpus import audit_readers
from medclm.corpus.audit import audit
from medclm.corpus.audit_patterns import find_patterns, masked, patterns
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.ids import phantom_ids
from medclm.corpus.pixels import encode_jpeg, encode_png
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.splits import SplitRule
from medclm.corpus.writers.template import TemplateWriter

NAME, NUMBER = "Kowalski^Zofia", "48151623"
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint8)


def png(**options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format="PNG", **options)
    return buffer.getvalue()


def png_text(text, *, compressed=False):
    info = PngInfo()
    info.add_text("Comment", text, zip=compressed)
    return png(pnginfo=info)


def jpeg_exif(text):
    exif = Image.Exif()
    exif[0x010E] = text
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format="JPEG", exif=exif)
    return buffer.getvalue()


def arrow(column, *, options=None, file=False):
    sink = io.BytesIO()
    table = pa.table({"n": list(range(len(column))), "value": column})
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def zipped(name, content):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return sink.getvalue()


def sqlite(path, value):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tags (key TEXT, value)")
        connection.executemany("INSERT INTO tags VALUES (?, ?)", [("a", "clean"), ("b", value)])
    connection.close()
    return path.read_bytes()


def parquet(value):
    sink = io.BytesIO()
    pq.write_table(pa.table({"value": ["a", value]}), sink, compression="gzip")
    return sink.getvalue()


def safetensors(text):
    header = json.dumps({"__metadata__": {"note": text}}).encode()
    return struct.pack("<Q", len(header)) + header + PIXELS.tobytes()


def nested(value):
    return pa.array(
        [[{"bytes": png(), "note": "x"}], [], [{"bytes": png(), "note": "y"}, {"bytes": png_text(value), "note": "z"}]]
    )


LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")
CARRIERS = {
    "text": (lambda t, _: f"a\nb {t} c".encode(), "line 2"),
    "json value": (lambda t, _: json.dumps({"a": [1, t]}).encode(), "line 1"),
    "html attribute": (lambda t, _: f"<p title='{t}'>x</p>".encode(), "line 1"),
    "picture in html": (
        lambda t, _: b"<img src='data:image/png;base64," + base64.b64encode(png_text(t)) + b"'>",
        "line 1, base64, picture text",
    ),
    "png text": (lambda t, _: png_text(t), "picture text"),
    "png compressed text": (lambda t, _: png_text(t, compressed=True), "picture text"),
    "png exif": (lambda t, _: png(exif=_exif(t)), "picture EXIF"),
    "behind a png": (lambda t, _: encode_png(PIXELS) + t.encode(), "picture trailing data"),
    "jpeg exif": (lambda t, _: jpeg_exif(t), "picture EXIF or XMP"),
    "behind a jpeg": (lambda t, _: encode_jpeg(PIXELS) + t.encode(), "picture trailing data"),
    "utf-16 with mark": (lambda t, _: f"a\nb {t}".encode("utf-16"), "line 2"),
    "utf-16 in binary": (lambda t, _: b"\0\1\2" * 50 + t.encode("utf-16-le"), "byte 150"),
    "binary": (lambda t, _: b"\0\1\2\xff" * 50 + t.encode() + b"\0", "byte 200"),
    "gzip": (lambda t, _: gzip.compress(t.encode()), "unpacked, line 1"),
    "bzip2": (lambda t, _: bz2.compress(t.encode()), "unpacked, line 1"),
    "xz": (lambda t, _: lzma.compress(t.encode()), "unpacked, line 1"),
    "zip member": (lambda t, _: zipped("a.txt", t), "member 0, line 1"),
    "name of a zip member": (lambda t, _: zipped(f"x/{t}.txt", "clean"), "member 0, name"),
    "picture in a gzip in a zip": (
        lambda t, _: zipped("a.gz", gzip.compress(png_text(t))),
        "member 0, unpacked, picture text",
    ),
    "arrow stream": (lambda t, _: arrow(["a", "b", None, f"c {t}"]), "column value, row 3"),
    "arrow file, compressed": (lambda t, _: arrow(["a", f"{t} {t}"], options=LZ4, file=True), "column value, row 1"),
    "arrow dictionary": (lambda t, _: arrow(pa.array(["a", t, "a"]).dictionary_encode()), "column value, row 1"),
    "arrow list": (lambda t, _: arrow(pa.array([["a"], ["b", t]])), "column value, row 1"),
    "picture in arrow": (lambda t, _: arrow(nested(t), options=LZ4), "column value.bytes, row 2, picture text"),
    "arrow metadata": (lambda t, _: _with_metadata(t), "schema metadata"),
    "parquet": (lambda t, _: parquet(t), "column value, row 1"),
    "sqlite": (lambda t, path: sqlite(path, t), "table tags, column value, row 1"),
    "safetensors header": (lambda t, _: safetensors(t), "header"),
    "base64": (lambda t, _: b"token=" + base64.b64encode(b"so it is: " + t.encode() + b"."), "line 1"),
}


def _exif(text):
    exif = Image.Exif()
    exif[0x010E] = text
    return exif


def _with_metadata(text):
    sink = io.BytesIO()
    schema = pa.schema([pa.field("a", pa.int64())], metadata={"source": text})
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.table({"a": [1]}, schema=schema))
    return sink.getvalue()


def write(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize("text", [NAME, NUMBER])
@pytest.mark.parametrize("name", CARRIERS)
def test_a_planted_identifier_is_found_in_every_carrier(tmp_path, name, text):
    make, place = CARRIERS[name]
    write(tmp_path, "carrier", make(text, tmp_path / "carrier"))
    found = [finding for finding in audit([tmp_path], ["Nobody^Else", text]) if finding.kind == "identifier"]
    assert {finding.identifier for finding in found} == {2}
    assert place in {finding.place for finding in found}
    assert text.lower() not in repr(found).lower()
    assert not [one for one in audit([tmp_path], ["Nobody^Else", "99999999"]) if one.kind == "identifier"]


SPELLINGS = {
    "case": "KOWALSKI^zofia",
    "other separators": "Kowalski, Zofia",
    "no separators": "x_KowalskiZofia_y",
    "exchanged": "Zofia Kowalski",
    "url": quote(NAME, safe=""),
    "base64 lead 0": base64.b64encode(NAME.encode()).decode(),
    "base64 lead 1": base64.b64encode(b"!" + NAME.encode() + b"?").decode(),
    "base64 lead 2": base64.b64encode(b"!!" + NAME.upper().encode()).decode(),
    "hex": NAME.encode().hex(),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_an_identifier_is_found_in_other_spellings(tmp_path, name):
    write(tmp_path, "a.txt", f"before {SPELLINGS[name]} after".encode())
    found = audit([tmp_path], [NAME])
    assert [one.identifier for one in found if one.kind == "identifier"] == [1]


def test_names_beyond_ascii_are_found_in_any_case_and_code(tmp_path):
    for number, data in enumerate(
        ["MÜLLER-ŁUC".encode(), "müller-łuc".encode(), json.dumps("Müller-Łuc").encode(), "Müller-Łuc".encode("utf-16-le")]
    ):
        write(tmp_path, f"{number}.bin", data)
    write(tmp_path, "latin.bin", b"\0" + "Müller".encode("latin-1"))
    found = {(one.file, one.identifier) for one in audit([tmp_path], ["Müller-Łuc", "Müller"])}
    assert {(f"{number}.bin", 1) for number in range(4)} | {("latin.bin", 2)} <= found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MRN48151623", 1),
        ("scan_48151623.png", 1),
        ("48-15-16-23", 1),
        ("4815 1623", 1),
        ('{"n": 48151623}', 1),
        ("148151623", 0),
        ("481516234", 0),
        ("0.48151623", 0),
        ("48.15, 16.23", 0),
        ("48, 15, 16, 23", 0),
        ("ab48151623cdef0123456789", 0),
    ],
)
def test_a_number_is_found_as_a_whole_number_only(tmp_path, text, expected):
    write(tmp_path, "a.txt", text.encode())
    assert len([one for one in audit([tmp_path], [NUMBER], long_number=20) if one.kind == "identifier"]) == expected


def test_a_number_is_found_in_columns_of_numbers(tmp_path):
    write(tmp_path, "a.arrow", arrow([1, 48151623, 3]))
    sqlite(tmp_path / "b.db", 48151623)
    found = audit([tmp_path], [NUMBER])
    assert [(one.file, one.place) for one in found] == [
        ("a.arrow", "column value, row 1"),
        ("b.db", "table tags, column value, row 1"),
    ]


def test_short_identifiers_are_words_and_not_looked_for_in_random_bytes(tmp_path):
    write(tmp_path, "a.txt", b"He wrote lee. Lee came; LEE went. fleece")
    write(tmp_path, "b.bin", np.random.default_rng(0).integers(0, 256, 1 << 22, dtype=np.uint8).tobytes() + b" Lee ")
    found = audit([tmp_path], ["Lee"])
    assert [(one.file, one.kind) for one in found] == [("a.txt", "identifier")] * 3


SHAPES = {
    "dicom_uid": [
        "1.2.840.113619.2.55.3.604688119.971",
        "2.25.329800735698586629295641978511506172918",
        "1.3.6.1.4.1.14519.5.2.1",
    ],
    "date": [
        "1940-01-31",
        "19400131",
        "19400131235959",
        "31.01.1940",
        "1/31/1940",
        "31 January 1940",
        "Jan. 31st, 1940",
        "May 1940",
    ],
    "email": ["z.kowalski@hospital.example.org"],
    "phone": ["+48 22 123 45 67", "(555) 123-4567", "555-123-4567"],
    "path": [
        "/home/zofia/x.dcm",
        "/pacs/export/7/x",
        r"C:\Users\zofia\x",
        r"\\server\share\x",
        "file:///pacs/x",
        "sqlite:////pacs/x.db",
    ],
    "age_over_89": [
        "93-year-old",
        "a 101 years old man",
        "93 y/o",
        "093Y",
        '"age": 93',
        '"patient_age": "091"',
        "aged 95",
        '"age_decade": 100',
    ],
    "person_name": ["Kowalski^Zofia"],
    "long_number": ["seen under 4815162", '"48151623"', '{"patient_id": 48151623}', "accession: 48151623", "MRN-48151623"],
    "key_material": ["-----BEGIN RSA PRIVATE KEY-----"],
}
CLEAN = [
    '{"step": 1234567, "time": 1795383246.145, "loss": 0.20200131, "samples": [1234567, 20400131.5], "seed": -12345678}',
    '{"record_id": "0123456789abcdef0123456789abcdef", "sha256": "00202001310000000000000000000000ffff", "age": 71}',
    "run 12345678-2020-0131-2020-123456789012 and 4a3b2020-0131-4020-9020-010120200131",
    '{"size": [9, 9], "counts": "PY11n3^1N2O0C:\\\\O2@a.bc 93Y Ab^Cd 20200131"}',
    "a 71-year-old; page 93; 93 %; image 95; age 8; version 3.11.7; CC BY 4.0; torch 2.13.0+cpu; dated 2020",
    "see mg/dl and and/or, <a href='x'>b</a>, #!/usr/bin/env python, https://a.example/b/c/d, runs/demo/eval/vqa",
    "1.2.840.10008.5.1.4.1.1.2 and 1.2.840.10008.1.2.1 name formats",
    "box [0.123, 0.456, 0.789, 0.999], window -600/1500, 40/400, +1 555, x^2 and T2*",
    '"age_decade": 90, "organ_score": 0.9999999, "bytes": 12345678901',
]


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_of_identifiers_are_found(kind):
    for text in SHAPES[kind]:
        for data in (text, f"so {text}, that", f'{{"a": "x {text}"}}', f"{text}\n"):
            kinds = {hit.kind for hit in find_patterns(data.encode(), patterns())}
            assert kinds == {kind}, data


@pytest.mark.parametrize("text", CLEAN)
def test_what_a_run_writes_has_no_such_shape(text):
    assert not find_patterns(text.encode(), patterns())


def test_the_search_of_shapes_stays_linear():
    """Each of these once made an expression try every position to the end; minutes then, well under a second now."""
    for unit in (b"a", b"ab-", b"/a", b"9", b"A'", b"\\a", b"a.b", b"0123456789abcdef-", b"(123) "):
        assert len(find_patterns(unit * (200_000 // len(unit)) + b" @ ^ :\\ :///", patterns())) < 100_000


def test_a_phantom_corpus_is_clean(tmp_path):
    options = BuildOptions(ids=phantom_ids(0), seed=0, split=SplitRule(), workers=1, progress=False)
    build(PhantomSource(count=12, seed=0, size=64), TemplateWriter(), tmp_path / "corpus", options)
    assert audit([tmp_path / "corpus"], [NAME, NUMBER]) == []


def test_pictures_with_anything_but_pixels_are_named(tmp_path):
    write(tmp_path, "clean.png", encode_png(PIXELS))
    write(tmp_path, "clean.jpg", encode_jpeg(PIXELS))
    write(tmp_path, "text.png", png_text("quiet"))
    write(tmp_path, "exif.jpg", jpeg_exif("quiet"))
    write(tmp_path, "in.arrow", arrow(pa.array([encode_png(PIXELS), png_text("quiet")])))
    found = [(one.file, one.place, one.kind) for one in audit([tmp_path])]
    assert found == [
        ("exif.jpg", "picture EXIF or XMP", "image_metadata"),
        ("in.arrow", "column value, row 1, picture text", "image_metadata"),
        ("text.png", "picture text", "image_metadata"),
    ]


def test_file_names_links_and_keys_are_looked_at_and_shown_masked(tmp_path):
    write(tmp_path, f"eval/{NAME}.txt", b"clean")
    write(tmp_path, "id.key", b"x")
    write(tmp_path, "stray", b"0123456789abcdef" * 4 + b"\n")
    (tmp_path / "stray").chmod(0o644)
    (tmp_path / "link").symlink_to("/home/zofia/data")
    found = audit([tmp_path], [NAME])
    assert [(one.file, one.place, one.kind) for one in found] == [
        ("eval/Xxxxxxxx^Xxxxx.txt", "file name", "identifier"),
        ("eval/Xxxxxxxx^Xxxxx.txt", "file name", "person_name"),
        ("id.key", "file name", "key_material"),
        ("link", "target of a link", "path"),
        ("link", "", "not_searched"),
        ("stray", "whole file", "key_material"),
    ]
    assert found[-1].excerpt == "a key in hex, mode 0644, readable by others"


def test_what_cannot_be_opened_is_named(tmp_path):
    write(tmp_path, "a.pdf", b"%PDF-1.7 ...")
    write(tmp_path, "b.gz", gzip.compress(b"x" * 999)[:-12])
    write(tmp_path, "c.zip", zipped("a", "b")[:-20])
    write(tmp_path, "d.arrow", arrow(["a" * 99, "b"])[:-150])
    write(tmp_path, "e.db", b"SQLite format 3\0" + b"\7" * 200)
    found = audit([tmp_path])
    assert [(one.file, one.kind) for one in found] == [
        (n, "not_searched") for n in ("a.pdf", "b.gz", "c.zip", "d.arrow", "e.db")
    ]


def test_columns_named_after_a_patient_are_masked_too(tmp_path):
    sink = io.BytesIO()
    table = pa.table({NAME: ["93-year-old"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    write(tmp_path, "a.arrow", sink.getvalue())
    found = audit([tmp_path], [NAME])
    assert ("column Xxxxxxxx^Xxxxx, row 0", "age_over_89") in [(one.place, one.kind) for one in found]
    assert NAME not in repr(found)


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_long_files_are_searched_across_the_seams(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(audit_readers, "_CHUNK", 1000)
    monkeypatch.setattr(audit_readers, "_OVERLAP", 100)
    monkeypatch.setattr(audit_readers, "_WHOLE", 10)
    filler = b"word word\n" if kind == "text" else b"\0\1\2\3\4\5\6\7\x08\x0b"
    for shift in range(0, 1100, 9):
        data = bytearray(filler * 330)
        places = [900 + shift, 2100 + shift]
        for place in places:
            data[place : place + len(NAME)] = NAME.encode()
        write(tmp_path, "long", bytes(data))
        found = [one.place for one in audit([tmp_path], [NAME]) if one.kind == "identifier"]
        lines = [f"line {bytes(data[:place]).count(b'%c' % 10) + 1}" for place in places]
        assert found == (lines if kind == "text" else [f"byte {place}" for place in places]), shift
    number = b"1" * 940 + b"48151623" + b"1" * 2000  # a seam is no boundary of a number
    write(tmp_path, "long", number)
    assert audit([tmp_path], [NUMBER, "1" * 15]) == []


def test_many_findings_of_a_file_are_counted_not_listed(tmp_path):
    write(tmp_path, "a.txt", b"a@b.org\n" * 50)
    found = audit([tmp_path])
    assert len(found) == 21
    assert (found[-1].place, found[-1].excerpt) == ("elsewhere in the file", "30 more")


def test_a_mask_shows_shape_alone():
    assert masked("Kowal-ska^Żó 12é".encode()) == "Xxxxx-xxx^Xx 99x"
    assert masked(b"9" * 50) == "9" * 40 + "..."


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    args = parser.parse_args(["audit", *map(str, arguments)])
    return args.run(args)


def test_the_command_prints_a_masked_table_and_exits_with_five(tmp_path, capsys):
    (tmp_path / "list.txt").write_text(f"Nobody Else\n{NAME}\n", encoding="utf-8")
    for number, text in enumerate((f"x {NAME}", "clean")):
        write(tmp_path, f"folder{number}/a.txt", text.encode())
    folders = [tmp_path / "folder0", tmp_path / "folder1"]
    assert run(*folders, "--identifiers", tmp_path / "list.txt", "--json", tmp_path / "r.json") == 5
    shown, stored = capsys.readouterr().out, (tmp_path / "r.json").read_text()
    assert "1: a.txt" in shown
    assert "identifier 2" in shown
    assert NAME not in shown + stored
    assert json.loads(stored)["counts"] == {"identifier": 1, "person_name": 1}
    assert run(folders[1], "--identifiers", tmp_path / "list.txt") == 0
    assert run(folders[1], "--pattern", "cl[a-e]+n") == 5


def test_mistakes_are_said_without_the_identifier(tmp_path):
    write(tmp_path, "short.txt", b"Kowalski\nab\n")
    write(tmp_path, "empty.txt", b"\n")
    for flags, message in (
        (["--identifiers", tmp_path / "short.txt"], r"short.txt:2: fewer than 3 characters"),
        (["--identifiers", tmp_path / "empty.txt"], "holds no identifier"),
        (["--identifiers", tmp_path / "none.txt"], "No such file"),
        (["--pattern", "("], "give a regular expression"),
        (["--digits", 2], "give 4 to 20"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, *flags)
    with pytest.raises(ValueError, match="not a folder"):
        run(tmp_path / "short.txt")
    with pytest.raises(ValueError, match="identifier 2 of the list has 2 characters"):
        audit([tmp_path], ["Kowalski", "ab"])


@pytest.mark.parametrize("name", CARRIERS)
def test_a_damaged_file_never_stops_the_audit(tmp_path, name):
    """Cut short or with changed bytes; a damaged Arrow file must not even be able to crash the reader."""
    rng = np.random.default_rng(len(name))
    whole = CARRIERS[name][0](NAME, tmp_path / "carrier")
    for turn in range(12):
        damaged = bytearray(whole)
        if turn % 3:
            for place in rng.integers(0, len(damaged), 6):
                damaged[place] = rng.integers(0, 256)
        else:
            damaged = damaged[: rng.integers(0, len(damaged))]
        write(tmp_path, "carrier", bytes(damaged))
        assert isinstance(audit([tmp_path], [NAME]), list)


def test_a_uid_of_the_list_is_found_though_it_is_long_and_all_digits_like_a_part_of_a_hash(tmp_path):
    uid = "1.2.826.0.1.3680043.77.4401.9"
    (tmp_path / "a.bin").write_bytes(b"\0\1\2\xff" * 50 + b"UI\x1e\0" + uid.encode() + b"\0\0")
    (tmp_path / "b.txt").write_text(f"study {uid}.17 here")
    (tmp_path / "c.txt").write_text("sha256 0f9e" + uid.replace(".", "") + "77aa")
    found = [one.file for one in audit([tmp_path], [uid]) if one.identifier]
    assert found == ["a.bin", "b.txt"]
