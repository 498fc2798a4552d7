/*
 * The method: the arithmetic of src/method/attention.py, for any choice of layers.
 *
 * L layers, P words (prompts), C classes (0 = background), g * g = N patches, S the side of the square frame that the
 * model sees. Maps are Float32Arrays, one after the other: word p has [p * N, (p + 1) * N).
 */

const BACKGROUND = 0;
const IGNORED = 255;

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

/** Largest over `count` maps of length `length`. */
function largest(maps, count, length) {
  const result = Float32Array.from(maps.subarray(0, length));
  for (let k = 1; k < count; k++) {
    for (let n = 0; n < length; n++) result[n] = Math.max(result[n], maps[k * length + n]);
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
 * Samples on one axis of the patch grid: the patch before each sample, and the weight of the next patch.
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

/** IoU of every class in one image, null where a class is neither in the ground truth nor predicted. */
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
