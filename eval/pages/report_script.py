"""Script of the page of an evaluated suite and of two side by side: filters, order, search, and one case enlarged."""

SCRIPT = """
const byId = (id) => document.getElementById(id);
const list = byId('cards'), cards = all('#cards > .case'), view = byId('view'), search = byId('search'), sort = byId('sort');
const groups = all('#filters .group'), only = all('#filters .only'), switches = all('.switch');
for (const card of cards) {
  card.words = card.textContent.toLowerCase();
  card.numbers = JSON.parse(card.dataset.scores);
  card.reasons = JSON.parse(card.dataset.why);
}
const visible = () => [...list.children].filter((card) => !card.hidden);

function wanted(card) {
  const on = (box) => box.checked && box.value === card.dataset.group;
  const has = (key, value) => key === 'why' ? card.reasons.includes(value) : card.dataset[key] === value;
  return groups.some(on) && only.every((one) => !one.value || has(one.dataset.key, one.value.slice(1)))
    && search.value.toLowerCase().split(/\\s+/).every((word) => card.words.includes(word));
}
function filter() {
  let number = 0;
  for (const card of cards) {
    card.hidden = !wanted(card);
    number += !card.hidden;
  }
  byId('count').textContent = number === cards.length ? `${number} cases` : `${number} of ${cards.length} cases`;
  byId('nothing').hidden = number > 0;
}
function order() {
  const name = sort.value.slice(1), sign = sort.value[0] === '-' ? -1 : 1;
  const value = (card) => !name ? 0 : card.numbers[name] === undefined ? Infinity : sign * card.numbers[name];  // without one: last
  list.append(...[...cards].sort((one, other) => value(one) === value(other) ? 0 : value(one) - value(other)));
}
function boxes() {
  for (const one of switches) document.body.classList.toggle(`no-${one.value}`, !one.checked);
}
for (const one of [...groups, ...only]) one.addEventListener('change', filter);
search?.addEventListener('input', filter);
sort?.addEventListener('change', order);
for (const one of switches) one.addEventListener('change', () => {
  for (const other of switches) if (other.value === one.value) other.checked = one.checked;
  boxes();
});
for (const button of all('.reset')) button.addEventListener('click', () => {
  for (const one of groups) one.checked = true;
  for (const one of [...only, search, sort]) one.value = '';
  filter();
  order();
});

let shown = null;  // the card whose copy is enlarged
function enlarge(card) {
  const others = visible(), copy = card.cloneNode(true);
  shown = card;
  for (const button of all('.enlarge', copy)) button.setAttribute('aria-label', 'Back to the list');
  byId('large').replaceChildren(copy);
  byId('large').scrollTop = 0;
  byId('place').textContent = `${others.indexOf(card) + 1} of ${others.length}`;
  if (!view.open) view.showModal();
}
function step(by) {
  const others = visible();
  enlarge(others[(others.indexOf(shown) + by + others.length) % others.length]);
}
list?.addEventListener('click', (event) => {
  const button = event.target.closest('.enlarge');
  if (button) enlarge(button.closest('.case'));
});
if (view) {
  byId('before').addEventListener('click', () => step(-1));
  byId('after').addEventListener('click', () => step(1));
  byId('close').addEventListener('click', () => view.close());
  view.addEventListener('click', (event) => {
    if (event.target === view || event.target.closest('.enlarge')) view.close();
  });
  view.addEventListener('keydown', (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    step(by);
  });
  view.addEventListener('close', () => {  // back to where the reader has got to
    const button = shown.querySelector('.enlarge');
    byId('large').replaceChildren();
    button?.focus({ preventScroll: true });
    shown.scrollIntoView({ block: 'nearest' });
  });
  byId('filters').hidden = false;
  filter();  // a reloaded page keeps what was chosen
  order();
  boxes();
}
"""
