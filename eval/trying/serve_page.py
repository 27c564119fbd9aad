"""The page of serve.py as texts: markup, style, script. Nothing of a request is ever written into the markup; the script sets texts
as texts. Knows nothing of HTTP."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>MedCLM: ask about a picture</title>
<link rel="stylesheet" href="style.css">
<script src="script.js" defer></script>
</head>
<body>
<header>
  <h1>MedCLM</h1>
  <p>Ask a model about one picture</p>
  <p class="model" title="fingerprint of the weights">model <code>{model}</code></p>
</header>
<main>
  <section class="view" id="drop" aria-label="Picture">
    <div class="stage" id="stage">
      <label class="empty" id="empty" for="file">
        <svg viewBox="0 0 24 24" width="40" height="40" aria-hidden="true"><path d="M12 16V4m0 0L7 9m5-5 5 5M4 15v4a1 1 0 0 0 1 1h14a1 1 0 0 0 1-1v-4"/></svg>
        <b id="hint">Drop a picture here</b>
        <span>PNG, JPEG, TIFF or DICOM, up to 64 MiB</span>
      </label>
      <svg id="picture" hidden role="img" aria-label="The picture with the boxes of the answer"></svg>
    </div>
    <div class="bar">
      <input type="file" id="file" accept=".png,.jpg,.jpeg,.tif,.tiff,.bmp,.webp,.dcm,.dicom,image/*,application/dicom,*/*">
      <label class="button" for="file">Choose a file</label>
      <output class="told" id="told" aria-live="polite">It stays in this computer's memory and is gone after each answer.</output>
      <label class="toggle"><input type="checkbox" id="boxes" checked> boxes</label>
    </div>
  </section>
  <section class="talk" aria-label="Question and answer">
    <p class="error" id="error" role="alert" hidden></p>
    <form id="form" autocomplete="off">
      <label for="question">Question</label>
      <textarea id="question" rows="2" maxlength="1000" placeholder="What abnormality is shown?"></textarea>
      <div class="suggestions" role="group" aria-label="Suggestions">
        <button type="button">What abnormality is shown?</button>
        <button type="button">Where is the lesion in this image?</button>
        <button type="button">Which organ hosts the lesion?</button>
        <button type="button">Is there a nodule?</button>
      </div>
      <fieldset>
        <legend>Answer</legend>
        <label><input type="radio" name="instruction" value="reason" checked> with reasoning and boxes</label>
        <label><input type="radio" name="instruction" value="direct"> directly</label>
      </fieldset>
      <details id="grey">
        <summary>Grey values</summary>
        <p>For 16-bit pictures, and DICOM to be seen otherwise than its header says. Empty: as the file says.</p>
        <div class="numbers">
          <label>Centre <input type="number" id="centre" step="any"></label>
          <label>Width <input type="number" id="width" step="any" min="0"></label>
          <label>Frame <input type="number" id="frame" step="1" min="1"></label>
        </div>
        <div class="suggestions" role="group" aria-label="Windows of CT">
          <button type="button" data-window="-600 1500">lung</button>
          <button type="button" data-window="40 400">soft tissue</button>
          <button type="button" data-window="60 160">liver</button>
          <button type="button" data-window="40 80">brain</button>
          <button type="button" data-window="400 1800">bone</button>
          <button type="button" data-window="">as the file says</button>
        </div>
      </details>
      <button type="submit" id="ask" class="ask" disabled>Ask</button>
    </form>
    <div class="wait" id="wait" role="status" hidden><i></i><span id="waiting"></span></div>
    <article id="said" hidden aria-live="polite">
      <p class="asked" id="asked"></p>
      <h2>Answer</h2>
      <p class="answer" id="answer"></p>
      <h2>Reasoning</h2>
      <p class="reasoning" id="reasoning"></p>
      <h2>Boxes</h2>
      <ol id="list"></ol>
      <p class="aside" id="aside"></p>
    </article>
  </section>
</main>
<footer>{notice}</footer>
</body>
</html>
"""

STYLE = """
:root { --ground: #f5f6f8; --panel: #fff; --line: #d8dde3; --text: #1b2229; --quiet: #5b6772; --accent: #0b63a5; --on-accent: #fff;
  --wrong: #a32a1d; --wrong-ground: #fdeeec; --notice: #fff4d6; --on-notice: #5f4300; --box: #ff9100; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #0e1115; --panel: #171b21; --line: #2c343d; --text: #dfe5eb; --quiet: #97a3ae; --accent: #6db8ec; --on-accent: #08131c;
    --wrong: #ff9d90; --wrong-ground: #331814; --notice: #3a2c05; --on-notice: #ffdc85; }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
html, body { height: 100%; margin: 0; }
body { display: grid; grid-template-rows: auto minmax(0, 1fr) auto; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
:focus-visible, #file:focus-visible + .button { outline: 3px solid var(--accent); outline-offset: 2px; }
header { display: flex; align-items: baseline; gap: .9rem; padding: .6rem 1.2rem; background: var(--panel); border-bottom: 1px solid var(--line); }
h1 { margin: 0; font-size: 1.1rem; }
header p { margin: 0; color: var(--quiet); }
.model { margin-left: auto; font-size: .85rem; }
footer { padding: .45rem 1.2rem; background: var(--notice); color: var(--on-notice); font-weight: 600; text-align: center;
  border-top: 1px solid var(--line); }
main { position: relative; display: grid; grid-template-columns: minmax(0, 1fr) minmax(22rem, 30rem); min-height: 0; }
.view { display: grid; grid-template-rows: minmax(0, 1fr) auto; gap: .7rem; padding: 1rem 1.2rem; min-height: 0; }
.stage { position: relative; min-height: 0; border-radius: 8px; overflow: hidden; }
#picture { background: #000; }
.stage > * { position: absolute; inset: 0; width: 100%; height: 100%; }
.empty { display: grid; place-content: center; justify-items: center; gap: .3rem; background: var(--panel); color: var(--quiet);
  border: 2px dashed var(--line); border-radius: 8px; cursor: pointer; }
.empty b { color: var(--text); font-size: 1.1rem; }
.empty svg { fill: none; stroke: currentColor; stroke-width: 1.5; stroke-linecap: round; stroke-linejoin: round; }
.over .empty, .over .stage { border-color: var(--accent); box-shadow: 0 0 0 3px var(--accent); }
.bar { display: flex; align-items: center; gap: .9rem; flex-wrap: wrap; }
#file { position: absolute; width: 1px; height: 1px; opacity: 0; }
button, .button { font: inherit; padding: .4rem .9rem; color: var(--text); background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; cursor: pointer; }
button:hover, .button:hover { border-color: var(--accent); }
.told { flex: 1; min-width: 12rem; color: var(--quiet); font-size: .9rem; overflow-wrap: anywhere; }
.toggle { color: var(--quiet); font-size: .9rem; }
input { accent-color: var(--accent); }
#picture rect { fill: none; stroke: #000; stroke-opacity: .55; stroke-width: 5; vector-effect: non-scaling-stroke; }
#picture rect + rect { stroke: var(--box); stroke-opacity: 1; stroke-width: 2.5; stroke-dasharray: 8 4; }
#picture g.lit rect + rect { stroke-width: 4; stroke-dasharray: none; }
#picture text { fill: var(--box); stroke: #000; stroke-width: .18em; paint-order: stroke; font-weight: 700; }
.plain #picture g { display: none; }
.talk { padding: 1rem 1.2rem; background: var(--panel); border-left: 1px solid var(--line); overflow: auto; min-height: 0; }
form { display: grid; gap: .7rem; }
form > label { font-weight: 600; margin-bottom: -.4rem; }
textarea, input[type=number] { font: inherit; color: var(--text); background: var(--ground); border: 1px solid var(--line); border-radius: 6px;
  padding: .45rem .6rem; width: 100%; }
textarea { resize: vertical; min-height: 3.6rem; }
::placeholder { color: var(--quiet); opacity: 1; }
.suggestions { display: flex; flex-wrap: wrap; gap: .35rem; }
.suggestions button { padding: .15rem .65rem; font-size: .85rem; border-radius: 99px; color: var(--quiet); }
.suggestions button:hover { color: var(--text); }
fieldset { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 0; padding: 0; border: 0; font-size: .95rem; }
legend { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
details { font-size: .9rem; }
summary { color: var(--quiet); cursor: pointer; }
details p { margin: .3rem 0 .5rem; color: var(--quiet); }
.numbers { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .6rem; margin-bottom: .5rem; }
.ask { padding: .6rem; font-weight: 600; color: var(--on-accent); background: var(--accent); border-color: var(--accent); }
.ask:disabled { opacity: .45; cursor: not-allowed; }
.error { margin: 0 0 1rem; padding: .6rem .8rem; color: var(--wrong); background: var(--wrong-ground); border-left: 4px solid currentColor;
  border-radius: 4px; overflow-wrap: anywhere; }
.wait { display: flex; align-items: center; gap: .7rem; margin-top: 1rem; color: var(--quiet); }
.wait i { width: 1.1rem; height: 1.1rem; border: 2px solid var(--line); border-top-color: var(--accent); border-radius: 50%;
  animation: turn 1s linear infinite; }
@keyframes turn { to { transform: rotate(1turn); } }
@media (prefers-reduced-motion: reduce) { .wait i { animation-duration: 4s; } }
article { margin-top: 1.1rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h2 { margin: .9rem 0 .1rem; font-size: .78rem; letter-spacing: .05em; text-transform: uppercase; color: var(--quiet); }
article p { margin: 0; overflow-wrap: anywhere; }
.asked { color: var(--quiet); }
.answer { font-size: 1.25rem; font-weight: 650; }
.none { font-weight: 400; color: var(--quiet); }
.reasoning { white-space: pre-line; }
.chip { padding: 0 .45em; font-size: .85em; line-height: 1.5; border-color: var(--box); border-radius: 99px; white-space: nowrap; }
ol { margin: 0; padding: 0; list-style: none; display: grid; gap: .3rem; }
li { display: flex; flex-wrap: wrap; gap: .2rem .7rem; align-items: baseline; }
li span { font-variant-numeric: tabular-nums; }
.aside { margin-top: .8rem !important; color: var(--quiet); font-size: .85rem; }
.stale { opacity: .45; }
@media (max-width: 60rem) {
  main { display: block; overflow: auto; }
  .view { grid-template-rows: min(50vh, 28rem) auto; }
  .talk { border-left: 0; border-top: 1px solid var(--line); overflow: visible; }
  header p:not(.model) { display: none; }
}
"""

SCRIPT = """
'use strict';
const MOST = 64 * 2 ** 20, SVG = 'http://www.w3.org/2000/svg';
const at = (id) => document.getElementById(id);
const drop = at('drop'), picture = at('picture'), form = at('form'), question = at('question');
let file = null, address = null, turn = 0, clock = 0;

const number = (id) => (at(id).value.trim() === '' ? null : Number(at(id).value));
const told = (text) => { at('told').textContent = text; };
const make = (name, attributes, text) => {
  const one = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  if (text !== undefined) one.textContent = text;
  return one;
};

function shows(on, hint) {
  picture.toggleAttribute('hidden', !on);  // of SVG it is no property
  at('empty').hidden = on;
  at('hint').textContent = hint ?? 'Drop a picture here';
}

function fail(message) {
  at('error').textContent = message;
  at('error').hidden = !message;
}

function working(what) {
  clearInterval(clock);
  at('wait').hidden = !what;
  at('ask').disabled = !!what || !file;
  const began = Date.now();
  const tick = () => { at('waiting').textContent = `${what} ${Math.round((Date.now() - began) / 1000)} s`; };
  if (what) { tick(); clock = setInterval(tick, 1000); }
}

// Four bytes of length, the form as JSON, the file: see read_upload in serve.py.
async function send(where) {
  const centre = number('centre'), width = number('width');
  if ((centre === null) !== (width === null)) throw new Error('Grey values: give centre and width, or neither.');
  const form = {
    name: file.name, question: question.value, frame: number('frame'),
    instruction: document.querySelector('[name=instruction]:checked').value,
    window: centre === null ? null : [centre, width],
  };
  const text = new TextEncoder().encode(JSON.stringify(form));
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, text.length);
  let answer;
  try {
    answer = await fetch(where, { method: 'POST', body: new Blob([length, text, file]) });
  } catch {
    throw new Error('The server does not answer: was it ended, or the file moved? Start it again and load this page anew.');
  }
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error), { reason: found.reason });
  return found;
}

function show(found, boxes) {
  const bytes = Uint8Array.from(atob(found.picture), (letter) => letter.charCodeAt(0));
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(new Blob([bytes], { type: 'image/png' }));
  const { width, height } = found;
  picture.setAttribute('viewBox', `0 0 ${width} ${height}`);
  picture.replaceChildren(make('image', { href: address, width, height, preserveAspectRatio: 'none' }));
  boxes.forEach(({ shown: [x0, y0, x1, y1] }, index) => {
    const box = { x: x0 * width, y: y0 * height, width: (x1 - x0) * width, height: (y1 - y0) * height };
    const size = Math.max(width, height) / 32;
    const above = box.y > 1.3 * size ? box.y - 0.35 * size : box.y + 1.1 * size;
    const group = make('g', { 'data-box': index + 1 });
    group.append(make('rect', box), make('rect', box));
    group.append(make('text', { x: box.x + 0.2 * size, y: above, 'font-size': size }, index + 1));
    picture.append(group);
  });
  shows(true);
  told(`${file.name}: ${found.told}`);
}

const light = (index, on) => picture.querySelector(`[data-box="${index}"]`)?.classList.toggle('lit', on);

function chip(index) {
  const one = document.createElement('button');
  one.type = 'button';
  one.className = 'chip';
  one.textContent = `box ${index}`;
  for (const name of ['mouseenter', 'focus']) one.addEventListener(name, () => light(index, true));
  for (const name of ['mouseleave', 'blur']) one.addEventListener(name, () => light(index, false));
  return one;
}

function say(found) {
  at('asked').textContent = found.question;
  at('answer').textContent = found.answer ?? 'no answer';
  at('answer').classList.toggle('none', found.answer === null);
  const pieces = found.rationale.map((piece) => (typeof piece === 'number' ? chip(piece) : piece));
  at('reasoning').replaceChildren(...(pieces.some((piece) => piece !== '') ? pieces : ['none']));
  at('list').replaceChildren(...found.boxes.map((box, index) => {
    const line = document.createElement('li');
    const [x0, y0, x1, y1] = box.px.map(Math.round);
    const text = document.createElement('span');
    text.textContent = `x ${x0} to ${x1}, y ${y0} to ${y1}` +
      (box.confidence === null ? '' : `, confidence ${box.confidence.toFixed(2)}`);
    line.append(chip(index + 1), text);
    return line;
  }));
  if (!found.boxes.length) at('list').append('none');
  at('aside').textContent = `${found.seconds} s` + (found.cut ? '; cut at the longest completion (--max-new-tokens)' : '');
  at('said').hidden = false;
  at('said').classList.remove('stale');
  at('said').scrollIntoView({ block: 'nearest' });
}

// Only the newest request may change the page.
async function work(where, what, done) {
  const mine = ++turn;
  fail('');
  working(what);
  try {
    const found = await send(where);
    if (mine === turn) done(found);
  } catch (error) {
    if (mine !== turn) return;
    fail(error.message);
    if (!at('empty').hidden) shows(false, 'Not shown: drop another picture, or see the message');
    if (['window_unknown', 'image_16_bit', 'image_animated', 'frame_missing'].includes(error.reason)) at('grey').open = true;
  } finally {
    if (mine === turn) working('');
  }
}

const look = () => work('look', 'Reading the picture…', (found) => show(found, []));

function take(files) {
  if (!files.length) return;
  if (files.length > 1) return fail('One picture at a time: for a folder there is launch/predict.py.');
  if (files[0].size > MOST) return fail(`${files[0].name} has more than 64 MiB: send a smaller file.`);
  file = files[0];
  told(file.name);
  shows(false, 'Reading…');
  at('said').hidden = true;
  for (const id of ['centre', 'width', 'frame']) at(id).value = '';  // another picture's window may hide all of this one
  look();
}

at('file').addEventListener('change', () => { take(at('file').files); at('file').value = ''; });
for (const name of ['dragenter', 'dragover', 'dragleave', 'drop']) {
  addEventListener(name, (event) => {
    event.preventDefault();  // a file beside the frame would otherwise replace the page
    drop.classList.toggle('over', name === 'dragenter' || name === 'dragover');
    if (name === 'drop') take(event.dataTransfer.files);
  });
}
at('boxes').addEventListener('change', () => drop.classList.toggle('plain', !at('boxes').checked));
form.addEventListener('submit', (event) => {
  event.preventDefault();
  if (!file || at('ask').disabled) return;
  if (!question.value.trim()) { question.value = question.placeholder; }
  at('said').classList.add('stale');
  work('ask', 'The model reads…', (found) => { show(found, found.boxes); say(found); });
});
question.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
});
for (const button of form.querySelectorAll('.suggestions button')) {
  button.addEventListener('click', () => {
    if (button.dataset.window === undefined) { question.value = button.textContent; question.focus(); return; }
    const [centre, width] = button.dataset.window.split(' ');
    at('centre').value = centre ?? '';
    at('width').value = width ?? '';
    if (file) look();
  });
}
for (const id of ['centre', 'width', 'frame']) {
  at(id).addEventListener('change', () => { if (file && (number('centre') === null) === (number('width') === null)) look(); });
}
"""
