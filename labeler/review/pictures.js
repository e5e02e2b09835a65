// Images with boxes, names and masks drawn on them, whole or a part of them.

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


const bounded = (value, low, high) => Math.min(Math.max(value, low), high);

// The part of an image that shows a box with a margin; `region_around` in pictures.py is the same rule. `least`: the
// shorter side may not be smaller.
function regionAround(box, { width, height }, least = 64) {
  const [x0, x1] = [box[0], box[2]].map((x) => bounded(x, 0, width)), [y0, y1] = [box[1], box[3]].map((y) => bounded(y, 0, height));
  const margin = 2 * 0.35 * Math.max(x1 - x0, y1 - y0);
  let [wide, high] = [x1 - x0, y1 - y0].map((side) => Math.max(side + margin, least));
  [wide, high] = [Math.max(wide, high * (4 / 3)), Math.max(high, wide / (4 / 3))];
  [wide, high] = [Math.min(Math.floor(wide + 0.5), width), Math.min(Math.floor(high + 0.5), height)];
  if (wide * high >= 0.7 * width * height) return [0, 0, width, height];
  const left = bounded(Math.floor((x0 + x1 - wide) / 2 + 0.5), 0, width - wide), top = bounded(Math.floor((y0 + y1 - high) / 2 + 0.5), 0, height - high);
  return [left, top, left + wide, top + high];
}

const wholeOf = (image) => [0, 0, image.width, image.height];
const jpeg = (text) => `data:image/jpeg;base64,${text}`;

// An image in a frame, or a line that says why there is none. `region`: the part that is seen; `crop`: a sharper picture
// [x0, y0, x1, y1, base64] of one part.
function picture(image, alt, { framed = true, region = wholeOf(image), crops = [] } = {}) {
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
  const sharp = crops.map(([x0, y0, x1, y1, text]) => {
    const patch = el('img', { class: 'patch', src: jpeg(text), alt: '', loading: 'lazy', decoding: 'async' });
    Object.assign(patch.style, {
      left: `${100 * x0 / image.width}%`, top: `${100 * y0 / image.height}%`, width: `${100 * (x1 - x0) / image.width}%`, height: `${100 * (y1 - y0) / image.height}%`,
    });
    return patch;
  });
  const shown = el('img', { src: jpeg(image.jpeg), alt, loading: 'lazy', decoding: 'async' });
  const tags = el('span', { class: 'tags', 'aria-hidden': 'true' });
  const sheet = el('span', { class: 'sheet' }, shown, ...sharp, canvas, drawing, tags);
  const fit = el('span', { class: 'fit' }, sheet);
  const parts = { image, frame, fit, drawing, canvas, tags, region };
  parts.look = (part) => { // at that part of the image
    const [x0, y0, x1, y1] = parts.region = part;
    const width = x1 - x0, height = y1 - y0;
    Object.assign(sheet.style, {
      width: `${100 * image.width / width}%`, height: `${100 * image.height / height}%`, left: `${-100 * x0 / width}%`, top: `${-100 * y0 / height}%`,
    });
  };
  parts.look(region);
  if (framed) { // inside a 4:3 frame, as large as it fits
    const ratio = (region[2] - region[0]) / (region[3] - region[1]), wide = ratio >= 4 / 3;
    const [width, height] = wide ? [100, (100 * 4 / 3) / ratio] : [(100 * ratio) / (4 / 3), 100];
    Object.assign(fit.style, { width: `${width}%`, height: `${height}%`, left: `${(100 - width) / 2}%`, top: `${(100 - height) / 2}%` });
  }
  frame.append(fit);
  return parts;
}

const TAG_FONT = '600 11px system-ui, "Segoe UI", "DejaVu Sans", sans-serif', TAG_HEIGHT = 15;
const ruler = document.createElement('canvas').getContext('2d');
ruler.font = TAG_FONT;
const widthOf = new Map();
function tagWidth(text) {
  if (!widthOf.has(text)) widthOf.set(text, Math.ceil(ruler.measureText(text).width) + 6);
  return widthOf.get(text);
}

const darkOn = (colour) => { // ITU-R BT.601's luma
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
};

const common = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));

// Names beside their boxes {x0, y0, x1, y1, colour, name, first, title}, in order: each where it covers no other name and no
// small object, or not at all; one that is `first` always has its place.
function drawNames(parts, boxes, most = 12) {
  const [left, top, right, bottom] = parts.region, scale = parts.fit.clientWidth / (right - left);
  const [width, height] = [(right - left) * scale, (bottom - top) * scale];
  if (!width) return;
  const seen = boxes.map((box) => ({ box, at: [(box.x0 - left) * scale, (box.y0 - top) * scale, (box.x1 - left) * scale, (box.y1 - top) * scale] }))
    .filter(({ at }) => common(at, [0, 0, width, height]));
  const taken = [], tags = [];
  for (const { box, at: [x0, y0, x1, y1] } of seen) {
    if (tags.length >= most) break;
    const long = Math.min(tagWidth(box.name), Math.floor(width));
    const places = [[x0, y0 - TAG_HEIGHT], [x0, y1], [x1 - long, y0 - TAG_HEIGHT], [x1 - long, y1], [x1, y0], [x0 - long, y0], [x1, y1 - TAG_HEIGHT], [x0 - long, y1 - TAG_HEIGHT], [x0, y0]]
      .map(([x, y]) => [bounded(x, 0, width - long), bounded(y, 0, height - TAG_HEIGHT)]).map(([x, y]) => [x, y, x + long, y + TAG_HEIGHT]);
    // of a name, or of an object, the part that the tag would cover
    const covered = (tag) => taken.reduce((sum, other) => sum + common(tag, other), 0) / (long * TAG_HEIGHT)
      + seen.reduce((worst, { at }) => Math.max(worst, common(tag, at) / Math.max(1, (at[2] - at[0]) * (at[3] - at[1]))), 0);
    const costs = places.map(covered), best = costs.indexOf(Math.min(...costs));
    if (costs[best] > 0.2 && !box.first) continue;
    taken.push(places[best]);
    const tag = el('span', { class: `tag ${box.kind}${darkOn(box.colour) ? ' dark' : ''}` }, box.name);
    const percent = (px, whole) => `${100 * px / (whole * scale)}%`;
    Object.assign(tag.style, { background: box.colour, left: percent(left * scale + places[best][0], parts.image.width), top: percent(top * scale + places[best][1], parts.image.height), maxWidth: `${Math.floor(width)}px` });
    tags.push(tag);
  }
  parts.tags.replaceChildren(...tags);
}

// Hundreds of tiles with a hundred boxes each would take seconds: boxes are drawn when their tile comes near the window.
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) {
      near.unobserve(target);
      target.wake();
    }
  }
}, { rootMargin: '600px' });
