// The report's pictures: tiles of boxes, their marks, suspicious images, the large view.

const nameOf = (id) => (categoryOf.has(id) ? categoryOf.get(id).name : `category ${id}`);
const colourOf = (id) => (categoryOf.has(id) ? categoryOf.get(id).colour : '#888888');
const kept = (box) => box[2] >= thresholdOf(box[1]);

// Draws an image's boxes with their names, and returns what makes them follow the thresholds. The box `main` is always shown;
// of the others those that are kept, and where `below()` says so those under their threshold, too.
function drawDetections(image, parts, main, { below = () => false, most = 12, scores = false } = {}) {
  const { drawing, canvas } = parts;
  if (!drawing) return () => {};
  const boxes = image.boxes.map((box, i) => ({
    x0: box[3], y0: box[4], x1: box[5], y1: box[6], colour: colourOf(box[1]), box, mask: image.masks && image.masks[i],
    kind: box === main ? 'main' : 'other', first: box === main, name: box === main || scores ? `${nameOf(box[1])} ${scoreOf(box)}` : nameOf(box[1]),
  }));
  boxes.sort((a, b) => (a.kind === 'main') - (b.kind === 'main') || a.box[2] - b.box[2]); // the best on top
  drawBoxes(drawing, boxes);
  let drawn = null;
  return () => {
    const seen = boxes.filter((one) => kept(one.box) || one.first || below());
    for (const group of drawing.children) {
      group.classList.toggle('below', !kept(group.about.box));
      group.classList.toggle('off', !kept(group.about.box) && !group.about.first && !below());
    }
    const now = `${seen.map(({ box }) => box[0])} ${parts.region} ${parts.fit.clientWidth}`;
    if (now === drawn) return;
    drawn = now;
    drawNames(parts, [...seen].reverse(), most);
    if (canvas) drawMasks(canvas, seen.filter(({ mask }) => mask).map(({ mask, colour }) => ({ mask, colour })));
  };
}

function markButtons(image, box) {
  const make = (right) => el('button', {
    type: 'button', class: `mark ${right ? 'yes' : 'no'}`, 'aria-label': `${nameOf(box[1])} ${scoreOf(box)} is ${right ? 'right' : 'wrong'}`,
    onclick: () => mark(image, box, right),
  }, right ? '✓ right' : '✗ wrong');
  const buttons = [make(true), make(false)];
  const update = () => buttons.forEach((button, i) => {
    const said = markOf(image, box);
    button.setAttribute('aria-pressed', Boolean(said && said.right === (i === 0)));
  });
  return { buttons, update };
}

// How a tile shows a box: the part of the image around it, from its own picture where it has one.
function aroundBox(image, box) {
  const crop = image.crops && image.crops[box[0]];
  return { region: crop ? crop.slice(0, 4) : regionAround(box.slice(3), image), crops: crop ? [crop] : [] };
}

function tile(image, box) {
  const title = box ? `${nameOf(box[1])} ${scoreOf(box)}` : `${count(image.boxes.filter(kept).length)} boxes`;
  const parts = picture(image, `${image.name}: ${title}`, box && image.jpeg ? aroundBox(image, box) : {});
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
    const dropped = Boolean(box) && !kept(box);
    number.textContent = box ? `${scoreOf(box)}${dropped ? ' ↓' : ''}` : `${count(image.boxes.filter(kept).length)} boxes kept of ${count(image.stored)}`;
    number.title = dropped ? 'below its threshold' : '';
    figure.classList.toggle('dropped', dropped);
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

const pictured = new Map(); // category id -> its boxes in this file's images
for (const image of data.images) {
  for (const box of image.boxes) {
    if (!pictured.has(box[1])) pictured.set(box[1], []);
    pictured.get(box[1]).push({ image, box, chance: image.by_chance.includes(box[0]) });
  }
}
const byStored = [...fired].sort((a, b) => b.stored - a.stored);
let category = (byStored.find(({ id }) => pictured.has(id)) ?? byStored[0])?.id ?? null;
const EACH = 12;

function openCategory(id) {
  category = id;
  byId('category').choose(id);
  showGallery();
}

// Names that have pictures first.
function listPictured() {
  const [here, elsewhere] = [true, false].map((seen) => fired.filter(({ id }) => pictured.has(id) === seen));
  listOptions(byId('category'), [{ label: 'with images in this file', members: here }, { label: 'without', members: elsewhere }], category);
}

function showGallery() {
  const bands = byId('gallery-bands'), about = categoryOf.get(category);
  const groups = data.bands.map((low, i) => {
    const high = i + 1 < data.bands.length ? data.bands[i + 1] : 1.01;
    const total = about.above[Math.round(low * 100)] - (high > 1 ? 0 : about.above[Math.round(high * 100)]);
    const found = (pictured.get(category) || []).filter(({ box }) => box[2] >= low && box[2] < high);
    found.sort((a, b) => b.chance - a.chance || b.box[2] - a.box[2]); // those drawn at random first
    return { low, high: Math.min(1, high), total, found };
  }).reverse().filter(({ total }) => total);
  const shownBands = groups.filter(({ found }) => found.length).map(({ low, high, total, found }) => {
    const tiles = el('div', { class: 'tiles' }, ...found.slice(0, EACH).map(({ image, box }) => tile(image, box)));
    const more = el('button', { type: 'button', class: 'plain', hidden: found.length <= EACH }, `Show ${count(found.length - EACH)} more`);
    more.addEventListener('click', () => { tiles.append(...found.slice(EACH).map(({ image, box }) => tile(image, box))); more.remove(); });
    return el('div', { class: 'band' }, el('h3', {}, `${about.name}, score ${score(low)} to ${score(high)}${high === 1 && data.unscored ? ', or unscored' : ''}: ${count(total)} ${total === 1 ? 'box' : 'boxes'} in the run`), tiles, more);
  });
  const unseen = groups.filter(({ found }) => !found.length).map(({ low, high, total }) => `${count(total)} from ${score(low)} to ${score(high)}`);
  const rest = unseen.length ? el('p', { class: 'quiet' }, `Not among the images of this file: boxes of ${about.name}, ${unseen.join(', ')}.`) : null;
  bands.replaceChildren(...shownBands, ...(rest ? [rest] : []));
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
  if (groups.length) byId('suspicious-groups').replaceChildren(...groups);
  else dropSection('suspicious');
}

// Y, N and U mark a box; whether the key was one of them.
function markByKey(key, { image, box }) {
  const said = { y: true, n: false, u: null }[key.toLowerCase()];
  if (said === undefined || !box) return false;
  const before = markOf(image, box);
  if (said === null || !before || before.right !== said) mark(image, box, said);
  return true;
}

// Arrow keys walk over tiles, Y, N and U mark the one that has the focus.
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const figure = event.target.closest && event.target.closest('.tile');
  if (!figure || viewer.dialog.open) return;
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) {
    const all = [...figure.closest('section').querySelectorAll('.tile .open')];
    const next = all[all.indexOf(figure.querySelector('.open')) + step];
    if (next) { next.focus(); event.preventDefault(); }
  }
  if (markByKey(event.key, figure.about)) event.preventDefault();
});

function openLarge(image, main) {
  const below = el('input', { type: 'checkbox', id: 'below', checked: true });
  const lines = image.boxes.map((box) => {
    const swatch = el('span', { class: 'swatch' });
    swatch.style.background = colourOf(box[1]);
    const marking = markButtons(image, box);
    const label = el('button', { type: 'button', class: 'label', title: 'Zoom to this box', onclick: () => viewer.near(box.slice(3)) });
    const line = el('li', { class: box === main ? 'chosen' : '' }, swatch, label, ...marking.buttons);
    line.follow = () => { marking.update(); label.textContent = `${nameOf(box[1])} ${scoreOf(box)}${kept(box) ? '' : ' ↓'}`; };
    return line;
  });
  viewer.open({
    image, name: image.name, items: lines,
    about: `${image.width} × ${image.height} pixels, row ${image.key}, ${count(image.stored)} boxes stored${image.boxes.length < image.stored ? `, ${count(image.boxes.length)} here` : ''}. Click a name to zoom to its box; ↓ is below its threshold.`,
    options: image.boxes.length ? [el('label', { class: 'check' }, below, ' boxes below their threshold')] : [],
    draw: (parts) => {
      const update = drawDetections(image, parts, main, { below: () => below.checked, most: 60, scores: true });
      below.addEventListener('change', update);
      return () => { update(); lines.forEach((line) => line.follow()); };
    },
    onkey: (event) => markByKey(event.key, { image, box: main }),
  });
}
