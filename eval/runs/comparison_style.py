"""Style and script of the page of eval/runs/comparison_page.py, beside what all our pages share (eval/pages/page.py)."""

STYLE = """
:root { --c0: #0069a8; --c1: #cf5500; --c2: #00845f; --c3: #b8478f; --c4: #8a6d00; --c5: #2fa4d9; --c6: #6a3fb0; --c7: #55555f; }
@media screen and (prefers-color-scheme: dark) { :root { --c0: #4fb0f0; --c1: #ff9552; --c2: #3fcf9f; --c3: #ee92cc; --c4: #e6cf4a; --c5: #a5dcf7; --c6: #b699f5; --c7: #c2c2cc; } }
.name { display: inline-block; max-width: 22rem; overflow-wrap: anywhere; }
tr.section th { background: var(--raised); color: var(--soft); font-weight: 600; }
td.best { font-weight: 700; }
td.odd { white-space: nowrap; color: var(--alert); } mark { background: var(--mark); color: inherit; padding: 0 .2em; border-radius: 3px; font-weight: 600; }
tbody tr.on > *, label.on { background: var(--raised); } tbody tr.off { opacity: .45; }
.name.narrow { max-width: 14rem; } .swatch { width: 22px; height: 8px; margin-right: .5rem; flex: none; } .swatch path { stroke-width: 3; }
.curves { display: grid; grid-template-columns: minmax(12rem, 17rem) 1fr; gap: 1.2rem; align-items: start; }
fieldset { border: 1px solid var(--line); border-radius: 6px; position: sticky; top: .5rem; max-height: calc(100vh - 3rem); overflow: auto; min-width: 0; padding: .4rem .7rem; font-size: .85rem; }
fieldset p { margin: .2rem 0 .4rem; } fieldset label { display: flex; align-items: center; gap: .2rem; padding: .12rem .2rem; border-radius: 4px; cursor: pointer; }
fieldset label span { overflow-wrap: anywhere; } fieldset input { flex: none; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: .8rem 1.4rem; min-width: 0; } figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: .9rem; overflow-wrap: anywhere; } .chart { width: 100%; display: block; cursor: crosshair; }
.axes path { stroke: var(--line); } .axes text { font-size: 12px; fill: var(--soft); }
.plot path, .swatch path { fill: none; stroke-linejoin: round; stroke-linecap: round; vector-effect: non-scaling-stroke; } .plot path { stroke-width: 1.5; }
.plot.lit path { opacity: .13; } .plot.lit path.on { opacity: 1; stroke-width: 2.6; } .plot path.off { display: none; }
.here { display: none; fill: var(--ink); } .plot.lit .here.on { display: block; } .readout { margin: 0; font-size: .85rem; min-height: 1.45em; color: var(--soft); overflow-wrap: anywhere; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); } .c6 { stroke: var(--c6); } .c7 { stroke: var(--c7); }
.d1 { stroke-dasharray: 7 3; } .d2 { stroke-dasharray: 2 3; } .d3 { stroke-dasharray: 8 3 2 3; }
@media (max-width: 52rem) { .curves { grid-template-columns: 1fr; } fieldset { position: static; max-height: 14rem; } }
"""

SCRIPT = """
const boxes = all('#runs input');
const marked = {};
for (const one of all('[data-run]')) (marked[one.dataset.run] ??= []).push(one);
const plots = all('.plot');
let lit = null;

function light(run) {
  if (run === lit) return;
  for (const one of marked[lit] ?? []) one.classList.remove('on');
  for (const one of marked[run] ?? []) one.classList.add('on');
  for (const plot of plots) plot.classList.toggle('lit', run !== null);
  lit = run;
}
function show(box) {
  for (const one of marked[box.value]) if (one.tagName !== 'LABEL') one.classList.toggle('off', !box.checked);
}
for (const box of boxes) {
  box.addEventListener('change', () => show(box));
  box.addEventListener('focus', () => light(box.value));
  box.addEventListener('blur', () => light(null));
  show(box);  // a reloaded page keeps its ticks
}
for (const one of all('#runs label, tbody tr[data-run]')) {
  one.addEventListener('pointerenter', () => light(one.dataset.run));
  one.addEventListener('pointerleave', () => light(null));
}
for (const [id, on] of [['all', true], ['none', false]])
  document.getElementById(id)?.addEventListener('click', () => boxes.forEach((box) => { box.checked = on; show(box); }));

function points(path) {  // what the relative moves of a curve add up to
  if (!path.points) {
    path.points = [];
    let x = 0, y = 0;
    for (const [, kind, first, second] of path.getAttribute('d').matchAll(/([Ml])(-?\\d+) (-?\\d+)/g)) {
      x = kind === 'M' ? +first : x + +first;
      y = kind === 'M' ? +second : y + +second;
      path.points.push([x, y]);
    }
  }
  return path.points;
}
function nearest(found, x) {  // index of the point closest to x
  let low = 0, high = found.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (found[middle][0] < x) low = middle + 1; else high = middle;
  }
  return low > 0 && x - found[low - 1][0] < found[low][0] - x ? low - 1 : low;
}
for (const chart of all('.chart')) {
  const plot = chart.querySelector('.plot'), here = chart.querySelector('.here'), readout = chart.nextElementSibling;
  const { last, low, high, log, wide, tall } = chart.dataset;
  let at = 0;
  const shown = () => all('path[data-run]:not(.off)', plot);
  function point(path, index) {
    at = index;
    const [x, y] = points(path)[index];
    const height = +low + (1 - y / tall) * (high - low);
    light(path.dataset.run);
    for (const other of all('.here.on')) other.classList.remove('on');
    here.classList.add('on');
    here.setAttribute('cx', x);
    here.setAttribute('cy', y);
    const name = marked[path.dataset.run].find((one) => one.tagName === 'LABEL').textContent;
    const value = (+log ? 10 ** height : height).toPrecision(3);
    readout.textContent = `${name}: about ${+value} at step ${Math.round(x / wide * last)}`;
  }
  function leave() {
    light(null);
    here.classList.remove('on');
    readout.textContent = '\\u00a0';
  }
  chart.addEventListener('pointermove', (event) => {
    const to = new DOMPoint(event.clientX, event.clientY).matrixTransform(plot.getScreenCTM().inverse());
    let best = null;
    for (const path of shown()) {
      const found = points(path), index = nearest(found, to.x);
      const away = Math.hypot(found[index][0] - to.x, found[index][1] - to.y);
      if (!best || away < best.away) best = { path, index, away };
    }
    if (best && best.away < 600) point(best.path, best.index); else leave();
  });
  chart.addEventListener('pointerleave', leave);
  chart.addEventListener('blur', leave);
  chart.addEventListener('keydown', (event) => {
    const paths = shown(), along = { ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0, over = { ArrowUp: -1, ArrowDown: 1 }[event.key] ?? 0;
    if (event.key === 'Escape') leave();
    if (!paths.length || !(along || over)) return;
    event.preventDefault();
    const current = paths.findIndex((path) => path.dataset.run === lit);
    const path = paths[(Math.max(current, 0) + (current < 0 ? 0 : over) + paths.length) % paths.length];
    const found = points(path);
    const index = current < 0 ? found.length - 1 : over ? nearest(found, points(paths[current])[Math.min(at, points(paths[current]).length - 1)][0]) : at + along * (event.shiftKey ? 10 : 1);
    point(path, Math.min(Math.max(index, 0), found.length - 1));
  });
}
"""
