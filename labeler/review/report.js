// The report: thresholds, counts that follow them, galleries and marks.

const categories = data.categories.map((category) => {
  const above = new Array(102).fill(0); // above[k]: boxes with a score of at least k / 100
  for (let step = 100; step >= 0; step--) above[step] = above[step + 1] + (category.scores[step] || 0);
  return { ...category, above, stored: above[0] };
});
const categoryOf = new Map(categories.map((category) => [category.id, category]));
const fired = categories.filter((category) => category.stored > 0);
const stored = fired.reduce((sum, category) => sum + category.stored, 0);
data.images.forEach((image, number) => { image.number = number; });

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
const marks = new Map(); // "image key|place of the box" -> {image, box, category_id, score, right}
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
  else marks.set(place, { image: image.key, box: box[0], category_id: box[1], score: box[2], right });
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

function table(heads, rows) {
  const head = heads.map((name) => el('th', { scope: 'col', class: name.startsWith('#') ? 'number' : '' }, name.replace('#', '')));
  return el('table', {}, el('thead', {}, el('tr', {}, ...head)), el('tbody', {}, ...rows));
}

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function showTimeline() {
  const place = byId('timeline');
  if (!data.timeline) {
    place.append(el('p', { class: 'quiet' }, 'Not known: no times are stored, or all was committed within a second.'));
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
  return svg('svg', { viewBox: '0 0 100 40', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, part('below'), part('above'));
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
  above.style.clipPath = `polygon(${[Math.min(threshold, 1), 1].map((x) => 100 * x).flatMap((x, i) => (i ? [`${x}px 0`, `${x}px 40px`] : [`${x}px 40px`, `${x}px 0`])).join(', ')})`;
}

function listCategories() {
  const wanted = byId('find').value.trim().toLowerCase();
  const orders = {
    stored: (a, b) => b.stored - a.stored, kept: (a, b) => keptOf(b) - keptOf(a),
    share: (a, b) => keptOf(a) / a.stored - keptOf(b) / b.stored, name: (a, b) => a.name.localeCompare(b.name),
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
  const never = categories.filter((category) => category.stored === 0);
  byId('never').hidden = never.length === 0;
  byId('never').firstElementChild.textContent = `${count(never.length)} ${never.length === 1 ? 'category was' : 'categories were'} never found`;
  byId('never').lastElementChild.replaceChildren(...never.map((category) => el('li', {}, category.name)));
}

// ---- images ----

const nameOf = (id) => (categoryOf.has(id) ? categoryOf.get(id).name : `category ${id}`);
const colourOf = (id) => (categoryOf.has(id) ? categoryOf.get(id).colour : '#888888');
const kept = (box) => box[2] >= thresholdOf(box[1]);

// Hundreds of tiles with a hundred boxes each would take seconds: boxes are drawn when their tile comes near the window.
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) {
      near.unobserve(target);
      target.wake();
    }
  }
}, { rootMargin: '600px' });

// Draws an image's boxes, and returns what makes them follow the thresholds.
function drawDetections(image, { drawing, canvas }, main) {
  if (!drawing) return () => {};
  const boxes = image.boxes.map((box, i) => ({
    x0: box[3], y0: box[4], x1: box[5], y1: box[6], colour: colourOf(box[1]), box, mask: image.masks && image.masks[i],
    kind: box === main ? 'main' : 'other',
  }));
  boxes.sort((a, b) => (a.kind === 'main') - (b.kind === 'main') || a.box[2] - b.box[2]); // the best on top
  drawBoxes(drawing, boxes);
  return () => {
    for (const group of drawing.children) group.classList.toggle('off', !kept(group.about.box));
    if (canvas) drawMasks(canvas, boxes.filter(({ box, mask }) => mask && (kept(box) || box === main)).map(({ mask, colour }) => ({ mask, colour })));
  };
}

function markButtons(image, box) {
  const make = (right) => el('button', {
    type: 'button', class: `mark ${right ? 'yes' : 'no'}`, 'aria-label': `${nameOf(box[1])} ${score(box[2])} is ${right ? 'right' : 'wrong'}`,
    onclick: () => mark(image, box, right),
  }, right ? '✓ right' : '✗ wrong');
  const buttons = [make(true), make(false)];
  const update = () => buttons.forEach((button, i) => {
    const said = markOf(image, box);
    button.setAttribute('aria-pressed', Boolean(said && said.right === (i === 0)));
  });
  return { buttons, update };
}

function tile(image, box) {
  const title = box ? `${nameOf(box[1])} ${score(box[2])}` : `${count(image.boxes.filter(kept).length)} boxes`;
  const parts = picture(image, `${image.name}: ${title}`);
  const opener = el('button', { type: 'button', class: 'open', 'aria-label': `Large view of ${image.name}, ${title}`, onclick: () => openLarge(image, box) }, parts.frame);
  let update = () => {};
  const figure = el('figure', { class: 'tile' }, opener);
  figure.wake = () => { update = drawDetections(image, parts, box); update(); };
  near.observe(figure);
  const file = el('span', { class: 'file', title: image.name }, image.name);
  const number = el('span', { class: 'score' });
  const marking = box ? markButtons(image, box) : null;
  figure.append(el('figcaption', {}, file, el('div', { class: 'row' }, number, ...(marking ? marking.buttons : []))));
  figure.follow = () => {
    update();
    number.textContent = box ? score(box[2]) : `${count(image.boxes.filter(kept).length)} boxes kept of ${count(image.stored)}`;
    figure.classList.toggle('dropped', Boolean(box) && !kept(box));
    if (marking) {
      const said = markOf(image, box);
      marking.update();
      figure.classList.toggle('right', Boolean(said && said.right));
      figure.classList.toggle('wrong', Boolean(said && !said.right));
    }
  };
  figure.about = { image, box };
  figure.follow();
  return figure;
}

// ---- gallery ----

let category = fired.length ? [...fired].sort((a, b) => b.stored - a.stored)[0].id : null;
const EACH = 12;

function openCategory(id) {
  category = id;
  byId('category').value = String(id);
  showGallery();
}

function showGallery() {
  const bands = byId('gallery-bands');
  if (category === null) {
    bands.replaceChildren(el('p', {}, 'The run found nothing at all.'));
    return;
  }
  const about = categoryOf.get(category);
  const groups = data.bands.map((low, i) => {
    const high = i + 1 < data.bands.length ? data.bands[i + 1] : 1.01;
    const total = about.above[Math.round(low * 100)] - (high > 1 ? 0 : about.above[Math.round(high * 100)]);
    const found = data.images.flatMap((image) => image.boxes
      .filter((box) => box[1] === category && box[2] >= low && box[2] < high)
      .map((box) => ({ image, box, chance: image.drawn.includes(box[0]) })));
    found.sort((a, b) => b.chance - a.chance || b.box[2] - a.box[2]); // those drawn at random first
    return { low, high: Math.min(1, high), total, found };
  });
  bands.replaceChildren(...groups.reverse().filter(({ total }) => total).map(({ low, high, total, found }) => {
    const tiles = el('div', { class: 'tiles' }, ...found.slice(0, EACH).map(({ image, box }) => tile(image, box)));
    const more = el('button', { type: 'button', class: 'plain', hidden: found.length <= EACH }, `Show ${count(found.length - EACH)} more`);
    more.addEventListener('click', () => { tiles.append(...found.slice(EACH).map(({ image, box }) => tile(image, box))); more.remove(); });
    const nothing = found.length ? null : el('p', { class: 'quiet' }, 'None of them is among the images of this file.');
    return el('div', { class: 'band' }, el('h3', {}, `${about.name}, score ${score(low)} to ${score(high)}: ${count(total)} ${total === 1 ? 'box' : 'boxes'} in the run`), nothing, tiles, more);
  }));
  bands.classList.toggle('no-others', !byId('others').checked);
}

function showSuspicious() {
  const kinds = {
    many: ['Most boxes', 'Images with the most boxes at the threshold the report was made with: a texture, a crowd, or a model that sees things.'],
    whole: ['One box over everything', 'A box that covers the whole image: often a scene taken for an object.'],
    repeated: ['The same box in many images', 'Boxes of one category at one place in many images: a watermark, a border, a fixed camera.'],
    cap: ['At the cap', `As many boxes as the run stores of one image (${count(data.run.cap || 0)}); whatever came after is lost.`],
  };
  const groups = Object.entries(kinds).map(([kind, [title, why]]) => {
    const images = data.images.filter((image) => image.reasons.includes(kind));
    if (kind === 'many') images.sort((a, b) => b.boxes.filter(kept).length - a.boxes.filter(kept).length);
    return images.length ? el('div', { class: 'band' }, el('h3', {}, title), el('p', { class: 'quiet' }, why),
      el('div', { class: 'tiles' }, ...images.map((image) => tile(image, null)))) : null;
  }).filter(Boolean);
  byId('suspicious-groups').replaceChildren(...(groups.length ? groups : [el('p', { class: 'quiet' }, 'Nothing stands out.')]));
}

// Arrow keys walk over tiles, Y, N and U mark the one that has the focus.
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const figure = event.target.closest && event.target.closest('.tile');
  if (!figure || byId('large').open) return;
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) {
    const all = [...figure.closest('section').querySelectorAll('.tile .open')];
    const next = all[all.indexOf(figure.querySelector('.open')) + step];
    if (next) { next.focus(); event.preventDefault(); }
  }
  const said = { y: true, n: false, u: null }[event.key.toLowerCase()];
  if (said !== undefined && figure.about.box) {
    const before = markOf(figure.about.image, figure.about.box);
    if (said === null || !before || before.right !== said) mark(figure.about.image, figure.about.box, said);
    event.preventDefault();
  }
});

function openLarge(image, main) {
  byId('large-title').textContent = image.name;
  byId('large-facts').textContent = `${image.width} × ${image.height} pixels, row ${image.key}, ${count(image.stored)} boxes stored${image.boxes.length < image.stored ? `, ${count(image.boxes.length)} here` : ''}`;
  const parts = picture(image, image.name, { framed: false });
  const update = drawDetections(image, parts, main);
  byId('large-picture').replaceChildren(parts.frame);
  const lines = image.boxes.map((box) => {
    const swatch = el('span', { class: 'swatch' });
    swatch.style.background = colourOf(box[1]);
    const marking = markButtons(image, box);
    const line = el('li', {}, swatch, el('span', { class: 'label' }, `${nameOf(box[1])} ${score(box[2])}`), ...marking.buttons);
    line.follow = () => { marking.update(); line.classList.toggle('dropped', !kept(box)); };
    return line;
  });
  byId('large-boxes').replaceChildren(...lines);
  byId('large').follow = () => { update(); lines.forEach((line) => line.follow()); };
  byId('large').follow();
  byId('large').showModal();
}

// ---- ground truth ----

const area = (box) => Math.max(0, box[2] - box[0]) * Math.max(0, box[3] - box[1]);

function shared(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  return width > 0 && height > 0 ? width * height : 0;
}

const overlap = (a, b) => (shared(a, b) ? shared(a, b) / (area(a) + area(b) - shared(a, b)) : 0);
const partInside = (a, b) => (shared(a, b) ? shared(a, b) / area(a) : 0);

// Greedy, best score first, within a category, at IoU 0.5: what is right, false and missed in an image now. Objects that do
// not count excuse: a crowd whatever lies in it for the most part, an ignored object the one that is matched to it.
const EXCUSES = ['none', 'crowd', 'ignored'];

function judge(image, wanted) {
  const objects = image.truth.map((object) => ({ category: object[0], box: object.slice(1, 5), excuse: EXCUSES[object[5]], kind: object[5] ? 'unjudged' : 'missed' }));
  const found = image.boxes.filter(kept).sort((a, b) => b[2] - a[2]).map((box) => ({ category: box[1], box: box.slice(3), score: box[2], kind: 'false' }));
  for (const one of found) {
    const same = objects.filter((object) => object.category === one.category);
    const nearest = (objects) => objects.map((object) => [overlap(one.box, object.box), object]).filter(([iou]) => iou >= data.truth.iou).sort((a, b) => b[0] - a[0])[0];
    const best = nearest(same.filter((object) => object.kind === 'missed'));
    const ignored = nearest(same.filter((object) => object.excuse === 'ignored' && !object.taken));
    if (best) best[1].kind = one.kind = 'matched';
    else if (ignored) { ignored[1].taken = true; one.kind = 'unjudged'; }
    else if ((image.judged && !image.judged.includes(one.category)) || !(one.category in data.truth.categories || data.truth.known.includes(one.category))
      || same.some((object) => object.excuse === 'crowd' && partInside(one.box, object.box) >= data.truth.iou)) one.kind = 'unjudged';
  }
  for (const one of [...objects, ...found]) if (wanted !== null && one.category !== wanted) one.kind = 'unjudged';
  return { objects, found };
}

function showCurve(wanted) {
  const points = wanted === null ? data.truth.all : (data.truth.categories[wanted] || { points: [] }).points;
  const [size, left, bottom] = [320, 40, 34];
  const drawing = chart(size + left, size * 0.75 + bottom, 'Precision over recall');
  const x = (recall) => left + 4 + recall * (size - 14), y = (precision) => 8 + (1 - precision) * (size * 0.75 - 8);
  const text = (value, at, up, anchor) => {
    const label = svg('text', { x: at, y: up, 'text-anchor': anchor });
    label.textContent = value;
    drawing.append(label);
  };
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    drawing.append(svg('line', { class: 'line', x1: x(0), x2: x(1), y1: y(part), y2: y(part) }), svg('line', { class: 'line', x1: x(part), x2: x(part), y1: y(0), y2: y(1) }));
    text(part, left - 4, y(part) + 4, 'end');
    text(part, x(part), y(0) + 14, 'middle');
  }
  text('precision over recall', x(0.5), y(0) + 29, 'middle');
  
  const known = points.filter(([, precision, recall]) => precision !== null && recall !== null);
  if (known.length) drawing.append(svg('path', { class: 'curve', d: known.map(([, p, r], i) => `${i ? 'L' : 'M'}${x(r).toFixed(1)} ${y(p).toFixed(1)}`).join('') }));
  const threshold = wanted === null ? thresholds.all : thresholdOf(wanted);
  const here = known.find(([t]) => t >= threshold - 1e-9);
  const mixed = wanted === null && thresholds.own.size > 0;
  if (here) drawing.append(svg('circle', { class: 'dot', cx: x(here[2]), cy: y(here[1]), r: 6 }));
  byId('curve').replaceChildren(drawing);
  const show = (value) => (value === null || value === undefined ? '–' : value.toFixed(3));
  const [, precision, recall] = here || [null, null, null];
  const f1 = here && precision + recall ? 2 * precision * recall / (precision + recall) : null;
  numbers(byId('point'), [[`Threshold${mixed ? ' of all' : ''}`, shown(threshold)], ['Precision', show(precision)], ['Recall', show(recall)], ['F1', show(f1)],
    ['Objects', count(wanted === null ? data.truth.objects : (data.truth.categories[wanted] || { objects: 0 }).objects)]]);
}

function side(image, title, boxes) {
  const parts = picture(image, `${image.name}: ${title}`);
  const order = { unjudged: 0, matched: 1, missed: 2, false: 3 };
  if (parts.drawing) drawBoxes(parts.drawing, boxes.sort((a, b) => order[a.kind] - order[b.kind]).map(({ box: [x0, y0, x1, y1], kind }) => ({ x0, y0, x1, y1, kind, colour: '#888888' })));
  return el('div', { class: 'side' }, el('p', {}, title), parts.frame);
}

function showTruth() {
  if (!data.truth) return;
  const chosen = byId('truth-category').value;
  const wanted = chosen === 'all' ? null : Number(chosen), kind = byId('truth-kind').value;
  showCurve(wanted);
  const judged = data.images.filter((image) => image.truth).map((image) => {
    const { objects, found } = judge(image, wanted);
    const wrong = found.filter((one) => one.kind === 'false').length, missed = objects.filter((one) => one.kind === 'missed').length;
    return { image, objects, found, wrong, missed, errors: (kind !== 'missed' ? wrong : 0) + (kind !== 'false' ? missed : 0) };
  });
  const shown = judged.filter(({ errors }) => errors).sort((a, b) => b.errors - a.errors).slice(0, 24);
  const pairs = shown.map(({ image, objects, found, wrong, missed }) => el('figure', { class: 'pair' },
    el('div', { class: 'sides' }, side(image, `Found: ${count(wrong)} false`, found), side(image, `Annotated: ${count(missed)} missed`, objects)),
    el('figcaption', {}, el('span', { class: 'file', title: image.name }, image.name))));
  const counted = judged.filter(({ errors }) => errors).length;
  byId('errors').replaceChildren(el('p', { class: 'quiet', role: 'status' },
    `${count(counted)} of ${count(judged.length)} annotated images in this file have such errors${counted > shown.length ? `; the worst ${shown.length} are shown` : ''}.`),
  el('div', { class: 'pairs' }, ...pairs));
}

// ---- all together ----

let waiting = false;
function changed(only = null) {
  remember();
  if (waiting) { if (waiting !== only) waiting = true; return; }
  waiting = only || true;
  requestAnimationFrame(() => { const what = waiting; waiting = false; showThresholds(what === true ? null : what); });
}

function showThresholds(only = null) {
  byId('threshold').value = toSlider(thresholds.all);
  byId('threshold-value').textContent = shown(thresholds.all);
  const total = fired.reduce((sum, one) => sum + keptOf(one), 0);
  const own = thresholds.own.size;
  byId('kept').textContent = `${count(total)} of ${count(stored)} boxes kept (${percent(total, stored)})${own ? `, ${count(own)} own ${own === 1 ? 'threshold' : 'thresholds'}` : ''}`;
  if (only) { if (items.has(only.id)) updateItem(items.get(only.id)); } else for (const one of items.values()) updateItem(one);
  follow();
  showTruth();
}

function follow() {
  for (const figure of document.querySelectorAll('.tile')) figure.follow();
  if (byId('large').open) byId('large').follow();
}

function showMarks() {
  byId('save-marks').disabled = marks.size === 0;
  byId('save-marks').textContent = marks.size ? `↓ marks.json (${count(marks.size)})` : '↓ marks.json';
  follow();
}

byId('threshold').addEventListener('input', (event) => { thresholds.all = fromSlider(event.target); changed(); });
byId('save-thresholds').addEventListener('click', () => download('thresholds.yaml', yaml(), 'application/yaml'));
byId('save-marks').addEventListener('click', () => download('marks.json', JSON.stringify({ run: data.run.id, marks: [...marks.values()] }, null, 1) + '\n', 'application/json'));
byId('reset').addEventListener('click', () => { thresholds = start(); marks.clear(); changed(); showMarks(); });
byId('find').addEventListener('input', () => { shownCategories = PAGE; listCategories(); });
byId('order').addEventListener('change', listCategories);
byId('more-categories').addEventListener('click', () => { shownCategories += PAGE; listCategories(); });
byId('category').addEventListener('change', (event) => openCategory(Number(event.target.value)));
byId('others').addEventListener('change', () => byId('gallery-bands').classList.toggle('no-others', !byId('others').checked));
byId('close').addEventListener('click', () => byId('large').close());
byId('large').addEventListener('click', (event) => { if (event.target === byId('large')) byId('large').close(); });

recall();
showOverview();
byId('category').append(...[...fired].sort((a, b) => a.name.localeCompare(b.name)).map((one) => el('option', { value: one.id }, one.name)));
if (category !== null) byId('category').value = String(category);
byId('threshold').min = Math.floor(data.floor * 100) / 100;
listCategories();
showNever();
showGallery();
showSuspicious();
if (data.truth) {
  byId('truth').hidden = false;
  const { images, objects, rules, AP } = data.truth;
  byId('truth-about').textContent = `${count(objects)} objects in ${count(images)} annotated images; ${rules} rules, IoU ${data.truth.iou}${AP === null ? '' : `; AP ${AP.toFixed(3)}`}.`;
  const known = categories.filter(({ id }) => id in data.truth.categories).sort((a, b) => a.name.localeCompare(b.name));
  byId('truth-category').append(el('option', { value: 'all' }, 'all categories together'), ...known.map((one) => el('option', { value: one.id }, one.name)));
  byId('truth-category').addEventListener('change', showTruth);
  byId('truth-kind').addEventListener('change', showTruth);
} else byId('sections').lastElementChild.remove();
showThresholds();
showMarks();
