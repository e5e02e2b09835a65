// What reviewers did with the boxes of each category; only in pages of corrected runs.

function showReviews() {
  const found = data.reviews;
  if (!found) return;
  const names = new Map(data.categories.map((category) => [category.id, category.name]));
  byId('reviews').hidden = false;
  byId('reviews-link').hidden = false;
  byId('reviews-about').textContent = `${count(found.images.complete || 0)} images reviewed completely, `
    + `${count(found.images.boxes || 0)} with single boxes reviewed. A removed box is in the run before the review.`;
  const head = ['category', ...found.sources].map((name, place) => el('th', { scope: 'col', class: place ? 'number' : 'name' }, name));
  const rows = found.categories.map(([id, ...counts]) => el('tr', {},
    el('th', { scope: 'row' }, names.get(id) || String(id)), ...counts.map((n) => el('td', { class: 'number' }, count(n)))));
  byId('reviews-table').append(el('thead', {}, el('tr', {}, ...head)), el('tbody', {}, ...rows));
}

showReviews();
