// What every page of labeler needs: elements, numbers, tables, charts, downloads.

const data = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';

// An element with properties and children; text always goes in as text, so no name can become markup.
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (name === 'class') made.className = value;
    else if (name in made && name !== 'list') made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const count = (n) => n.toLocaleString('en-US');
const score = (s) => (s === null ? 'unscored' : s.toFixed(2));
const percent = (part, whole) => (whole ? `${(100 * part / whole).toFixed(part && part < whole / 100 ? 2 : 0)} %` : '–');

function download(name, text, type) {
  const link = el('a', { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// A chart's frame: returns the SVG; x and y run over the given box in its own units.
function chart(width, height, label) {
  return svg('svg', { class: 'chart', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label });
}

function numbers(list, facts) {
  list.replaceChildren(...facts.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}

// A heading that begins with # is of a column of numbers.
function table(heads, rows) {
  const head = heads.map((name) => el('th', { scope: 'col', class: name.startsWith('#') ? 'number' : 'name' }, name.replace('#', '')));
  return el('div', { class: 'scroll' }, el('table', {}, el('thead', {}, el('tr', {}, ...head)), el('tbody', {}, ...rows)));
}

// Fills a <details> when it is first opened: a list of 10,000 names costs nothing before.
function fillWhenOpened(details, fill) {
  details.addEventListener('toggle', () => { if (details.open) fill(); }, { once: true });
}

// The options of a list, by name: groups {label, members {id, name}}, those without a label first. Thousands take the browser a
// second to lay out, so they come when the list is first pointed at or focused; until then it has the chosen one alone.
const MANY_OPTIONS = 500;
function listOptions(select, groups, chosen) {
  const option = (one) => el('option', { value: one.id }, one.name), choices = groups.flatMap(({ members }) => members);
  const fill = () => {
    const value = select.value;
    select.replaceChildren(...groups.filter(({ members }) => members.length).flatMap(({ label, members }) => {
      const options = members.sort((a, b) => byName(a.name, b.name)).map(option);
      return label ? [el('optgroup', { label }, ...options)] : options;
    }));
    select.value = value;
  };
  select.choose = (id) => { // also one that is not in the list yet
    select.value = String(id);
    if (select.value !== String(id)) select.append(option(choices.find((one) => String(one.id) === String(id))));
    select.value = String(id);
  };
  select.choose(chosen);
  if (choices.length <= MANY_OPTIONS) fill();
  else for (const event of ['pointerenter', 'focus']) select.addEventListener(event, fill, { once: true });
}

// Sections that have nothing to show go, and their links with them.
function dropSection(id) {
  byId(id).remove();
  document.querySelector(`nav a[href="#${id}"]`)?.parentElement.remove();
}

const byName = new Intl.Collator('en', { numeric: true }).compare;
