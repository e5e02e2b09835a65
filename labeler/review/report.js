// The report: thresholds, counts that follow them, galleries and marks.

const categories = data.categories.map((category) => {
  const above = new Array(102).fill(0); // above[k]: boxes with a score of at least k / 100
  for (let step = 100; step >= 0; step--) above[step] = above[step + 1] + (category.scores[step] || 0);
  return { ...category, above, stored: above[0] };
});
const categoryOf = new Map(categories.map((category) => [category.id, category]));
const fired = categories.filter((category) => category.stored > 0);
const stored = fired.reduce((sum, category) => sum + category.stored, 0);
data.images.forEach((image, number) => {
  image.number = number;
  const unscored = new Set(image.unscored);
  for (const box of image.boxes) box.unscored = unscored.has(box[0]); // its stored score is 1
});
const scoreOf = (box) => score(box.unscored ? null : box[2]);

// ---- thresholds and marks, kept by this browser so that a reload loses nothing ----

// A category that is left out has the threshold `never`, in files and in what this browser keeps: here Infinity.
const fromPlain = (threshold) => (threshold === 'never' ? Infinity : threshold);
const toPlain = (threshold) => (threshold === Infinity ? 'never' : threshold);
// On a slider it is the step after 1.
const SLIDER_END = 1.01;
const fromSlider = (slider) => (Number(slider.value) > 1.005 ? Infinity : Number(slider.value));
const toSlider = (threshold) => Math.min(threshold, SLIDER_END);
const shown = (threshold) => (threshold === Infinity ? 'never' : score(threshold));

const start = () => ({ all: fromPlain(data.thresholds.default), own: new Map(Object.entries(data.thresholds.categories).map(([id, t]) => [Number(id), fromPlain(t)])) });
let thresholds = start();
const marks = new Map(); // "image key|place of the box" -> {image, box, category_id, score, right, drawn}
const memory = {
  thresholds: `labeler.thresholds.${data.run.id}.${JSON.stringify(data.thresholds)}`,
  marks: `labeler.marks.${data.run.id}`,
};

function remember() {
  try {
    localStorage.setItem(memory.thresholds, JSON.stringify({ all: toPlain(thresholds.all), own: [...thresholds.own].map(([id, t]) => [id, toPlain(t)]) }));
    localStorage.setItem(memory.marks, JSON.stringify([...marks]));
  } catch { /* a browser that keeps nothing for files: the page works all the same */ }
}

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(memory.thresholds));
    if (kept) thresholds = { all: fromPlain(kept.all), own: new Map(kept.own.map(([id, t]) => [id, fromPlain(t)])) };
    for (const [place, mark] of JSON.parse(localStorage.getItem(memory.marks)) || []) marks.set(place, mark);
  } catch { /* as above */ }
}

const thresholdOf = (id) => (thresholds.own.has(id) ? thresholds.own.get(id) : thresholds.all);
// Counts are by hundredths; a threshold between two of them (from a file) counts as the next.
const stepOf = (threshold) => Math.min(101, Math.ceil(threshold * 100 - 1e-9));
const keptOf = (category) => category.above[stepOf(thresholdOf(category.id))];

function yaml() {
  // JSON's escapes keep a name on its line whatever is in it
  const comment = (name) => JSON.stringify(name).replace(/[^\x20-\x7e]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
  const own = [...thresholds.own].filter(([id]) => categoryOf.has(id)).sort((a, b) => a[0] - b[0]);
  const sections = {
    default: [`default: ${toPlain(thresholds.all)}`],
    categories: [own.length ? 'categories:' : 'categories: {}', ...own.map(([id, threshold]) => `  ${id}: ${toPlain(threshold)}  # ${comment(categoryOf.get(id).name)}`)],
    fitted_on: ['fitted_on:', ...Object.entries(data.fitted_on).map(([name, digest]) => `  ${name}: ${JSON.stringify(digest)}`)],
  };
  const head = '# Made with labeler report. Keep a box when its score is at least its category\'s threshold.';
  return [head, ...data.threshold_keys.flatMap((key) => sections[key] ?? []), ''].join('\n');
}

function mark(image, box, right) {
  const place = `${image.key}|${box[0]}`;
  const before = marks.get(place);
  if (right === null || (before && before.right === right)) marks.delete(place);
  else marks.set(place, { image: image.key, box: box[0], category_id: box[1], score: box[2], right, drawn: image.by_chance.includes(box[0]) });
  remember();
  showMarks();
}

const markOf = (image, box) => marks.get(`${image.key}|${box[0]}`);

// ---- overview ----

function showOverview() {
  const run = data.run;
  const planned = `${run.images_planned_exact ? '' : '≥ '}${count(run.images_planned)}`;
  byId('subtitle').textContent = `${run.model}${run.revision ? ` at ${run.revision.slice(0, 12)}` : ''} · ${run.uri} · created ${run.created}`;
  byId('footer').textContent = `Run ${run.id}. Model ${data.fitted_on.model || 'not recorded'}, vocabulary ${data.fitted_on.vocabulary}. ${data.score === 'score' ? `Scores below ${data.floor} were never stored.` : `Scores are ${data.score}.`}`;
  const facts = [
    ['Run', run.complete ? 'complete' : 'incomplete'],
    ['Images', run.complete ? count(run.images) : `${count(run.images)} of ${planned}`],
    ['Shards finished', `${count(run.shards_finished)} of ${count(run.shards)}`],
    ['Boxes stored', count(stored)],
    ...(data.unscored ? [['Without a score', count(data.unscored)]] : []),
    ['Categories found', `${count(fired.length)} of ${count(categories.length)}`],
    ['Images at the cap', run.cap ? `${count(run.at_cap)} (cap ${count(run.cap)})` : 'no cap'],
  ];
  numbers(byId('numbers'), facts);
  const rows = data.statuses.map(([status, images]) => {
    const meter = el('span', {});
    meter.style.width = `${100 * images / run.images}%`;
    return el('tr', {}, el('th', { scope: 'row' }, status), el('td', { class: 'number' }, count(images)),
      el('td', { class: 'number' }, percent(images, run.images)), el('td', {}, el('span', { class: 'meter', 'aria-hidden': 'true' }, meter)));
  });
  byId('statuses').append(table(['Status', '#Images', '#Part', ''], rows));
  if (data.reasons.length) {
    const reasons = data.reasons.map(([status, error, images]) =>
      el('tr', {}, el('td', {}, status), el('td', {}, error), el('td', { class: 'number' }, count(images))));
    byId('reasons').append(el('details', { open: reasons.length <= 12 }, el('summary', {}, 'Why images could not be labeled'), table(['Status', 'Reason', '#Images'], reasons)));
  }
  showTimeline();
  showWork();
  showSettings();
}

function showWork() {
  const work = data.work;
  const stages = Object.entries(work.stage_seconds).filter(([, seconds]) => seconds > 0);
  if (!stages.length) return; // files of earlier versions do not say
  const total = stages.reduce((sum, [, seconds]) => sum + seconds, 0);
  const rows = stages.map(([stage, seconds]) => el('tr', {}, el('th', { scope: 'row' }, stage),
    el('td', { class: 'number' }, duration(seconds)), el('td', { class: 'number' }, percent(seconds, total))));
  const fill = work.batch_fill === null ? '' : `, batches ${percent(work.batch_fill, 1)} full`;
  const again = `${count(work.retries)} requests tried again, batch halved ${count(work.memory_halvings)} times`;
  byId('work').append(el('h3', {}, 'Worker time by stage'), table(['Stage', '#Time', '#Part'], rows),
    el('p', { class: 'quiet' }, `${count(work.passes)} forward passes${fill}; ${again}. Summed over all workers and threads.`));
}

function showSettings() {
  const rows = data.settings.map(([key, value]) => el('tr', {}, el('th', { scope: 'row' }, key), el('td', {}, value)));
  const settings = byId('settings');
  fillWhenOpened(settings, () => settings.lastElementChild.replaceChildren(table(['Setting', 'Value'], rows)));
  const vocabulary = byId('vocabulary'), negatives = data.negatives.length;
  vocabulary.firstElementChild.textContent = `Vocabulary: ${count(categories.length)} ${categories.length === 1 ? 'category' : 'categories'}${negatives ? `, ${count(negatives)} negative` : ''}`;
  fillWhenOpened(vocabulary, () => {
    const words = (category) => (category.phrases ? el('span', { class: 'quiet' }, ` asked as ${category.phrases.join(' / ')}`) : null);
    const names = categories.map((category) => el('li', {}, el('span', { class: 'quiet' }, `${category.id} `), category.name, words(category)));
    const without = negatives ? [el('p', { class: 'quiet' }, `Negative, never stored: ${data.negatives.join(', ')}.`)] : [];
    vocabulary.lastElementChild.replaceChildren(...without, el('ul', { class: 'names plain' }, ...names));
  });
}

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function showTimeline() {
  const place = byId('timeline');
  if (!data.timeline) { // no times are stored, or all was committed within a second
    place.remove();
    return;
  }
  const { start: first, seconds, images } = data.timeline;
  const top = Math.max(...images);
  const [width, height, left, bottom] = [460, 150, 46, 22];
  const total = seconds * images.length;
  const drawing = chart(width, height, `${count(images.reduce((a, b) => a + b, 0))} images over ${duration(total)}, at most ${(top / seconds).toFixed(1)} a second`);
  const bar = (width - left) / images.length;
  for (const part of [0, 0.5, 1]) {
    const y = 8 + (height - bottom - 8) * (1 - part);
    drawing.append(svg('line', { class: 'line', x1: left, x2: width, y1: y, y2: y }));
    const label = svg('text', { x: left - 6, y: y + 4, 'text-anchor': 'end' });
    label.textContent = part ? String(Number((part * top / seconds).toPrecision(2))) : '0';
    drawing.append(label);
  }
  images.forEach((n, i) => {
    const tall = (height - bottom - 8) * n / top;
    drawing.append(svg('rect', { class: 'bars', x: left + i * bar, y: height - bottom - tall, width: Math.max(0.5, bar - (bar > 4 ? 1 : 0)), height: tall }));
  });
  [[left, 'start', new Date(first * 1000).toISOString().slice(0, 16).replace('T', ' ')], [width, 'end', `+ ${duration(total)}`]].forEach(([x, anchor, text]) => {
    const label = svg('text', { x, y: height - 5, 'text-anchor': anchor });
    label.textContent = text;
    drawing.append(label);
  });
  place.append(drawing, el('p', { class: 'quiet' }, 'Images a second, by the time at which each unit was committed (UTC).'));
}

// ---- categories ----

const PAGE = 24;
let shownCategories = PAGE;
const items = new Map(); // category id -> its list item and what changes in it

function histogram(category) {
  const top = Math.sqrt(Math.max(...Object.values(category.scores)));
  const path = Object.entries(category.scores)
    .map(([step, n]) => `M${step} 40v${(-38 * Math.sqrt(n) / top).toFixed(2)}h.86V40z`).join('');
  const part = (name) => svg('path', { class: name, d: path });
  return svg('svg', { viewBox: '0 0 101 40', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, part('below'), part('above'));
}

function makeItem(category) {
  const slider = el('input', { type: 'range', min: 0, max: SLIDER_END, step: 0.01, 'aria-label': `Threshold of ${category.name}` });
  const value = el('output'), number = el('span', { class: 'category-count' });
  const reset = el('button', { type: 'button', class: 'plain', title: 'Use the threshold of all', 'aria-label': `Threshold of all for ${category.name}` }, '×');
  const swatch = el('span', { class: 'swatch' });
  swatch.style.background = category.colour;
  const drawing = histogram(category);
  const name = el('button', { type: 'button', class: 'category-name', title: 'Show in the gallery' }, category.name);
  const item = el('li', {}, el('div', { class: 'category-head' }, swatch, name, number),
    el('div', { class: 'histogram' }, drawing), slider,
    el('div', { class: 'category-slider' }, el('span', {}, 'threshold'), value, reset));
  item.dataset.category = category.id;
  name.addEventListener('click', () => { openCategory(category.id); byId('gallery').scrollIntoView(); byId('category').focus({ preventScroll: true }); });
  slider.addEventListener('input', () => { thresholds.own.set(category.id, fromSlider(slider)); changed(category); });
  reset.addEventListener('click', () => { thresholds.own.delete(category.id); changed(category); slider.focus(); });
  return { item, slider, value, number, above: drawing.lastChild, category };
}

function updateItem({ item, slider, value, number, above, category }) {
  const threshold = thresholdOf(category.id);
  item.classList.toggle('overridden', thresholds.own.has(category.id));
  slider.value = toSlider(threshold);
  slider.setAttribute('aria-valuetext', `${shown(threshold)}, ${count(keptOf(category))} boxes`);
  value.textContent = shown(threshold);
  number.textContent = `${count(keptOf(category))} of ${count(category.stored)}`;
  above.style.clipPath = `polygon(${[Math.min(threshold, SLIDER_END), SLIDER_END].map((x) => 100 * x).flatMap((x, i) => (i ? [`${x}px 0`, `${x}px 40px`] : [`${x}px 40px`, `${x}px 0`])).join(', ')})`;
}

function listCategories() {
  const wanted = byId('find').value.trim().toLowerCase();
  const orders = {
    stored: (a, b) => b.stored - a.stored, kept: (a, b) => keptOf(b) - keptOf(a),
    share: (a, b) => keptOf(a) / a.stored - keptOf(b) / b.stored, name: (a, b) => byName(a.name, b.name),
  };
  const found = fired.filter((category) => category.name.toLowerCase().includes(wanted));
  found.sort((a, b) => orders[byId('order').value](a, b) || a.id - b.id);
  const shown = found.slice(0, shownCategories);
  byId('category-list').replaceChildren(...shown.map((category) => {
    if (!items.has(category.id)) items.set(category.id, makeItem(category));
    updateItem(items.get(category.id));
    return items.get(category.id).item;
  }));
  byId('more-categories').hidden = shown.length === found.length;
  byId('found').textContent = found.length === shown.length ? `${count(found.length)} categories` : `${count(shown.length)} of ${count(found.length)} categories`;
}

function showNever() {
  const never = categories.filter((category) => category.stored === 0), place = byId('never');
  if (!never.length) { place.remove(); return; }
  place.firstElementChild.textContent = `${count(never.length)} ${never.length === 1 ? 'category was' : 'categories were'} never found`;
  fillWhenOpened(place, () => place.querySelector('ul').replaceChildren(...never.map((category) => el('li', {}, category.name))));
}
