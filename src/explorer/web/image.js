// An image: its decoded numbers, and the maps, labels and rankings computed from them.

/** The numbers of one image, and the values computed from them. */
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
    exploration.current = {}; // of the selected layers, computed when needed
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
