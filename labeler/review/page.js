// What every page of labeler needs: elements, numbers, images with boxes and masks drawn on them.

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
const score = (s) => s.toFixed(2);
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

// COCO's compressed run lengths, down the columns: 5 bits a character, differences to the run before the last.
function unpackMask({ size: [height, width], counts }) {
  const runs = [];
  for (let at = 0; at < counts.length;) {
    let value = 0, bits = 0, more = true;
    while (more) {
      const code = counts.charCodeAt(at++) - 48;
      value |= (code & 31) << bits;
      more = (code & 32) !== 0;
      bits += 5;
      if (!more && (code & 16)) value |= -1 << bits;
    }
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  const inside = new Uint8Array(height * width);
  let place = 0, set = 0;
  for (const run of runs) {
    if (set) inside.fill(1, place, place + run);
    place += run;
    set = 1 - set;
  }
  return { height, width, inside }; // column after column
}

function drawMasks(canvas, masks) {
  const context = canvas.getContext('2d');
  context.clearRect(0, 0, canvas.width, canvas.height);
  for (const { mask, colour } of masks) {
    const { height, width, inside } = unpackMask(mask);
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    const pixels = new ImageData(width, height);
    for (let x = 0, at = 0; x < width; x++) {
      for (let y = 0; y < height; y++, at++) {
        if (inside[at]) pixels.data.set([red, green, blue, 255], 4 * (y * width + x));
      }
    }
    const layer = new OffscreenCanvas(width, height);
    layer.getContext('2d').putImageData(pixels, 0, 0);
    context.drawImage(layer, 0, 0, canvas.width, canvas.height);
  }
}

// Groups of SVG for boxes {x0, y0, x1, y1, colour, kind, title, ...}; each keeps its box as `.about`.
function drawBoxes(drawing, boxes) {
  drawing.replaceChildren(...boxes.map((box) => {
    const place = { x: box.x0, y: box.y0, width: Math.max(0, box.x1 - box.x0), height: Math.max(0, box.y1 - box.y0) };
    const group = svg('g', { class: box.kind }, svg('rect', { ...place, class: 'halo' }),
      svg('rect', { ...place, class: 'box', stroke: box.colour }));
    group.about = box;
    return group;
  }));
}

// An image in a frame: with its thumbnail, or a line that says why there is none.
function picture(image, alt, { framed = true } = {}) {
  const frame = el('span', { class: 'picture' });
  if (!image.jpeg) {
    frame.append(el('span', { class: 'missing' }, image.problem || 'no image'));
    return { frame, drawing: null, canvas: null };
  }
  const drawing = svg('svg', { viewBox: `0 0 ${image.width} ${image.height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  const scale = Math.min(1, 512 / Math.max(image.width, image.height));
  const canvas = image.masks
    ? el('canvas', { width: Math.max(1, Math.round(image.width * scale)), height: Math.max(1, Math.round(image.height * scale)) })
    : null;
  const shown = el('img', { src: `data:image/jpeg;base64,${image.jpeg}`, alt, loading: 'lazy', decoding: 'async' });
  const fit = el('span', { class: 'fit' }, shown, canvas, drawing);
  const ratio = image.width / image.height;
  fit.style.display = 'block';
  if (framed) { // inside a 4:3 frame, as large as it fits
    const wide = ratio >= 4 / 3;
    const [width, height] = wide ? [100, (100 * 4 / 3) / ratio] : [(100 * ratio) / (4 / 3), 100];
    Object.assign(fit.style, { width: `${width}%`, height: `${height}%`, left: `${(100 - width) / 2}%`, top: `${(100 - height) / 2}%` });
  } else {
    fit.style.aspectRatio = `${image.width} / ${image.height}`;
    fit.style.maxHeight = '78vh';
    fit.style.maxWidth = `calc(78vh * ${ratio})`;
    fit.style.marginInline = 'auto';
  }
  frame.append(fit);
  return { frame, drawing, canvas };
}
