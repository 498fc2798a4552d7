// Drawing: heat, labels and names as pixels.

const CANVAS_SIDE = 1024; // of the longer side of the large picture
const THUMBNAIL_SIDE = 120;
const GREY = 0.35; // weight of the grey photo in a heat map, as on the command line

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

/** The pixel deepest inside each class, where its name is drawn: [{label, y, x, depth, area}]. */
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
