// The large view: an image at any zoom, with what the page draws on it and says beside it.

const viewer = (() => {
  const button = (id, label, title) => el('button', { type: 'button', class: 'plain', id, 'aria-label': title, title }, label);
  const title = el('h2', { id: 'large-title' }), facts = el('p', { id: 'large-facts', class: 'quiet' });
  const place = el('div', { id: 'large-picture' }), lines = el('ol', { id: 'large-boxes', class: 'box-list' });
  const close = button('close', 'Close', 'Close'), larger = button('zoom-in', '+', 'Zoom in'), smaller = button('zoom-out', '−', 'Zoom out');
  const all = button('zoom-all', 'Whole image', 'The whole image'), level = el('output', { id: 'zoom-level', class: 'quiet' });
  const tools = el('div', { class: 'zoom' }, larger, smaller, all, level), more = el('span', { class: 'zoom' });
  const dialog = el('dialog', { id: 'large', 'aria-labelledby': 'large-title' },
    el('div', { class: 'large-head' }, title, close),
    el('div', { class: 'large-body' }, el('div', {}, place, el('div', { class: 'zoom-row' }, tools, more)), el('div', {}, facts, lines)));
  document.body.append(dialog);
  const LIMIT = 32;
  let parts = null, redraw = () => {}, key = () => {};

  // What is seen at a zoom of 1: the whole image in a window of its shape, but no narrower than the place for it.
  function shape() {
    const { width, height } = parts.image, ratio = Math.max(width / height, window.innerWidth > 704 ? 4 / 3 : 3 / 4);
    return [Math.max(width, height * ratio), Math.max(height, width / ratio)];
  }

  // A part of the image around x, y, `zoom` times enlarged; never beside the image.
  function look(zoom, x, y) {
    const { width, height } = parts.image, [whole, tall] = shape(), power = bounded(zoom, 1, Math.max(1, Math.min(LIMIT, whole / 16, tall / 16)));
    const [wide, high] = [whole / power, tall / power];
    const start = (at, part, all) => (part >= all ? (all - part) / 2 : bounded(at - part / 2, 0, all - part));
    const left = start(x, wide, width), top = start(y, high, height);
    parts.look([left, top, left + wide, top + high]);
    level.textContent = `${Math.round(100 * power)} %`;
    smaller.disabled = all.disabled = power <= 1;
    place.classList.toggle('zoomed', power > 1);
    redraw();
  }
  const power = () => shape()[0] / (parts.region[2] - parts.region[0]);
  const middle = () => [(parts.region[0] + parts.region[2]) / 2, (parts.region[1] + parts.region[3]) / 2];
  const zoom = (factor) => { if (parts.drawing) look(power() * factor, ...middle()); };
  const pan = (dx, dy) => { // in parts of what is seen
    const [x, y] = middle(), [x0, y0, x1, y1] = parts.region;
    look(power(), x + dx * (x1 - x0), y + dy * (y1 - y0));
  };

  larger.addEventListener('click', () => zoom(1.5));
  smaller.addEventListener('click', () => zoom(1 / 1.5));
  all.addEventListener('click', () => zoom(0));
  close.addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener('close', () => { place.replaceChildren(); lines.replaceChildren(); });
  place.addEventListener('wheel', (event) => {
    if (!parts.drawing) return;
    event.preventDefault();
    const { left, top, width, height } = parts.fit.getBoundingClientRect(), [x0, y0, x1, y1] = parts.region;
    const [u, v] = [(event.clientX - left) / width, (event.clientY - top) / height], factor = event.deltaY < 0 ? 1.2 : 1 / 1.2;
    const [x, y] = [x0 + u * (x1 - x0), y0 + v * (y1 - y0)]; // what lies under the pointer stays there
    look(power() * factor, x + (0.5 - u) * (x1 - x0) / factor, y + (0.5 - v) * (y1 - y0) / factor);
  }, { passive: false });
  place.addEventListener('pointerdown', (event) => {
    if (!parts.drawing || power() <= 1) return;
    event.preventDefault();
    place.setPointerCapture(event.pointerId);
  });
  place.addEventListener('pointermove', (event) => {
    if (!place.hasPointerCapture(event.pointerId)) return;
    const { width, height } = parts.fit.getBoundingClientRect();
    pan(-event.movementX / width, -event.movementY / height);
  });
  dialog.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !parts.drawing) return;
    const moves = { ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, -0.2], ArrowDown: [0, 0.2] };
    if (event.key === '+' || event.key === '=') zoom(1.5);
    else if (event.key === '-') zoom(1 / 1.5);
    else if (event.key === '0') zoom(0);
    else if (moves[event.key] && power() > 1) pan(...moves[event.key]);
    else if (!key(event)) return;
    event.preventDefault();
  });

  return {
    dialog,
    // `draw(parts)` returns what draws again when thresholds or the zoom change; `onkey(event)` says whether it took the key.
    open({ image, name, about = '', items = [], options = [], draw, onkey = () => false }) {
      title.textContent = name;
      facts.textContent = about;
      parts = picture(image, name, { framed: false, crops: Object.values(image.crops || {}) });
      place.replaceChildren(parts.frame);
      lines.replaceChildren(...items);
      more.replaceChildren(...options);
      tools.hidden = !parts.drawing;
      key = onkey;
      redraw = () => {};
      dialog.showModal();
      redraw = draw(parts);
      if (!parts.drawing) { redraw(); return; }
      const [whole, tall] = shape();
      parts.fit.style.aspectRatio = `${whole} / ${tall}`;
      parts.fit.style.maxWidth = `calc(68vh * ${whole / tall})`;
      look(1, image.width / 2, image.height / 2);
    },
    // Close to a box, with its surroundings.
    near(box) {
      if (!parts.drawing) return;
      const [x0, y0, x1, y1] = regionAround(box, parts.image), [whole, tall] = shape();
      look(Math.min(whole / (x1 - x0), tall / (y1 - y0)), (x0 + x1) / 2, (y0 + y1) / 2);
    },
    follow() { if (dialog.open) redraw(); },
  };
})();
