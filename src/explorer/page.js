/*
 * The attention explorer: from the logits of every text layer to class maps, labels and rankings, for any choice of layers.
 *
 * Parts: the method (the arithmetic of src/method/attention.py), an image (its numbers, decoded), files (PNG, base64),
 * drawing, the page's controls, and questions to a server where the page came from one. The page is one file; nothing is
 * loaded from anywhere.
 *
 * L layers, P words (prompts), C classes (0 = background), g * g = N patches, S the side of the square frame that the
 * model sees. Maps are Float32Arrays, one after the other: word p has [p * N, (p + 1) * N).
 */

const BACKGROUND = 0;
const IGNORED = 255;

// ---------------------------------------------------------------------------------------------------------- the method

/** Softmax over words at every patch, weighed by their matching scores. Logits [P * N], at most 0 at every patch. */
function wordMaps(logits, itm, patches) {
  const words = itm.length;
  const maps = new Float32Array(words * patches);
  for (let n = 0; n < patches; n++) {
    let sum = 0;
    for (let p = 0; p < words; p++) {
      const value = Math.exp(logits[p * patches + n]);
      maps[p * patches + n] = value;
      sum += value;
    }
    for (let p = 0; p < words; p++) maps[p * patches + n] *= itm[p] / sum;
  }
  return maps;
}

/**
 * Words to classes: the background is the sum of its words, every other class the maximum of its own. In a data set
 * without a background its words only compete: its map stays 0.
 */
function classMaps(maps, classes, patches) {
  const result = new Float32Array(classes.length * patches);
  let word = 0;
  classes.forEach(({ prompts, scored }, label) => {
    if (!scored) {
      word += prompts;
      return;
    }
    for (let k = 0; k < prompts; k++, word++) {
      for (let n = 0; n < patches; n++) {
        const value = maps[word * patches + n];
        const at = label * patches + n;
        if (label === BACKGROUND) result[at] += value;
        else if (k === 0 || value > result[at]) result[at] = value;
      }
    }
  });
  return result;
}

/** Mean of several maps of the same length. */
function mean(maps) {
  const result = new Float32Array(maps[0].length);
  for (let i = 0; i < result.length; i++) {
    let sum = 0;
    for (const map of maps) sum += map[i];
    result[i] = sum / maps.length;
  }
  return result;
}

/** Sum over `count` maps of length `patches`. */
function total(maps, count, patches) {
  const result = new Float32Array(patches);
  for (let k = 0; k < count; k++) {
    for (let n = 0; n < patches; n++) result[n] += maps[k * patches + n];
  }
  return result;
}

/**
 * Where samples lie on one axis of the patch grid: the patch before each and how far it is on the way to the next.
 * `positions` are pixels of the frame; the corners of grid and frame are aligned.
 */
function axis(positions, frameSize, grid) {
  const low = new Int32Array(positions.length);
  const weight = new Float32Array(positions.length);
  const scale = frameSize > 1 ? (grid - 1) / (frameSize - 1) : 0;
  positions.forEach((position, i) => {
    const real = position * scale;
    low[i] = Math.max(0, Math.min(Math.floor(real), grid - 2));
    weight[i] = real - low[i];
  });
  return { low, weight, length: positions.length };
}

/** The frame's own pixels, 0 to count - 1. */
function framePixels(count) {
  return Float64Array.from({ length: count }, (_, i) => i);
}

/** Pixels of the frame under the centres of `count` pixels that together show its first `inner`. */
function stretchedPixels(count, inner) {
  const scale = inner / count;
  return Float64Array.from({ length: count }, (_, i) => Math.min(Math.max((i + 0.5) * scale - 0.5, 0), inner - 1));
}

/** Bilinear samples of the map that begins at `offset` of `maps`, at every crossing of two axes. */
function sample(maps, offset, grid, rows, columns) {
  const result = new Float32Array(rows.length * columns.length);
  const line = new Float32Array(grid);
  const next = grid > 1 ? 1 : 0;
  for (let y = 0; y < rows.length; y++) {
    const above = offset + rows.low[y] * grid;
    const below = above + next * grid;
    for (let x = 0; x < grid; x++) line[x] = maps[above + x] * (1 - rows.weight[y]) + maps[below + x] * rows.weight[y];
    for (let x = 0; x < columns.length; x++) {
      const left = columns.low[x];
      result[y * columns.length + x] = line[left] * (1 - columns.weight[x]) + line[left + next] * columns.weight[x];
    }
  }
  return result;
}

/**
 * The class of the highest map at every crossing of two axes, the first of equal ones.
 *
 * Between four patches a class cannot win if its best corner is below another's worst: few remain to be compared.
 */
function bestClass(maps, classCount, grid, rows, columns) {
  const patches = grid * grid;
  const next = grid > 1 ? 1 : 0;
  const rivals = new Array(patches);
  const rivalsOf = (cell) => {
    const highest = new Float32Array(classCount);
    let floor = -Infinity;
    for (let label = 0; label < classCount; label++) {
      const at = label * patches + cell;
      const [a, b, c, d] = [maps[at], maps[at + next], maps[at + next * grid], maps[at + next * grid + next]];
      highest[label] = Math.max(a, b, c, d);
      floor = Math.max(floor, Math.min(a, b, c, d));
    }
    const result = [];
    for (let label = 0; label < classCount; label++) if (highest[label] >= floor) result.push(label);
    return result;
  };
  const labels = new Uint8Array(rows.length * columns.length);
  for (let y = 0; y < rows.length; y++) {
    const wy = rows.weight[y];
    for (let x = 0; x < columns.length; x++) {
      const cell = rows.low[y] * grid + columns.low[x];
      const candidates = (rivals[cell] ??= rivalsOf(cell));
      if (candidates.length === 1) {
        labels[y * columns.length + x] = candidates[0];
        continue;
      }
      const wx = columns.weight[x];
      let best = -1;
      let winner = BACKGROUND;
      for (const label of candidates) {
        const at = label * patches + cell;
        const above = maps[at] * (1 - wx) + maps[at + next] * wx;
        const below = maps[at + next * grid] * (1 - wx) + maps[at + next * grid + next] * wx;
        const value = above * (1 - wy) + below * wy;
        if (value > best) {
          best = value;
          winner = label;
        }
      }
      labels[y * columns.length + x] = winner;
    }
  }
  return labels;
}

/** IoU of every class in one image, null where a class is neither there nor predicted. */
function iouOf(labels, truth, classCount) {
  const [both, either] = [new Float64Array(classCount), new Float64Array(classCount)];
  for (let i = 0; i < labels.length; i++) {
    if (truth[i] === IGNORED) continue;
    either[labels[i]]++;
    if (labels[i] === truth[i]) both[labels[i]]++;
    else either[truth[i]]++;
  }
  return Array.from(either, (union, label) => (union ? both[label] / union : null));
}

// ------------------------------------------------------------------------------------------------------------ an image

/** One image's numbers and what follows from them. */
class Exploration {
  static async read(content) {
    const exploration = new Exploration();
    Object.assign(exploration, content);
    exploration.patches = content.grid ** 2;
    exploration.itm = content.words.map((word) => word.itm);
    exploration.logits = new Float32Array(bytesOf(content.logits).buffer);
    exploration.palette = bytesOf(content.palette);
    exploration.heatColours = bytesOf(content.heatColours);
    exploration.refined = content.refined && (await inflate(bytesOf(content.refined)));
    exploration.truth = content.truth && {
      labels: await inflate(bytesOf(content.truth.labels)),
      frame: await inflate(bytesOf(content.truth.frame)),
      iou: content.truth.iou,
      resolution: content.truth.resolution,
    };
    exploration.perLayer = new Map();
    exploration.photoImage = await loadImage(content.photo.source);
    return exploration;
  }

  /** Word and class maps of one layer at the patch grid. */
  layerMaps(layer) {
    if (!this.perLayer.has(layer)) {
      const size = this.words.length * this.patches;
      const start = this.layers.indexOf(layer) * size;
      const words = wordMaps(this.logits.subarray(start, start + size), this.itm, this.patches);
      this.perLayer.set(layer, this.withTotal(words, classMaps(words, this.classes, this.patches)));
    }
    return this.perLayer.get(layer);
  }

  /** Word and class maps at the patch grid, mean over `layers`. */
  maps(layers) {
    const maps = layers.map((layer) => this.layerMaps(layer));
    return this.withTotal(mean(maps.map((map) => map.words)), mean(maps.map((map) => map.classes)));
  }

  withTotal(words, classes) {
    return { words, classes, total: total(classes, this.classes.length, this.patches) };
  }

  frameAxes() {
    return this.inner.map((count) => axis(framePixels(count), this.imageSize, this.grid));
  }

  stretchedAxes(height, width) {
    return [height, width].map((count, i) => axis(stretchedPixels(count, this.inner[i]), this.imageSize, this.grid));
  }

  /** Labels before the CRF at every crossing of two axes. */
  labels(maps, [rows, columns]) {
    return bestClass(maps.classes, this.classes.length, this.grid, rows, columns);
  }

  /** How strong a word or class is, as a share of all classes, at every crossing of two axes. */
  heat(maps, { kind, index }, [rows, columns]) {
    const values = sample(maps[kind], index * this.patches, this.grid, rows, columns);
    const totals = sample(maps.total, 0, this.grid, rows, columns);
    for (let i = 0; i < values.length; i++) values[i] /= Math.max(totals[i], 1e-12);
    return values;
  }

  /** The largest share that one word or class, or any (`choice` left out), has at a patch inside the photo. */
  top(maps, choice) {
    const [height, width] = this.inner.map((side) => Math.ceil(((side - 1) * (this.grid - 1)) / (this.imageSize - 1 || 1)));
    const counts = { words: this.words.length, classes: this.classes.length };
    const choices = choice
      ? [choice]
      : Object.entries(counts).flatMap(([kind, count]) => Array.from({ length: count }, (_, index) => ({ kind, index })));
    let top = 0;
    for (const { kind, index } of choices) {
      for (let y = 0; y <= height; y++) {
        for (let x = 0; x <= width; x++) {
          const n = y * this.grid + x;
          top = Math.max(top, maps[kind][index * this.patches + n] / Math.max(maps.total[n], 1e-12));
        }
      }
    }
    return Math.max(top, this.leastHeat);
  }

  /** Words at a pixel of the frame with their shares, strongest first. */
  ranking(maps, y, x) {
    const axes = [y, x].map((position) => axis([position], this.imageSize, this.grid));
    return this.words
      .map((word, index) => ({ ...word, index, share: this.heat(maps, { kind: "words", index }, axes)[0] }))
      .sort((a, b) => b.share - a.share);
  }

  /** Labels before the CRF at the photo's own size, resized as the command line does: bilinear, from the frame. */
  ownLabels(maps) {
    const [innerHeight, innerWidth] = this.inner;
    const { height, width } = this.photo;
    const axes = this.frameAxes();
    const frame = this.classes.map((_, index) => this.heat(maps, { kind: "classes", index }, axes));
    const rows = stretchedPixels(height, innerHeight);
    const columns = stretchedPixels(width, innerWidth);
    const lefts = Int32Array.from(columns, Math.floor);
    const rights = lefts.map((left) => Math.min(left + 1, innerWidth - 1));
    const labels = new Uint8Array(height * width);
    const best = new Float32Array(width);
    const line = new Float32Array(innerWidth);
    for (let y = 0; y < height; y++) {
      const top = Math.min(Math.floor(rows[y]), innerHeight - 1);
      const bottom = Math.min(top + 1, innerHeight - 1);
      const wy = rows[y] - top;
      best.fill(-1);
      frame.forEach((map, label) => {
        for (let x = 0; x < innerWidth; x++) {
          line[x] = map[top * innerWidth + x] * (1 - wy) + map[bottom * innerWidth + x] * wy;
        }
        for (let x = 0; x < width; x++) {
          const wx = columns[x] - lefts[x];
          const value = line[lefts[x]] * (1 - wx) + line[rights[x]] * wx;
          if (value > best[x]) {
            best[x] = value;
            labels[y * width + x] = label;
          }
        }
      });
    }
    return labels;
  }
}

// --------------------------------------------------------------------------------------------------------------- files

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function through(stream, bytes) {
  const piped = new Blob([bytes]).stream().pipeThrough(stream);
  return new Response(piped).arrayBuffer().then((buffer) => new Uint8Array(buffer));
}

const inflate = (bytes) => through(new DecompressionStream("deflate"), bytes);
const deflate = (bytes) => through(new CompressionStream("deflate"), bytes);

function loadImage(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("the photo in this page cannot be shown"));
    image.src = source;
  });
}

/** Labels as a palette PNG: pixel values are labels, as the command line writes them. */
async function labelPng(labels, height, width, palette) {
  const rows = new Uint8Array(height * (width + 1)); // every row begins with its filter: none
  for (let y = 0; y < height; y++) rows.set(labels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header.set([8, 3], 8); // 8 bits, palette
  const parts = [
    Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10),
    pngChunk("IHDR", header),
    pngChunk("PLTE", palette),
    pngChunk("IDAT", await deflate(rows)),
    pngChunk("IEND", new Uint8Array(0)),
  ];
  return new Blob(parts, { type: "image/png" });
}

function pngChunk(type, data) {
  const chunk = new Uint8Array(12 + data.length);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, data.length);
  chunk.set(Array.from(type, (letter) => letter.charCodeAt(0)), 4);
  chunk.set(data, 8);
  view.setUint32(8 + data.length, crc32(chunk.subarray(4, 8 + data.length)));
  return chunk;
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// ------------------------------------------------------------------------------------------------------------- drawing

const CANVAS_SIDE = 1024; // of the longer side of the large picture
const THUMBNAIL_SIDE = 120;
const GREY = 0.35; // how much of the greyed photo shines through a heat map, as in the command line's

const byId = (id) => document.getElementById(id);

function canvasOf(height, width, pixels) {
  const canvas = document.createElement("canvas");
  canvas.height = height;
  canvas.width = width;
  if (pixels) canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  return canvas;
}

/** Heat [height * width] as colours: 0 to `top`. */
function heatPixels(values, top, colours) {
  const pixels = new Uint8ClampedArray(4 * values.length);
  for (let i = 0; i < values.length; i++) {
    const colour = 3 * Math.min(255, Math.floor((values[i] * 255) / top));
    pixels[4 * i] = colours[colour];
    pixels[4 * i + 1] = colours[colour + 1];
    pixels[4 * i + 2] = colours[colour + 2];
    pixels[4 * i + 3] = 255;
  }
  return pixels;
}

/** Labels as colours: the background clear, classes tinted, a lighter line around each. */
function labelPixels(labels, height, width, palette, opacity, line) {
  const pixels = new Uint8ClampedArray(4 * labels.length);
  const tint = 255 * opacity;
  const lineTint = 255 * Math.min(1, 2 * opacity);
  for (let y = 0; y < height; y++) {
    const up = Math.max(0, y - line) * width;
    const down = Math.min(height - 1, y + line) * width;
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      const label = labels[i];
      if (label === BACKGROUND) continue;
      const [left, right] = [y * width + Math.max(0, x - line), y * width + Math.min(width - 1, x + line)];
      const edge = labels[up + x] !== label || labels[down + x] !== label || labels[left] !== label || labels[right] !== label;
      for (let c = 0; c < 3; c++) pixels[4 * i + c] = edge ? palette[3 * label + c] / 2 + 127 : palette[3 * label + c];
      pixels[4 * i + 3] = edge ? lineTint : tint;
    }
  }
  return pixels;
}

/** The pixel of each class that lies deepest inside it, where its name has room: [{label, y, x, depth, area}]. */
function nameSpots(labels, height, width) {
  const step = Math.max(1, Math.round(Math.max(height, width) / 160));
  const [rows, columns] = [Math.floor(height / step), Math.floor(width / step)];
  const at = (y, x) => labels[Math.min(height - 1, y * step) * width + Math.min(width - 1, x * step)];
  const depth = new Float32Array(rows * columns);
  const reach = (y, x, label) =>
    y < 0 || x < 0 || y >= rows || x >= columns || at(y, x) !== label ? 0 : depth[y * columns + x];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const label = at(y, x);
      depth[y * columns + x] = 1 + Math.min(reach(y - 1, x, label), reach(y, x - 1, label));
    }
  }
  const spots = new Map();
  for (let y = rows - 1; y >= 0; y--) {
    for (let x = columns - 1; x >= 0; x--) {
      const label = at(y, x);
      const i = y * columns + x;
      depth[i] = Math.min(depth[i], 1 + Math.min(reach(y + 1, x, label), reach(y, x + 1, label)));
      const spot = spots.get(label);
      const area = 1 + (spot?.area ?? 0);
      if (!spot || depth[i] > spot.depth) spots.set(label, { label, y: (y + 0.5) * step, x: (x + 0.5) * step, depth: depth[i], area });
      else spot.area = area;
    }
  }
  return [...spots.values()].filter((spot) => spot.area > 0.002 * rows * columns);
}

/** Labels of one size at another, each pixel the nearest. */
function nearest(labels, [height, width], [toHeight, toWidth]) {
  const result = new Uint8Array(toHeight * toWidth);
  for (let y = 0; y < toHeight; y++) {
    const row = Math.floor(((y + 0.5) * height) / toHeight) * width;
    for (let x = 0; x < toWidth; x++) result[y * toWidth + x] = labels[row + Math.floor(((x + 0.5) * width) / toWidth)];
  }
  return result;
}

// ------------------------------------------------------------------------------------------------------------ controls

const VIEWS = { heat: "Heat map", labels: "Labels", refined: "After CRF", truth: "Ground truth" };

/** What is chosen at the moment. It outlives a change of image or of words. */
const state = {
  view: null, // until a page is shown: after the CRF if there is one
  layers: [],
  choice: { kind: "classes", index: 0 },
  spot: null, // {y, x}: a place in the photo, 0 to 1
  held: false,
};
let shown = null; // the Exploration on the page
let current = {}; // maps and labels of the layers switched on, made when asked for

const percent = (share) => (share >= 0.9995 ? "100%" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`);
const colourOf = (label) => `rgb(${shown.palette.slice(3 * label, 3 * label + 3).join(" ")})`;
const sameLayers = (a, b) => a.length === b.length && a.every((layer) => b.includes(layer));
const configuredLayersShown = () => sameLayers(state.layers, shown.configured);

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** The size of the large picture: the photo's shape, whatever its size. */
function canvasSize() {
  const { height, width } = shown.photo;
  const scale = CANVAS_SIDE / Math.max(height, width);
  return [height, width].map((side) => Math.max(1, Math.round(side * scale)));
}

function currentMaps() {
  return (current.maps ??= shown.maps(state.layers));
}

/** The labels of a view at the size of the large picture. */
function shownLabels(view) {
  const size = canvasSize();
  const own = [shown.photo.height, shown.photo.width];
  current.labels ??= {};
  return (current.labels[view] ??=
    view === "refined"
      ? nearest(shown.refined, own, size)
      : view === "truth"
        ? nearest(shown.truth.labels, own, size)
        : shown.labels(currentMaps(), shown.stretchedAxes(...size)));
}

/** IoU of the labels shown, per class, in the frame of the model; null without ground truth. */
function currentIou() {
  if (!shown.truth || state.view === "truth") return null;
  if (state.view === "refined") return shown.truth.iou;
  return (current.iou ??= iouOf(shown.labels(currentMaps(), shown.frameAxes()), shown.truth.frame, shown.classes.length));
}

async function show(content) {
  const before = shown && { photo: shown.name, choice: chosenName() };
  shown = await Exploration.read(content);
  current = {};
  const known = state.layers.filter((layer) => shown.layers.includes(layer));
  state.layers = known.length ? known : [...shown.configured];
  state.view ??= shown.refined ? "refined" : "labels";
  state.choice = choiceCalled(before?.choice) ?? { kind: "classes", index: 0 };
  if (before && before.photo !== shown.name) [state.spot, state.held] = [null, false];
  const ignored = before ? [] : readAddress();
  if (!viewExists(state.view)) state.view = "labels";
  byId("explorer").hidden = false;
  byId("title").textContent = shown.name;
  document.title = `${shown.name} · attention explorer`;
  const { height, width } = shown.photo;
  byId("about").textContent = `${width} × ${height} pixels, seen by ${shown.model} at ${shown.imageSize} px`;
  showLinks();
  showViews();
  makeLayerCards();
  makeWordList();
  const { choice } = state;
  if (!state.spot) state.spot = deepestSpot();
  if (state.view === "heat") state.choice = choice; // a heat map stays that of its word
  refresh();
  if (ignored.length) say(`Ignored in the address: ${ignored.join(", ")}.`);
}

function viewExists(view) {
  if (view === "refined") return Boolean(shown.refined) && configuredLayersShown();
  return view === "truth" ? Boolean(shown.truth) : view in VIEWS;
}

// ------------------------------------------------------------------------------------------------------- the address

/** Takes the state from the address, such as #word=boat&layers=0,1&view=heat&spot=120,80; returns what it ignored. */
function readAddress() {
  const values = new URLSearchParams(location.hash.slice(1));
  const ignored = [];
  const word = values.get("word");
  const choice = word && choiceCalled(word);
  if (choice) Object.assign(state, { choice, view: "heat" });
  else if (word) ignored.push(`word ${shorten(word)}`);
  if (values.has("layers")) {
    const wanted = values.get("layers").split(",");
    const layers = shown.layers.filter((layer) => wanted.includes(String(layer)));
    ignored.push(...wanted.filter((text) => !layers.map(String).includes(text)).map((text) => `layer ${shorten(text)}`));
    if (layers.length) state.layers = layers;
  }
  const view = values.get("view");
  if (view && viewExists(view)) state.view = view;
  else if (view) ignored.push(`view ${shorten(view)}`);
  if (values.has("spot")) {
    const [x, y] = values.get("spot").split(",").map(Number);
    const { height, width } = shown.photo;
    if (x >= 0 && y >= 0 && x < width && y < height) {
      Object.assign(state, { spot: { x: (x + 0.5) / width, y: (y + 0.5) / height }, held: true });
    } else ignored.push(`spot ${shorten(values.get("spot"))}`);
  }
  return ignored;
}

const shorten = (text) => (text.length > 40 ? `${text.slice(0, 39)}…` : text);

/** Puts the state into the address; keys of others, such as the order of the index, stay. */
function writeAddress() {
  const values = new URLSearchParams(location.hash.slice(1));
  const put = (key, value) => (value === null ? values.delete(key) : values.set(key, value));
  put("word", state.view === "heat" ? chosenName() : null);
  put("view", state.view === "heat" ? null : state.view);
  put("layers", configuredLayersShown() ? null : state.layers.join(","));
  put("spot", state.held ? spotPixel().join(",") : null);
  if (server) {
    put("photo", server.photo);
    for (const name of ["classes", "background"]) put(name, server.answered[name] || null);
  }
  const hash = `#${values.toString().replaceAll("%2C", ",")}`;
  const same = hash === location.hash || (hash === "#" && !location.hash);
  if (!same && addressWritten) history.pushState(null, "", hash);
  else if (!same) history.replaceState(null, "", hash); // what the page opened with is no step to go back to
  addressWritten = true;
}
let addressWritten = false;

/** Shows the state of the address after Back, Forward or an edit. */
function followAddress() {
  if (!shown) return;
  Object.assign(state, { layers: [...shown.configured], view: shown.refined ? "refined" : "labels", held: false });
  const ignored = readAddress();
  if (!viewExists(state.view)) state.view = "labels";
  current = {};
  refresh();
  showLinks();
  if (ignored.length) say(`Ignored in the address: ${ignored.join(", ")}.`);
}

/** The spot as a pixel of the photo: x, y. */
function spotPixel() {
  return [Math.floor(state.spot.x * shown.photo.width), Math.floor(state.spot.y * shown.photo.height)];
}

/** The class or else the word of this name, if there is one. */
function choiceCalled(name) {
  const label = shown.classes.findIndex((other) => other.name === name);
  const word = shown.words.findIndex(({ text }) => text === name);
  return label >= 0 ? { kind: "classes", index: label } : word >= 0 ? { kind: "words", index: word } : null;
}

/** A spot worth a first look: deep inside the largest class that is not the background. */
function deepestSpot() {
  const [height, width] = canvasSize();
  const labels = shownLabels(shown.refined && configuredLayersShown() ? "refined" : "labels");
  const spots = nameSpots(labels, height, width).filter(({ label }) => label !== IGNORED);
  const foreground = spots.filter(({ label }) => label !== BACKGROUND);
  const [spot] = (foreground.length ? foreground : spots).sort((a, b) => b.depth - a.depth);
  if (spot && spot.label !== BACKGROUND) state.choice = { kind: "classes", index: spot.label };
  return spot ? { y: spot.y / height, x: spot.x / width } : { y: 0.5, x: 0.5 };
}

function showLinks() {
  const order = new URLSearchParams(location.hash.slice(1)).get("order") ?? "list";
  const { index, orders } = shown.links ?? {};
  const [before, after] = orders?.[order] ?? orders?.list ?? [];
  const inOrder = (address) => address && (order === "list" ? address : `${address}#order=${encodeURIComponent(order)}`);
  const links = [["← Previous", inOrder(before)], ["All images", inOrder(index)], ["Next →", inOrder(after)]].filter(([, address]) => address);
  byId("links").hidden = links.length === 0;
  byId("links").replaceChildren(...links.map(([text, address]) => element("a", { href: address, textContent: text })));
}

function showViews() {
  const there = { heat: true, labels: true, refined: Boolean(shown.refined), truth: Boolean(shown.truth) };
  const options = Object.keys(VIEWS).filter((view) => there[view]).map((view) => {
    const input = element("input", { type: "radio", name: "view", value: view });
    input.addEventListener("change", () => {
      state.view = view;
      refresh();
    });
    return element("label", {}, input, element("span", { textContent: VIEWS[view] }));
  });
  byId("views").replaceChildren(byId("views").querySelector("legend"), ...options);
}

function makeLayerCards() {
  const cards = shown.layers.map((layer, position) => {
    const configured = shown.configured.includes(layer);
    const canvas = canvasOf(...canvasSize().map((side) => Math.round((side * THUMBNAIL_SIDE) / CANVAS_SIDE)));
    const toggle = element(
      "button",
      { type: "button", className: "toggle", title: `Switch layer ${layer} on or off` },
      canvas,
      element("span", { className: "layer-name", textContent: `Layer ${layer}` }),
      entropyBar(shown.entropy[position]),
      element("span", { className: "entropy", textContent: shown.entropy[position].toFixed(2) }),
    );
    toggle.addEventListener("click", () => switchLayer(layer));
    const only = element("button", { type: "button", className: "only", textContent: "only", title: `Layer ${layer} alone` });
    only.addEventListener("click", () => setLayers([layer]));
    const card = element("div", { className: "layer" }, toggle, only);
    card.dataset.layer = layer;
    if (configured) toggle.querySelector(".layer-name").append(element("span", { className: "mark", title: "in the configuration", textContent: "●" }));
    return card;
  });
  byId("layer-cards").replaceChildren(...cards);
}

/** Entropy as a bar of its largest possible value, the logarithm of the number of words. */
function entropyBar(entropy) {
  const most = Math.log(shown.words.length) || 1;
  const bar = element("span", { className: "bar", title: `${entropy.toFixed(3)} of at most ${most.toFixed(2)} nats` });
  bar.append(element("span", { style: `width: ${Math.min(100, (100 * entropy) / most)}%` }));
  return bar;
}

function switchLayer(layer) {
  const on = state.layers.includes(layer);
  if (on && state.layers.length === 1) return say("One layer has to stay on.");
  setLayers(on ? state.layers.filter((other) => other !== layer) : [...state.layers, layer].sort((a, b) => a - b));
}

function setLayers(layers) {
  state.layers = layers;
  current = {};
  if (state.view === "refined" && !configuredLayersShown()) state.view = "labels";
  refresh();
}

function makeWordList() {
  const labels = shown.refined ?? shownLabels("labels");
  const sizes = new Float64Array(256);
  for (const label of labels) sizes[label]++;
  const order = shown.classes.map((_, label) => label).sort((a, b) => sizes[b] - sizes[a] || a - b);
  order.push(...order.splice(order.indexOf(BACKGROUND), 1)); // many words, and seldom the question
  const firstWord = [];
  let next = 0;
  for (const { prompts } of shown.classes) {
    firstWord.push(next);
    next += prompts;
  }
  const head = element("div", { className: "word-head" });
  head.append(...["word", "match", "pixels", "IoU"].map((text) => element("span", { textContent: text, className: `${text.toLowerCase()}-head` })));
  const groups = order.map((label) => {
    const { name, prompts } = shown.classes[label];
    const words = Array.from({ length: prompts }, (_, k) => firstWord[label] + k);
    const best = Math.max(...words.map((word) => shown.itm[word]));
    const row = choiceButton("classes", label, "class");
    row.append(swatch(label), element("span", { className: "name", textContent: name }), itmBar(best));
    row.append(element("span", { className: "pixels" }), element("span", { className: "iou" }));
    const group = element("div", { className: "class-group" }, row);
    if (prompts > 1 || shown.words[words[0]].text !== name) {
      const chips = words.map((word) => {
        const chip = choiceButton("words", word, "word");
        chip.append(element("span", { textContent: shown.words[word].text }), itmBar(shown.itm[word]));
        return chip;
      });
      group.append(element("div", { className: "chips" }, ...chips));
    }
    return group;
  });
  byId("words").replaceChildren(head, ...groups);
  byId("words").classList.toggle("no-truth", !shown.truth);
}

function swatch(label) {
  const node = element("span", { className: "swatch" });
  node.style.background = label === BACKGROUND ? "none" : colourOf(label);
  return node;
}

function itmBar(itm) {
  const bar = element("span", { className: "bar", title: `matching score ${itm.toPrecision(3)}` });
  bar.append(element("span", { style: `width: ${100 * itm}%` }));
  return element("span", { className: "itm" }, bar, element("span", { textContent: itm.toFixed(2) }));
}

function choiceButton(kind, index, className) {
  const button = element("button", { type: "button", className });
  button.dataset.kind = kind;
  button.dataset.index = index;
  button.addEventListener("click", () => {
    state.choice = { kind, index };
    state.view = "heat";
    refresh();
  });
  return button;
}

// ------------------------------------------------------------------------------------------------------- what is shown

function refresh() {
  drawPicture();
  drawThumbnails();
  drawScale();
  markControls();
  rank();
  writeAddress();
}

function chosenName() {
  const { kind, index } = state.choice;
  return kind === "words" ? shown.words[index].text : shown.classes[index].name;
}

/** Top of the colour scale for the choice: its own maximum, or that of all words. */
function scaleTop() {
  const shared = byId("shared").checked;
  current.tops ??= {};
  const key = shared ? "all" : `${state.choice.kind} ${state.choice.index}`;
  return (current.tops[key] ??= shown.top(currentMaps(), shared ? undefined : state.choice));
}

function drawPicture() {
  const canvas = byId("canvas");
  const [height, width] = canvasSize();
  if (canvas.height !== height || canvas.width !== width) Object.assign(canvas, { height, width });
  byId("picture").style.setProperty("--ratio", width / height);
  const pen = canvas.getContext("2d");
  const opacity = byId("opacity").value / 100;
  pen.globalAlpha = 1;
  pen.drawImage(shown.photoImage, 0, 0, width, height);
  if (state.view === "heat") {
    drawGrey(pen, width, height, opacity);
    const heat = shown.heat(currentMaps(), state.choice, shown.stretchedAxes(height, width));
    pen.globalAlpha = opacity;
    pen.drawImage(canvasOf(height, width, heatPixels(heat, scaleTop(), shown.heatColours)), 0, 0);
    pen.globalAlpha = 1;
  } else {
    const labels = shownLabels(state.view);
    pen.drawImage(canvasOf(height, width, labelPixels(labels, height, width, shown.palette, opacity, 2)), 0, 0);
    if (byId("names").checked && opacity > 0) drawNames(pen, labels, height, width);
  }
}

/** Takes the colour out of the photo, as far as the heat map covers it. */
function drawGrey(pen, width, height, opacity) {
  pen.globalCompositeOperation = "saturation";
  pen.globalAlpha = Math.min(1, opacity / (1 - GREY));
  pen.fillStyle = "#808080";
  pen.fillRect(0, 0, width, height);
  pen.globalCompositeOperation = "source-over";
}

function drawNames(pen, labels, height, width) {
  const zoom = width / (byId("canvas").clientWidth || width);
  const size = 14 * zoom;
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.lineJoin = "round";
  const taken = [];
  const spots = nameSpots(labels, height, width).sort((a, b) => b.depth - a.depth);
  for (const { label, y, x } of spots) {
    if (label === BACKGROUND) continue;
    const name = label === IGNORED ? "ignored" : shown.classes[label].name;
    const half = pen.measureText(name).width / 2 + 4 * zoom;
    const place = [Math.min(Math.max(x, half), Math.max(half, width - half)), Math.min(Math.max(y, size), height - size)];
    const overlaps = (other) => Math.abs(other.x - place[0]) < other.half + half && Math.abs(other.y - place[1]) < 1.2 * size;
    if (taken.some(overlaps)) continue; // the larger one has its name; the spot tells the others
    taken.push({ x: place[0], y: place[1], half });
    pen.lineWidth = 4 * zoom;
    pen.strokeStyle = "rgb(0 0 0 / 75%)";
    pen.strokeText(name, ...place);
    pen.fillStyle = "#fff";
    pen.fillText(name, ...place);
  }
}

/** Every layer by itself: the chosen word's heat on one scale for all layers, or the layer's own labels. */
function drawThumbnails() {
  const heat = state.view === "heat";
  const size = canvasSize().map((side) => Math.round((side * THUMBNAIL_SIDE) / CANVAS_SIDE));
  const axes = shown.stretchedAxes(...size);
  const maps = shown.layers.map((layer) => shown.layerMaps(layer));
  const top = heat ? Math.max(...maps.map((map) => shown.top(map, state.choice))) : 1;
  [...byId("layer-cards").children].forEach((card, position) => {
    const pen = card.querySelector("canvas").getContext("2d");
    const [height, width] = size;
    let pixels;
    if (heat) {
      pixels = heatPixels(shown.heat(maps[position], state.choice, axes), top, shown.heatColours);
    } else {
      maps[position].thumbnail ??= shown.labels(maps[position], axes);
      pixels = labelPixels(maps[position].thumbnail, height, width, shown.palette, 0.75, 1);
    }
    pen.drawImage(shown.photoImage, 0, 0, width, height);
    pen.drawImage(canvasOf(height, width, pixels), 0, 0);
  });
}

function drawScale() {
  const scale = byId("scale");
  if (state.view !== "heat") {
    scale.hidden = true;
    return;
  }
  scale.hidden = false;
  const ramp = canvasOf(1, 256, heatPixels(Float32Array.from({ length: 256 }, (_, i) => i), 255, shown.heatColours));
  ramp.className = "ramp";
  scale.replaceChildren(
    element("b", { textContent: chosenName() }),
    element("span", { textContent: "0" }),
    ramp,
    element("span", { textContent: percent(scaleTop()) }),
  );
}

function markControls() {
  const { layers, view, choice } = state;
  for (const input of byId("views").querySelectorAll("input")) {
    input.checked = input.value === view;
    if (input.value === "refined") {
      input.disabled = !configuredLayersShown();
      input.parentElement.title = input.disabled ? `The CRF was run on layers ${shown.configured.join(", ")}` : "";
    }
  }
  for (const card of byId("layer-cards").children) {
    const on = layers.includes(Number(card.dataset.layer));
    card.classList.toggle("on", on);
    card.querySelector(".toggle").setAttribute("aria-pressed", on);
  }
  byId("layers-configured").disabled = configuredLayersShown();
  byId("layers-all").disabled = layers.length === shown.layers.length;
  for (const button of byId("words").querySelectorAll("button")) {
    const chosen = button.dataset.kind === choice.kind && Number(button.dataset.index) === choice.index;
    button.setAttribute("aria-pressed", chosen && view === "heat");
  }
  markShares();
  const names = { heat: `Where ${chosenName()} is`, labels: "Labels", refined: "Labels after the CRF", truth: "Ground truth" };
  const from = layers.length === 1 ? `layer ${layers[0]}` : `layers ${layers.join(", ")}`;
  byId("picture").setAttribute("aria-label", `${names[view]}, ${shown.name}`);
  const iou = currentIou()?.filter((value) => value !== null);
  const mean = iou?.length ? iou.reduce((a, b) => a + b, 0) / iou.length : 0;
  // the evaluation counted at the image's own size, the page counts in the frame
  const where = iou && view !== "refined" && shown.truth.resolution === "original" ? " in the model’s frame" : "";
  const score = iou ? `. IoU in this image: ${percent(mean)}, mean of ${iou.length} classes${where}` : "";
  const crf = view === "refined" ? `, ${shown.crf} CRF iterations` : "";
  const nothing = view !== "heat" && shownLabels(view).every((label) => label === BACKGROUND || label === IGNORED);
  const found = nothing ? ". Nothing found: every pixel is background" : "";
  byId("status").textContent = view === "truth" ? "Ground truth" : `From ${from}${crf}${score}${found}`;
  byId("names").parentElement.hidden = view === "heat";
  byId("shared").parentElement.hidden = view !== "heat";
}

/** Share of pixels, and IoU, of every class in the labels shown (in a heat map: in those before the CRF). */
function markShares() {
  const labels = shownLabels(state.view === "heat" ? "labels" : state.view);
  const counts = new Float64Array(256);
  for (const label of labels) counts[label]++;
  const iou = currentIou();
  for (const row of byId("words").querySelectorAll(".class")) {
    const label = Number(row.dataset.index);
    row.querySelector(".pixels").textContent = counts[label] ? percent(counts[label] / labels.length) : "–";
    row.querySelector(".iou").textContent = iou && iou[label] !== null ? percent(iou[label]) : "";
    row.classList.toggle("absent", !counts[label]);
  }
}

// ---------------------------------------------------------------------------------------------------- words at a spot

const MAX_RANKS = 8;

/** The spot as a pixel of the frame. */
function framePlace({ y, x }) {
  const place = (share, inner) => Math.min(Math.max(share * inner - 0.5, 0), inner - 1);
  return [place(y, shown.inner[0]), place(x, shown.inner[1])];
}

function rank() {
  const spot = state.spot;
  byId("spot").hidden = !spot;
  byId("release").hidden = !state.held;
  if (!spot) return;
  byId("spot").style.left = `${100 * spot.x}%`;
  byId("spot").style.top = `${100 * spot.y}%`;
  byId("spot").classList.toggle("held", state.held);
  const ranking = shown.ranking(currentMaps(), ...framePlace(spot)).slice(0, MAX_RANKS);
  const longest = Math.max(ranking[0].share, 1e-6);
  const rows = ranking.map((word) => {
    const bar = element("span", { className: "rank-bar" }, element("span"));
    bar.firstChild.style.width = `${Math.min(100, (100 * word.share) / Math.max(longest, 0.5))}%`;
    const name = element("button", { type: "button", className: "rank-name", textContent: word.text });
    name.addEventListener("click", () => {
      state.choice = { kind: "words", index: word.index };
      state.view = "heat";
      refresh();
    });
    const owner = shown.classes[word.class].name;
    const of = owner === word.text ? "" : owner;
    return element("li", {}, swatch(word.class), name, element("span", { className: "quiet of", textContent: of }), bar,
      element("span", { className: "value", textContent: percent(word.share) }));
  });
  byId("ranks").replaceChildren(...rows);
  byId("spot-summary").replaceChildren(...spotSummary(spot));
  byId("over-100").hidden = !(ranking[0].share > 1);
}

function spotSummary(spot) {
  const [height, width] = canvasSize();
  const at = Math.min(height - 1, Math.floor(spot.y * height)) * width + Math.min(width - 1, Math.floor(spot.x * width));
  const views = ["labels", "refined", "truth"].filter((view) => shown[view === "labels" ? "photo" : view]);
  const parts = views.flatMap((view) => {
    const label = shownLabels(view)[at];
    const name = label === IGNORED ? "ignored" : shown.classes[label].name;
    return [`${{ labels: "Label", refined: "after CRF", truth: "ground truth" }[view]} `, element("b", { textContent: name }), ", "];
  });
  return [...parts, `at ${spotPixel().join(", ")}${state.held ? " (held)" : ""}`];
}

function placeOf(event) {
  const box = byId("canvas").getBoundingClientRect();
  const share = (value, start, length) => Math.min(Math.max((value - start) / length, 0), 0.9999);
  return { y: share(event.clientY, box.top, box.height), x: share(event.clientX, box.left, box.width) };
}

function moveSpot(event) {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  if (event.key in steps) {
    const [dy, dx] = steps[event.key];
    const from = state.spot ?? { y: 0.5, x: 0.5 };
    const step = shown.inner.map((side) => (event.shiftKey ? 1 : shown.imageSize / shown.grid) / side);
    const inside = (share) => Math.min(Math.max(share, 0), 0.9999);
    state.spot = { y: inside(from.y + dy * step[0]), x: inside(from.x + dx * step[1]) };
    state.held = true;
    rank();
    const spoken = [...byId("ranks").children].slice(0, 3).map((row) => row.querySelector(".rank-name").textContent);
    byId("spot-spoken").textContent = spoken.join(", ");
  } else if (event.key === "Enter" || event.key === " ") {
    state.held = !state.held;
    rank();
  } else if (event.key === "Escape") {
    state.held = false;
    rank();
  } else {
    return;
  }
  event.preventDefault();
  writeAddress();
}

/** One Tab reaches a list, arrow keys, Home and End move in it. Elements may come and go. */
function moveInList(list, selector) {
  const items = () => [...list.querySelectorAll(selector)];
  const choose = (item) => {
    for (const other of items()) other.tabIndex = other === item ? 0 : -1;
  };
  new MutationObserver(() => {
    const all = items();
    if (all.filter((item) => item.tabIndex === 0).length !== 1) choose(all.find((item) => item.getAttribute("aria-pressed") === "true") ?? all[0]);
  }).observe(list, { childList: true, subtree: true });
  list.addEventListener("focusin", (event) => {
    if (event.target.matches(selector)) choose(event.target);
  });
  list.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(event.target);
    const to = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    all[Math.min(Math.max(to, 0), all.length - 1)].focus();
  });
}

function say(text) {
  byId("status").textContent = text;
}

// ------------------------------------------------------------------------------------------------------------- wiring

function stem() {
  return shown.name.replace(/\.[^.]*$/, "");
}

async function saveLabels() {
  const { height, width } = shown.photo;
  const view = state.view === "heat" ? "labels" : state.view;
  say("Making the labels at the photo’s own size …");
  await new Promise((resolve) => setTimeout(resolve, 30)); // large photos take seconds: say so first
  const labels = { refined: shown.refined, truth: shown.truth?.labels }[view] ?? shown.ownLabels(currentMaps());
  const names = { refined: "labels", truth: "truth", labels: `labels_layers_${state.layers.join("_")}` };
  download(await labelPng(labels, height, width, shown.palette), `${stem()}_${names[view]}.png`);
  markControls();
}

function savePicture() {
  const what = state.view === "heat" ? `heatmap_${chosenName().replace(/[^\p{L}\p{N}]+/gu, "-")}` : state.view;
  byId("canvas").toBlob((blob) => download(blob, `${stem()}_picture_${what}.png`), "image/png");
}

function listen() {
  const picture = byId("picture");
  picture.addEventListener("pointermove", (event) => {
    if (state.held || event.pointerType === "touch") return;
    state.spot = placeOf(event);
    rank();
  });
  picture.addEventListener("click", (event) => {
    state.held = event.pointerType === "touch" ? true : !state.held;
    state.spot = placeOf(event);
    rank();
    writeAddress();
  });
  picture.addEventListener("keydown", moveSpot);
  byId("release").addEventListener("click", () => {
    state.held = false;
    rank();
    writeAddress();
  });
  addEventListener("popstate", followAddress);
  for (const [id, selector] of [["layer-cards", "button"], ["words", "button"], ["photos", "button"]]) moveInList(byId(id), selector);
  byId("opacity").addEventListener("input", drawPicture);
  byId("names").addEventListener("change", drawPicture);
  byId("shared").addEventListener("change", refresh);
  byId("layers-configured").addEventListener("click", () => setLayers([...shown.configured]));
  byId("layers-all").addEventListener("click", () => setLayers([...shown.layers]));
  byId("save-picture").addEventListener("click", savePicture);
  byId("save-labels").addEventListener("click", saveLabels);
  let drawnWidth = 0;
  new ResizeObserver(() => {
    const { clientWidth } = byId("canvas");
    if (shown && clientWidth !== drawnWidth) {
      drawnWidth = clientWidth;
      drawPicture();
    }
  }).observe(byId("canvas"));
}

// ---------------------------------------------------------------------------------------------------------- the server

/** Questions to the server that this page came from; a page in a file has none. */
class Server {
  constructor({ photos, classes, background }) {
    this.photo = null; // key of the one shown or asked about
    this.asked = null; // aborts the question under way
    this.answered = {}; // the words of the answer shown
    const address = new URLSearchParams(location.hash.slice(1));
    byId("ask").hidden = false;
    byId("ask-classes").value = address.get("classes") ?? classes;
    byId("ask-background").value = address.get("background") ?? background;
    for (const { key, name } of photos) this.offer(key, name);
    this.listen();
    this.tell(photos.length ? "" : "Open or drop a photo to begin.");
  }

  /** Puts a photo into the row of photos. */
  offer(key, name) {
    const known = this.button(key);
    if (known) return known;
    const image = element("img", { src: `photos/${key}`, alt: name, loading: "lazy" });
    const button = element("button", { type: "button", title: name }, image);
    button.dataset.key = key;
    button.addEventListener("click", () => this.ask(key));
    byId("photos").append(button);
    return button;
  }

  button(key) {
    return byId("photos").querySelector(`[data-key="${CSS.escape(key)}"]`);
  }

  /** Asks about a photo with the words typed in, and shows the answer; of several questions the last one counts. */
  async ask(photo) {
    if (!photo) return this.tell("Open or drop a photo first.", true);
    this.photo = photo;
    for (const button of byId("photos").children) button.setAttribute("aria-pressed", button.dataset.key === photo);
    const [classes, background] = ["classes", "background"].map((name) => byId(`ask-${name}`).value);
    const answer = await this.send("explore", JSON.stringify({ photo, classes, background }), "Looking …");
    if (!answer) return;
    this.answered = { classes, background };
    await show(answer);
    if (matchMedia("(max-width: 900px)").matches) byId("ask-fold").open = false; // the picture first
    const unknown = answer.unknown.map((word) => `“${word}”`).join(", ");
    this.tell(unknown && `The model’s vocabulary cannot spell ${unknown}; expect little of it.`);
  }

  /** Sends a photo and asks about it. */
  async upload(file) {
    const address = `photos?name=${encodeURIComponent(file.name || "photo")}`;
    const answer = await this.send(address, file, "Sending the photo …");
    if (!answer) return;
    this.offer(answer.key, answer.name).scrollIntoView({ block: "nearest", inline: "nearest" });
    await this.ask(answer.key);
  }

  /** Posts to the server; returns its answer, or null once another question was asked or the error was shown. */
  async send(address, body, meanwhile) {
    this.asked?.abort();
    const asked = (this.asked = new AbortController());
    this.tell(meanwhile);
    byId("ask").setAttribute("aria-busy", "true");
    let problem;
    try {
      const response = await fetch(address, { method: "POST", body, signal: asked.signal });
      const answer = await response.json();
      if (asked.signal.aborted) return null;
      if (response.ok) return answer;
      problem = answer.error;
    } catch {
      problem = "The server does not answer. Is it still running?";
    } finally {
      if (this.asked === asked) byId("ask").removeAttribute("aria-busy");
    }
    if (!asked.signal.aborted) this.tell(problem, true);
    return null;
  }

  tell(text, isError = false) {
    byId("message").textContent = text;
    byId("message").classList.toggle("error", isError);
    if (isError) byId("ask-fold").open = true;
  }

  listen() {
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask(this.photo);
    });
    byId("ask-file").addEventListener("change", (event) => {
      if (event.target.files.length) this.upload(event.target.files[0]);
      event.target.value = "";
    });
    document.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      byId("drop").hidden = false;
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) byId("drop").hidden = true;
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      byId("drop").hidden = true;
      if (event.dataTransfer.files.length) this.upload(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", (event) => {
      const [file] = event.clipboardData.files;
      if (file) this.upload(file);
    });
  }
}

addEventListener("unhandledrejection", ({ reason }) => {
  byId("about").textContent = `This page cannot be shown (${reason.message}); a current browser is needed.`;
});
listen();
const embedded = JSON.parse(byId("content").textContent);
const server = embedded.server && new Server(embedded.server);
const wantedPhoto = new URLSearchParams(location.hash.slice(1)).get("photo");
const photos = embedded.server?.photos ?? [];
const first = photos.find(({ key }) => key === wantedPhoto) ?? photos[0];
const ready = !server ? show(embedded) : first ? server.ask(first.key) : Promise.resolve();

/** For the browser's console and for tests: the numbers behind what is shown. */
window.explorer = {
  ready,
  show,
  setLayers,
  get image() {
    return shown;
  },
  /** Labels before the CRF at every pixel of the frame that shows the photo. */
  frameLabels: (layers) => shown.labels(shown.maps(layers), shown.frameAxes()),
  /** Labels before the CRF at the photo's own size. */
  ownLabels: (layers) => shown.ownLabels(shown.maps(layers)),
  /** Share of a word or class ({kind: "words" or "classes", index}) at every pixel of the frame that shows the photo. */
  heat: (layers, choice) => shown.heat(shown.maps(layers), choice, shown.frameAxes()),
  /** Words at a pixel of the frame, strongest first. */
  ranking: (layers, y, x) => shown.ranking(shown.maps(layers), y, x),
};
