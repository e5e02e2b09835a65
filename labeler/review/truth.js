// The report against ground truth.

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
  const found = image.boxes.filter(kept).sort((a, b) => b[2] - a[2]).map((box) => ({ category: box[1], box: box.slice(3), score: box.unscored ? null : box[2], kind: 'false' }));
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

// One side of a pair, with the names of what is wrong; Enter or a click opens the large view with the same boxes.
function side(image, title, boxes) {
  const order = { unjudged: 0, matched: 1, missed: 2, false: 3 }, paint = { matched: '#2fa36b', missed: '#f0a92a', false: '#e2483a', unjudged: '#b9bec4' };
  const drawn = [...boxes].sort((a, b) => order[a.kind] - order[b.kind]).map(({ box: [x0, y0, x1, y1], kind, category, score: s }) => ({
    x0, y0, x1, y1, kind, colour: paint[kind], name: s === undefined ? nameOf(category) : `${nameOf(category)} ${score(s)}`,
  }));
  const draw = (parts, most) => {
    if (!parts.drawing) return () => {};
    drawBoxes(parts.drawing, drawn);
    return () => drawNames(parts, drawn.filter(({ kind }) => kind !== 'unjudged').reverse(), most);
  };
  const parts = picture(image, `${image.name}: ${title}`);
  const items = [...drawn].reverse().map((one) => el('li', {}, el('button', { type: 'button', class: 'label', title: 'Zoom to this box', onclick: () => viewer.near([one.x0, one.y0, one.x1, one.y1]) }, one.name), el('span', { class: 'quiet' }, WORDS[one.kind])));
  const opener = el('button', { type: 'button', class: 'open', 'aria-label': `Large view of ${image.name}, ${title}`,
    onclick: () => viewer.open({ image, name: `${image.name}: ${title}`, items, draw: (large) => draw(large, 60) }) }, parts.frame);
  const made = el('div', { class: 'side' }, el('p', {}, title), opener);
  made.wake = draw(parts, 8);
  near.observe(made);
  return made;
}

const WORDS = { matched: 'right', missed: 'missed', false: 'false positive', unjudged: 'not judged' };

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
