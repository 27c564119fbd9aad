"""Style and script of the review pages, as texts, since the installed library holds Python files alone.

Dark and grey, so that the eye stays adapted to the picture; the only strong colours are boxes and the reader's own verdict.
"""

STYLE = """
:root { --ground: #0b0d10; --panel: #14181d; --line: #2a3139; --text: #d5dbe1; --quiet: #8b96a2; --accent: #6fb7d6;
  --right: #63b37f; --wrong: #d9776b; --open: #cfa556; --box: #4fd1ff; }
* { box-sizing: border-box; }
html, body { height: 100%; margin: 0; }
body { display: grid; grid-template-rows: auto minmax(0, 1fr) auto auto; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
kbd { font: inherit; font-size: .8em; padding: 0 .38em; border: 1px solid var(--line); border-radius: 4px; color: var(--quiet); }

header { display: flex; align-items: center; gap: 1.2rem; padding: .45rem 1rem; background: var(--panel);
  border-bottom: 1px solid var(--line); white-space: nowrap; }
header progress { flex: 1; min-width: 4rem; height: .4rem; appearance: none; border: 0; border-radius: 4px; background: var(--line); }
header progress::-webkit-progress-bar { background: var(--line); border-radius: 4px; }
header progress::-webkit-progress-value { background: var(--accent); border-radius: 4px; }
header progress::-moz-progress-bar { background: var(--accent); border-radius: 4px; }
header nav { display: flex; gap: 1.1rem; }
header nav span, .count { color: var(--quiet); }
.count b { color: var(--text); font-variant-numeric: tabular-nums; }

main { display: grid; grid-template-columns: minmax(0, 1fr) minmax(22rem, 30rem); min-height: 0; }
.picture { display: grid; grid-template-columns: repeat(2, auto) 1fr repeat(8, auto); grid-template-rows: auto minmax(0, 1fr) auto;
  align-items: center; gap: .4rem; padding: .6rem 1rem; min-height: 0; }
.picture > input { margin: 0; accent-color: var(--accent); }
.picture > label { color: var(--quiet); cursor: pointer; margin-right: .4rem; }
.picture > input:checked + label { color: var(--text); }
.gap { grid-column: 3; }
.viewer { grid-column: 1 / -1; align-self: stretch; position: relative; min-height: 0; background: #000; border-radius: 6px; overflow: hidden; }
.scroll { position: absolute; inset: 1.5rem; overflow: auto; scrollbar-color: var(--line) transparent; }
.scroll svg { display: block; width: 100%; height: 100%; }
#zoom2:checked ~ .viewer svg { width: 200%; height: 200%; }
#zoom4:checked ~ .viewer svg { width: 400%; height: 400%; }
#zoom8:checked ~ .viewer svg { width: 800%; height: 800%; }
#boxes:not(:checked) ~ .viewer .boxes { display: none; }
svg rect { fill: none; stroke: var(--box); stroke-width: 2; vector-effect: non-scaling-stroke; }
svg rect.control { stroke-dasharray: 6 4; }
svg text { fill: var(--box); stroke: #000; stroke-width: .12em; paint-order: stroke; font-weight: 600; }
.edge { position: absolute; color: var(--open); font-weight: 600; text-decoration: none; pointer-events: auto; line-height: 1.5rem; }
.edge.left { left: .5rem; top: 50%; transform: translateY(-50%); }
.edge.right { right: .5rem; top: 50%; transform: translateY(-50%); }
.edge.top { top: 0; left: 50%; transform: translateX(-50%); }
.edge.bottom { bottom: 0; left: 50%; transform: translateX(-50%); }
.edge.unknown { top: 0; left: .6rem; font-weight: 400; font-size: .85rem; }
.stage { grid-column: 1 / -1; margin: 0; color: var(--quiet); font-size: .9rem; }
.stage b { color: var(--text); margin-right: .3rem; }

.texts { overflow: auto; padding: .8rem 1.2rem 1.2rem; background: var(--panel); border-left: 1px solid var(--line); min-height: 0;
  scrollbar-color: var(--line) transparent; }
h2 { margin: 1.1rem 0 .2rem; font-size: .74rem; font-weight: 600; letter-spacing: .06em; text-transform: uppercase; color: var(--quiet); }
.domain { margin: 0; color: var(--quiet); }
.said { margin: 0; font-size: 1.08rem; overflow-wrap: anywhere; white-space: pre-line; }
.answer { font-weight: 600; color: #fff; }
.aside { margin: .2rem 0 0; color: var(--quiet); font-size: .9rem; overflow-wrap: anywhere; }
.texts.easy { --box: #ff7a70; }
.box { color: var(--box); border: 1px solid currentColor; border-radius: 4px; padding: 0 .3em; font-size: .85em; white-space: nowrap; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .12rem .8rem .12rem 0; font-weight: 400; overflow-wrap: anywhere; }
th { width: 9.5rem; color: var(--quiet); }
details { margin-top: .2rem; }
summary { color: var(--quiet); cursor: pointer; font-size: .9rem; }

form { display: grid; grid-template-columns: minmax(0, 1fr) minmax(12rem, 18rem); gap: .6rem; padding: .6rem 1rem .3rem;
  background: var(--panel); border-top: 1px solid var(--line); }
.buttons { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: .6rem; }
button { position: relative; display: grid; align-content: start; padding: .4rem .6rem .45rem; text-align: left; font: inherit; font-weight: 600; color: var(--text); background: #1b2027;
  border: 1px solid var(--line); border-left: 4px solid var(--tone); border-radius: 6px; cursor: pointer; }
button small { font-weight: 400; font-size: .78rem; line-height: 1.3; color: var(--quiet); }
button:hover { background: #232a33; }
button.current { background: #2a323c; border-color: var(--tone); }
button.current::after { content: "yours"; position: absolute; top: .55rem; right: .6rem; font-size: .75rem; font-weight: 400; color: var(--tone); }
.right { --tone: var(--right); }
.wrong_text, .wrong_box, .wrong_side { --tone: var(--wrong); }
.unanswerable { --tone: var(--open); }
textarea { resize: none; padding: .4rem .6rem; font: inherit; font-size: .9rem; color: var(--text); background: var(--ground);
  border: 1px solid var(--line); border-radius: 6px; }
body.plain { grid-template-rows: minmax(0, 1fr) auto; }
footer { padding: .15rem 1rem .4rem; background: var(--panel); color: var(--quiet); font-size: .8rem; }
.card { align-self: start; justify-self: center; max-width: 34rem; margin: 3rem 1rem; padding: 1.2rem 1.6rem; background: var(--panel);
  border: 1px solid var(--line); border-radius: 8px; }
.card h1 { margin: 0 0 .6rem; font-size: 1.2rem; }
.numbers a { display: inline-block; min-width: 2.4em; }

@media (max-width: 62rem) {
  html, body { height: auto; }
  main, form { grid-template-columns: minmax(0, 1fr); }
  .viewer { height: 60vh; }
  .texts { border-left: 0; border-top: 1px solid var(--line); }
  .buttons { grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
  header { flex-wrap: wrap; }
}
"""

SCRIPT = """
'use strict';
const form = document.getElementById('verdict');
const note = document.getElementById('note');
const scroll = document.querySelector('.scroll');
const zooms = [...document.querySelectorAll('input[name=zoom]')];
let zoom = zooms.findIndex((one) => one.checked);
let sent = false;  // one verdict a page: a second key press must not reach the next sample

form.addEventListener('submit', (event) => { if (sent) event.preventDefault(); sent = true; });
window.addEventListener('pageshow', () => { sent = false; });

// The point at (x, y) of the window, or else the middle of the frame, stays where it is.
function zoomTo(index, x, y) {
  const next = Math.min(Math.max(index, 0), zooms.length - 1);
  const frame = scroll.getBoundingClientRect();
  const px = x === undefined ? scroll.clientWidth / 2 : x - frame.left;
  const py = y === undefined ? scroll.clientHeight / 2 : y - frame.top;
  const grow = 2 ** (next - zoom);
  const left = (scroll.scrollLeft + px) * grow - px;
  const top = (scroll.scrollTop + py) * grow - py;
  zoom = next;
  zooms[next].checked = true;
  scroll.scrollTo(left, top);
}

zooms.forEach((one, index) => one.addEventListener('change', () => zoomTo(index)));
scroll.addEventListener('wheel', (event) => {
  if (event.ctrlKey) return;
  event.preventDefault();
  zoomTo(zoom + (event.deltaY < 0 ? 1 : -1), event.clientX, event.clientY);
}, { passive: false });
scroll.addEventListener('dblclick', (event) => zoomTo(zoom + 1, event.clientX, event.clientY));
scroll.addEventListener('pointermove', (event) => {
  if (event.buttons !== 1) return;
  scroll.scrollBy(-event.movementX, -event.movementY);
});
scroll.addEventListener('dragstart', (event) => event.preventDefault());

const actions = {
  ArrowLeft: () => document.getElementById('back')?.click(),
  ArrowRight: () => document.getElementById('forward').click(),
  o: () => document.getElementById('open').click(),
  b: () => document.getElementById('boxes')?.click(),
  n: () => note.focus(),
  '+': () => zoomTo(zoom + 1),
  '=': () => zoomTo(zoom + 1),
  '-': () => zoomTo(zoom - 1),
  0: () => zoomTo(0),
};
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  if (event.target === note) {
    if (event.key === 'Escape') note.blur();
    return;
  }
  const button = /^[1-5]$/.test(event.key) ? form.querySelectorAll('button')[event.key - 1] : null;
  const action = button ? () => button.click() : actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
"""
