"""The review's pages as HTML. Works without a script: links, one form, and style rules that follow check boxes.

Every text that comes from a corpus, a reader or an error is escaped here. There is no inline style or script, so that the
pages can forbid both; pictures lie in an SVG, which scales boxes with them. Knows nothing of HTTP.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from medclm.corpus.report import NOTICE
from medclm.corpus.review.session import ReviewSession
from medclm.corpus.review.verdicts import LONGEST_NOTE, RIGHT, UNANSWERABLE, VERDICTS
from medclm.corpus.review.view import BOX, Finding, NumberedBox, Rows, View, towards

_MEANING = {
    RIGHT: "every word, box and side is true",
    "wrong_text": "untrue or unsupported: class, organ, size, count",
    "wrong_box": "a box misses, or is not what the text says",
    "wrong_side": "left and right, or another direction, is wrong",
    UNANSWERABLE: "this picture cannot answer the question",
}
_STAGE = {
    "easy": "the model gets the picture with the box drawn on it",
    "medium": "the model gets the picture without boxes and has to name them",
    "hard": "the model gets this picture and the question only",
}
_ZOOMS = (1, 2, 4, 8)
_LISTED = 60


def sample_page(session: ReviewSession, number: int, token: str) -> str:
    """The page of a sample; its verdict form carries `token`.

    Raises:
        IndexError: no such sample.
    """
    view, said = session.view(number), session.said(number)
    current = said.verdict if said else None
    parts = [
        _header(session, number),
        "<main>",
        _picture(view, number),
        f"<section class='texts {view.sample.stage}' tabindex='0' aria-label='Texts'>{_texts(view)}</section>",
        "</main>",
        _form(token, current, (said.note or "") if said else ""),
    ]
    return _document(f"Sample {number}", "".join(parts), root="../", script=True)


def done_page(session: ReviewSession) -> str:
    """What this reader has judged, and what is left."""
    still, counts = session.open_numbers(), session.counts()
    rows = [(verdict.replace("_", " "), str(counts[verdict])) for verdict in VERDICTS]
    if still:
        links = " ".join(f"<a href='sample/{number}'>{number}</a>" for number in still[:_LISTED])
        more = f" and {len(still) - _LISTED} more" if len(still) > _LISTED else ""
        left = f"<p><b>{len(still)} samples have no verdict yet.</b></p><p class='numbers'>{links}{more}</p>"
    else:
        left = "<p><b>All samples are judged.</b> You may close this page and stop the program with Ctrl-C.</p>"
    back = f"<p><a href='sample/{len(session)}'>Back to the samples</a></p>"
    body = f"<article class='card'><h1>Reader {_escape(session.reader)}</h1>{left}{_rows(rows)}{back}</article>"
    return _document("Review", body, root="")


def message_page(message: str, root: str | None) -> str:
    """A page that says one thing; `root` is where the review lies, None = not to be told."""
    back = f"<p><a href='{_escape(root)}'>To the next open sample</a></p>" if root else ""
    body = f"<article class='card'><h1>Review</h1><p>{_escape(message)}</p>{back}</article>"
    return _document("Review", body, root=root)


def _document(title: str, body: str, *, root: str | None, script: bool = False) -> str:
    """`root`: address of the folder that holds style and script, from the page; None = the page loads nothing."""
    style = "" if root is None else f"<link rel='stylesheet' href='{_escape(root)}style.css'>"
    kind = "reading" if script else "plain"
    load = f"<script src='{_escape(root)}script.js' defer></script>" if script else ""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<meta name='color-scheme' content='dark'><title>{_escape(title)}</title>{style}{load}</head>"
        f"<body class='{kind}'>{body}<footer>{_escape(NOTICE)}</footer></body></html>\n"
    )


def _escape(value: object) -> str:
    return html.escape(str(value), quote=True)


def _header(session: ReviewSession, number: int) -> str:
    total, still = len(session), session.open_numbers()
    behind = f"<a id='back' href='{number - 1}'>← back</a>" if number > 1 else "<span>← back</span>"
    ahead = f"<a id='forward' href='{number + 1 if number < total else '../done'}'>forward →</a>"
    following = next((one for one in still if one > number), still[0] if still else None)
    open_one = (
        f"<a id='open' href='{following}'>next open <kbd>O</kbd></a>"
        if following
        else "<a id='open' href='../done'>overview</a>"
    )
    return (
        f"<header><b>Review</b><span>reader <b>{_escape(session.reader)}</b></span>"
        f"<progress max='{total}' value='{total - len(still)}'></progress>"
        f"<span class='count'>sample <b id='position'>{number}/{total}</b> · {total - len(still)} judged</span>"
        f"<nav>{behind}{ahead}{open_one}</nav></header>"
    )


def _picture(view: View, number: int) -> str:
    shown = " checked" if view.sample.stage != "hard" else ""
    layer = _layer(view, number)
    toggle = (
        f"<input type='checkbox' id='boxes'{shown}><label for='boxes'>{_boxes_word(view)} <kbd>B</kbd></label>" if layer else ""
    )
    zooms = "".join(
        f"<input type='radio' name='zoom' id='zoom{factor}'{' checked' if factor == 1 else ''}><label for='zoom{factor}'>"
        f"{'fit' if factor == 1 else f'{factor}×'}</label>"
        for factor in _ZOOMS
    )
    width, height = view.size
    stage = view.sample.stage
    return (
        f"<section class='picture' aria-label='Picture'>{toggle}<span class='gap'></span>{zooms}"
        f"<div class='viewer'><div class='scroll'><svg id='picture' viewBox='0 0 {width} {height}' role='img' aria-label='picture of the sample'>"
        f"<image href='../picture/{number}/plain.png' width='{width}' height='{height}'/>{layer}</svg></div>{_edges(view)}</div>"
        f"<p class='stage'><b class='{stage}'>{stage.capitalize()}</b> {_STAGE[stage]}</p></section>"
    )


def _boxes_word(view: View) -> str:
    return "box" if len(view.boxes) == 1 else f"{len(view.boxes)} boxes"


def _layer(view: View, number: int) -> str:
    """What the check box shows and hides: the picture as Easy paints it, or outlines; with numbers where there are several."""
    if not view.boxes:
        return ""
    width, height = view.size
    if view.drawn:
        shapes = f"<image href='../picture/{number}/drawn.png' width='{width}' height='{height}'/>"
    else:
        shapes = "".join(_outline(box, view.size) for box in view.boxes)
    names = "".join(_number(box, view.size) for box in view.boxes) if len(view.boxes) > 1 else ""
    return f"<g class='boxes'>{shapes}{names}</g>"


def _outline(box: NumberedBox, size: tuple[int, int]) -> str:
    edges = box.box_unit.scaled(*size)
    role = " class='control'" if box.control else ""
    return f"<rect{role} x='{edges.x0:.2f}' y='{edges.y0:.2f}' width='{edges.width:.2f}' height='{edges.height:.2f}'/>"


def _number(box: NumberedBox, size: tuple[int, int]) -> str:
    letter = max(size) / 28
    edges = box.box_unit.scaled(*size)
    top = edges.y0 - letter * 0.25 if edges.y0 > letter * 1.3 else edges.y0 + letter
    return f"<text x='{edges.x0 + letter * 0.15:.2f}' y='{top:.2f}' font-size='{letter:.2f}'>{box.number}</text>"


def _edges(view: View) -> str:
    if view.edges is None:
        return "<span class='edge unknown'>orientation unknown: the picture alone proves no side</span>"
    return "".join(
        f"<abbr class='edge {name}' title='{_escape(towards(letters))}'>{_escape(letters)}</abbr>"
        for name, letters in vars(view.edges).items()
    )


def _texts(view: View) -> str:
    several = len(view.findings) > 1
    parts = [f"<p class='domain'>{_escape(view.domain)} · {_escape(view.question_kind.replace('_', ' '))}</p>"]
    parts.append(f"<h2>Question</h2><p class='said'>{_marked(view.question)}</p>")
    if view.rationale:
        parts.append(f"<h2>Rationale</h2><p class='said'>{_marked(view.rationale)}</p>")
    parts.append(f"<h2>Answer</h2><p class='said answer'>{_marked(view.answer)}</p>")
    if view.accepted:
        parts.append(f"<p class='aside'>also right: {_marked('; '.join(view.accepted))}</p>")
    if view.claims:
        parts.append(f"<h2>Claims</h2>{_rows(view.claims)}")
    heading = "Stored facts of the partner" if view.sample.stage == "hard" else "Stored facts"
    parts += [_finding(finding, f"{heading}{f', box {finding.number}' if several else ''}") for finding in view.findings]
    if not view.findings:
        parts.append("<h2>Boxes</h2><p class='aside'>This sample has none.</p>")
    parts.append(f"<h2>Picture</h2>{_rows(view.image)}")
    return "".join(parts)


def _finding(finding: Finding, heading: str) -> str:
    more = f"<details><summary>more facts</summary>{_rows(finding.more)}</details>" if finding.more else ""
    return f"<h2>{heading}</h2>{_rows(finding.facts)}{more}"


def _rows(rows: Rows | Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{_escape(name)}</th><td>{_marked(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def _marked(text: str) -> str:
    """Escaped text whose `<box:k>` are shown as `box k+1`."""
    pieces: Iterable[str] = BOX.split(text)
    return "".join(
        f"<span class='box'>box {int(piece) + 1}</span>" if position % 2 else _escape(piece)
        for position, piece in enumerate(pieces)
    )


def _form(token: str, current: str | None, note: str) -> str:
    buttons = "".join(
        f"<button name='verdict' value='{verdict}' class='{verdict}{' current' if verdict == current else ''}'"
        f" aria-pressed='{'true' if verdict == current else 'false'}' title='{_escape(_MEANING[verdict])}'>"
        f"<span><kbd>{key}</kbd> {verdict.replace('_', ' ')}</span><small>{_escape(_MEANING[verdict])}</small></button>"
        for key, verdict in enumerate(VERDICTS, 1)
    )
    return (
        "<form id='verdict' method='post' autocomplete='off'>"
        f"<input type='hidden' name='token' value='{_escape(token)}'><div class='buttons'>{buttons}</div>"
        f"<textarea name='note' id='note' rows='2' maxlength='{LONGEST_NOTE}' aria-label='Note'"
        f" placeholder='Note (N): no names, no patient data'>\n{_escape(note)}</textarea></form>"
    )
