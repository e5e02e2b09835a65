// The report, all together.

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
  byId('kept').textContent = `${count(total)} of ${count(stored)} boxes kept (${percent(total, stored)})${own ? `, ${count(own)} own ${own === 1 ? 'threshold' : 'thresholds'}` : ''}${data.unscored ? '; a box without a score counts as 1' : ''}`;
  if (only) { if (items.has(only.id)) updateItem(items.get(only.id)); } else for (const one of items.values()) updateItem(one);
  follow();
  showTruth();
}

function follow() {
  for (const figure of document.querySelectorAll('.tile')) figure.follow();
  viewer.follow();
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

recall();
showOverview();
byId('threshold').min = Math.floor(data.floor * 100) / 100;
showNever();
if (fired.length) {
  listCategories();
  listPictured();
  showGallery();
} else {
  byId('found-some').remove();
  dropSection('gallery');
}
showSuspicious();
if (data.truth) {
  byId('truth').hidden = false;
  const { images, objects, rules, AP } = data.truth;
  byId('truth-about').textContent = `${count(objects)} objects in ${count(images)} annotated images; ${rules} rules, IoU ${data.truth.iou}${AP === null ? '' : `; AP ${AP.toFixed(3)}`}.`;
  const known = categories.filter(({ id }) => id in data.truth.categories);
  listOptions(byId('truth-category'), [{ members: [{ id: 'all', name: 'all categories together' }] }, { label: 'annotated', members: known }], 'all');
  byId('truth-category').addEventListener('change', showTruth);
  byId('truth-kind').addEventListener('change', showTruth);
} else dropSection('truth');
showThresholds();
showMarks();
performance.mark('labeler-drawn');
