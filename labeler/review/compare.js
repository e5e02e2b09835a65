// The comparison of two runs: agreement by category, and a gallery of differences.

const nameOf = new Map(data.categories.map((category) => [category.id, category.name]));
const [PAGE, IMAGES] = [40, 24];
let shownCategories = PAGE, shownImages = IMAGES;
const number = (n) => el('td', { class: 'number' }, n);
const agreement = (one) => (one.agreement === null ? '–' : one.agreement.toFixed(3));

function showOverview() {
  const [first, second] = data.runs;
  const about = (run) => `${run.model} (${run.uri}), scores from ${run.default_threshold}${run.own_thresholds ? `, ${run.own_thresholds} own thresholds` : ''}`;
  byId('subtitle').textContent = `First: ${about(first)}. Second: ${about(second)}.`;
  const total = data.total;
  numbers(byId('numbers'), [['Agreement', agreement(total)], ['Images compared', count(data.images_compared)], ['Identical images', `${count(data.identical)} (${percent(data.identical, data.images_compared)})`],
    ['Boxes', `${count(total.first)} → ${count(total.second)}`], ['Lost', count(total.lost)], ['Added', count(total.added)], ['Renamed', count(total.renamed)], ['Moved', count(total.moved)]]);
  byId('summary').textContent = `Agreement ${agreement(total)} over ${count(data.images_compared)} images: ${['lost', 'added', 'renamed', 'moved'].map((kind) => `${count(total[kind])} ${kind}`).join(', ')} of ${count(total.first)} boxes.`;
  byId('rules').textContent = `Agreement is the part of both sides' boxes that the other side has too, in place and name: 1 is perfect. Boxes are about one object from an IoU of ${data.rules.pair_iou} on, and have not moved from ${data.rules.same_iou} on. Images are joined by the digest of their bytes.`;
  const sides = ['first', 'second'], facts = [];
  sides.forEach((side, i) => {
    const say = (n, text) => { if (n) facts.push(`${count(n)} ${text}`); };
    say(data.facts.alone[i], `images are only in the ${side} run`);
    say(data.facts.failed[i], `images could not be labeled in the ${side} run`);
    say(data.facts.repeated[i], `rows of the ${side} run repeat an image and are counted once`);
    say(data.facts.without_digest[i], `rows of the ${side} run could not be read at all`);
    say(data.facts.left_out[i].length, `categories are only in the ${side} run and left out: ${data.facts.left_out[i].slice(0, 10).join(', ')}${data.facts.left_out[i].length > 10 ? ', …' : ''}`);
  });
  byId('facts').replaceChildren(...facts.map((fact) => el('li', {}, fact)));
}

function listCategories() {
  const wanted = byId('find').value.trim().toLowerCase();
  const orders = {
    agreement: (a, b) => (a.agreement ?? 2) - (b.agreement ?? 2) || b.first + b.second - a.first - a.second,
    boxes: (a, b) => b.first + b.second - a.first - a.second, name: (a, b) => byName(a.name, b.name),
  };
  const found = data.categories.filter((one) => one.name.toLowerCase().includes(wanted)).sort(orders[byId('order').value]);
  const rows = found.slice(0, shownCategories).map((one) => el('tr', {}, el('th', { scope: 'row', class: 'name' }, one.name), number(agreement(one)), number(count(one.first)), number(count(one.second)),
    ...['same', 'moved', 'renamed', 'renamed_to', 'lost', 'added'].map((kind) => number(count(one[kind])))));
  byId('category-table').replaceChildren(table(['Category', '#Agreement', '#First', '#Second', '#Same', '#Moved', '#Renamed', '#Renamed to it', '#Lost', '#Added'], rows));
  byId('more-categories').hidden = found.length <= shownCategories;
}

function showRenamings() {
  if (!data.renamings.length) return;
  const rows = data.renamings.slice(0, 30).map(([before, after, boxes]) => el('tr', {}, el('td', {}, nameOf.get(before)), el('td', {}, nameOf.get(after)), number(count(boxes))));
  byId('renamings').append(el('details', {}, el('summary', {}, 'What became what'), table(['First run', 'Second run', '#Boxes'], rows)));
}

const COLOURS = { lost: '#e2483a', added: '#2fa36b', renamed: '#f0a92a', moved: '#3f8fe0', same: '#b9bec4' };

const boxesOf = (image) => image.differences.flatMap((one) => [['first', one.first], ['second', one.second]]
  .filter(([, box]) => box).map(([side, [id, s, x0, y0, x1, y1]]) => ({ x0, y0, x1, y1, difference: one, score: s, kind: `${one.kind} ${side}`, colour: COLOURS[one.kind], name: nameOf.get(id) })))
  .sort((a, b) => b.kind.startsWith('same') - a.kind.startsWith('same'));

// The differences of an image that were asked for.
function matching(image) {
  const category = byId('category').value, kind = byId('kind').value;
  return image.differences.filter((one) => one.kind !== 'same' && (kind === 'any' || one.kind === kind)
    && (category === 'all' || [one.first, one.second].some((box) => box && box[0] === Number(category))));
}

// Boxes, and names of those that differ: of one that only moved, or was kept under another name, both sides' names in one.
function drawDifferences(image, parts, most) {
  if (!parts.drawing) return () => {};
  const boxes = boxesOf(image);
  drawBoxes(parts.drawing, boxes);
  const named = boxes.filter(({ difference, kind }) => difference.kind !== 'same' && (kind.endsWith('first') || !difference.first))
    .map((box) => (box.difference.kind === 'renamed' ? { ...box, name: `${box.name} → ${nameOf.get(box.difference.second[0])}` } : box));
  return () => drawNames(parts, named.sort((a, b) => (b.score ?? 1) - (a.score ?? 1)), most);
}

// The part of the image in which all that was asked for lies; as large as its thumbnail has pixels for.
function aroundAll(image, differences) {
  const boxes = differences.flatMap(({ first, second }) => [first, second]).filter(Boolean).map((box) => box.slice(2));
  const box = [0, 1, 2, 3].map((side) => Math[side < 2 ? 'min' : 'max'](...boxes.map((one) => one[side])));
  return regionAround(box, image, 160 * Math.max(1, Math.max(image.width, image.height) / 384));
}

function tile(image, asked) {
  const differing = image.differences.filter((one) => one.kind !== 'same');
  const parts = picture(image, `${image.name}: ${count(differing.length)} differences`, image.jpeg ? { region: aroundAll(image, asked) } : {});
  const opener = el('button', { type: 'button', class: 'open', 'aria-label': `Large view of ${image.name}`, onclick: () => openLarge(image) }, parts.frame);
  const kinds = data.rules.kinds.map((kind) => [kind, image.differences.filter((one) => one.kind === kind).length]).filter(([, n]) => n);
  const made = el('figure', { class: 'tile' }, opener, el('figcaption', {}, el('span', { class: 'file', title: image.name }, image.name), kinds.map(([kind, n]) => `${n} ${kind}`).join(', ')));
  made.wake = () => drawDifferences(image, parts, 8)();
  near.observe(made);
  return made;
}

function showGallery() {
  const found = data.images.map((image) => [matching(image), image]).filter(([asked]) => asked.length).sort((a, b) => b[0].length - a[0].length);
  byId('shown').textContent = found.length ? `${count(found.length)} of ${count(data.images.length)} images in this file` : 'None of the images in this file.';
  byId('tiles').replaceChildren(...found.slice(0, shownImages).map(([asked, image]) => tile(image, asked)));
  byId('more-images').hidden = found.length <= shownImages;
}

function openLarge(image) {
  const say = (box) => `${nameOf.get(box[0])} ${score(box[1])}`;
  const items = [...image.differences].sort((a, b) => (a.kind === 'same') - (b.kind === 'same')).map((one) => el('li', {},
    el('button', { type: 'button', class: 'label', title: 'Zoom to this box', onclick: () => viewer.near((one.first || one.second).slice(2)) },
      `${one.kind}: ${[one.first, one.second].filter(Boolean).map(say).join(' → ')}${one.first && one.second ? `, IoU ${one.iou.toFixed(2)}` : ''}`)));
  viewer.open({ image, name: image.name, items, about: 'First run solid, second run dashed. Click a line to zoom to its box.', draw: (parts) => drawDifferences(image, parts, 60) });
}

byId('find').addEventListener('input', () => { shownCategories = PAGE; listCategories(); });
byId('order').addEventListener('change', listCategories);
byId('more-categories').addEventListener('click', () => { shownCategories += PAGE; listCategories(); });
byId('more-images').addEventListener('click', () => { shownImages += IMAGES; showGallery(); });
for (const id of ['category', 'kind']) byId(id).addEventListener('change', () => { shownImages = IMAGES; showGallery(); });

listOptions(byId('category'), [{ members: [{ id: 'all', name: 'all' }] }, { label: 'with boxes', members: data.categories.filter((one) => one.first + one.second) }], 'all');
showOverview();
listCategories();
showRenamings();
if (data.images.length) showGallery(); else dropSection('gallery');
performance.mark('labeler-drawn');
