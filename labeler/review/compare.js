// The comparison of two runs: agreement by category, and a gallery of differences.

const nameOf = new Map(data.categories.map((category) => [category.id, category.name]));
const [PAGE, IMAGES] = [40, 24];
let shownCategories = PAGE, shownImages = IMAGES;
const number = (n) => el('td', { class: 'number' }, n);
const agreement = (one) => (one.agreement === null ? '–' : one.agreement.toFixed(3));

function table(heads, rows) {
  const head = heads.map((name) => el('th', { scope: 'col', class: name.startsWith('#') ? 'number' : 'name' }, name.replace('#', '')));
  return el('table', {}, el('thead', {}, el('tr', {}, ...head)), el('tbody', {}, ...rows));
}

function showOverview() {
  const [first, second] = data.runs;
  const about = (run) => `${run.model} (${run.uri}), scores from ${run.default_threshold}${run.own_thresholds ? `, ${run.own_thresholds} own thresholds` : ''}`;
  byId('subtitle').textContent = `First: ${about(first)}. Second: ${about(second)}.`;
  const total = data.total;
  numbers(byId('numbers'), [['Agreement', agreement(total)], ['Images compared', count(data.images_compared)], ['Identical images', `${count(data.identical)} (${percent(data.identical, data.images_compared)})`],
    ['Boxes', `${count(total.first)} → ${count(total.second)}`], ['Lost', count(total.lost)], ['Added', count(total.added)], ['Renamed', count(total.renamed)], ['Moved', count(total.moved)]]);
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
    boxes: (a, b) => b.first + b.second - a.first - a.second, name: (a, b) => a.name.localeCompare(b.name),
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

const boxesOf = (image) => image.differences.flatMap((one) => [['first', one.first], ['second', one.second]]
  .filter(([, box]) => box).map(([side, [, , x0, y0, x1, y1]]) => ({ x0, y0, x1, y1, kind: `${one.kind} ${side}`, colour: '#888888' })))
  .sort((a, b) => b.kind.startsWith('same') - a.kind.startsWith('same'));

function matches(image) {
  const category = byId('category').value, kind = byId('kind').value;
  return image.differences.filter((one) => one.kind !== 'same' && (kind === 'any' || one.kind === kind)
    && (category === 'all' || [one.first, one.second].some((box) => box && box[0] === Number(category)))).length;
}

function tile(image) {
  const differing = image.differences.filter((one) => one.kind !== 'same');
  const parts = picture(image, `${image.name}: ${count(differing.length)} differences`);
  if (parts.drawing) drawBoxes(parts.drawing, boxesOf(image));
  const opener = el('button', { type: 'button', class: 'open', 'aria-label': `Large view of ${image.name}`, onclick: () => openLarge(image) }, parts.frame);
  const kinds = data.rules.kinds.map((kind) => [kind, image.differences.filter((one) => one.kind === kind).length]).filter(([, n]) => n);
  return el('figure', { class: 'tile' }, opener, el('figcaption', {}, el('span', { class: 'file', title: image.name }, image.name), kinds.map(([kind, n]) => `${n} ${kind}`).join(', ')));
}

function showGallery() {
  const found = data.images.map((image) => [matches(image), image]).filter(([n]) => n).sort((a, b) => b[0] - a[0]);
  byId('shown').textContent = found.length ? `${count(found.length)} of ${count(data.images.length)} images in this file` : 'None of the images in this file.';
  byId('tiles').replaceChildren(...found.slice(0, shownImages).map(([, image]) => tile(image)));
  byId('more-images').hidden = found.length <= shownImages;
}

function openLarge(image) {
  byId('large-title').textContent = image.name;
  const parts = picture(image, image.name, { framed: false });
  if (parts.drawing) drawBoxes(parts.drawing, boxesOf(image));
  byId('large-picture').replaceChildren(parts.frame);
  const say = (box) => `${nameOf.get(box[0])} ${score(box[1])}`;
  byId('large-boxes').replaceChildren(...image.differences.map((one) => el('li', {}, el('span', { class: 'label' },
    `${one.kind}: ${[one.first, one.second].filter(Boolean).map(say).join(' → ')}${one.first && one.second ? `, IoU ${one.iou.toFixed(2)}` : ''}`))));
  byId('large').showModal();
}

byId('find').addEventListener('input', () => { shownCategories = PAGE; listCategories(); });
byId('order').addEventListener('change', listCategories);
byId('more-categories').addEventListener('click', () => { shownCategories += PAGE; listCategories(); });
byId('more-images').addEventListener('click', () => { shownImages += IMAGES; showGallery(); });
for (const id of ['category', 'kind']) byId(id).addEventListener('change', () => { shownImages = IMAGES; showGallery(); });
byId('close').addEventListener('click', () => byId('large').close());

const some = data.categories.filter((one) => one.first + one.second).sort((a, b) => a.name.localeCompare(b.name));
byId('category').append(el('option', { value: 'all' }, 'all'), ...some.map((one) => el('option', { value: one.id }, one.name)));
showOverview();
listCategories();
showRenamings();
showGallery();
