// The picture: everything that is redrawn when the state changes.

function refresh() {
  drawPicture();
  drawThumbnails();
  drawScale();
  drawGrid();
  markControls();
  markParts();
  rank();
  writeAddress();
}

function chosenName() {
  const { kind, index } = state.choice;
  return kind === "words" ? shown.words[index].text : shown.classes[index].name;
}

/** The word or class of an image that has the chosen name; null if the other image has none. */
const choiceOf = (image) => (image === shown ? state.choice : choiceCalled(chosenName(), image));

/** Top of the colour scale for the choice: its own maximum, or that of all words; of both images where two are shown. */
function scaleTop() {
  const shared = byId("shared").checked;
  const tops = [shown, other].map((image) => {
    const choice = image && choiceOf(image);
    if (!choice) return 0;
    image.current.tops ??= {};
    const key = shared ? "all" : `${choice.kind} ${choice.index}`;
    return (image.current.tops[key] ??= image.top(currentMaps(image), shared ? undefined : choice));
  });
  return Math.max(...tops);
}

function drawPicture() {
  const [height, width] = canvasSize();
  const canvas = byId("canvas");
  if (canvas.height !== height || canvas.width !== width) Object.assign(canvas, { height, width });
  byId("picture").style.setProperty("--ratio", width / height);
  paint(canvas, shown);
  paintOther();
}

/** Draws the chosen view of one image. */
function paint(canvas, image) {
  const { height, width } = canvas;
  const pen = canvas.getContext("2d");
  const opacity = byId("opacity").value / 100;
  pen.globalAlpha = 1;
  pen.drawImage(image.photoImage, 0, 0, width, height);
  if (state.view === "heat") {
    const [heat, top] = shownHeat(image, image.stretchedAxes(height, width));
    if (!heat) return;
    drawGrey(pen, width, height, opacity);
    pen.globalAlpha = opacity;
    pen.drawImage(canvasOf(height, width, heatPixels(heat, top, image.heatColours)), 0, 0);
    pen.globalAlpha = 1;
  } else {
    const view = image[state.view] ? state.view : "labels";
    const labels = shownLabels(view, image);
    pen.drawImage(canvasOf(height, width, labelPixels(labels, height, width, image.palette, opacity, 2)), 0, 0);
    if (byId("names").checked && opacity > 0) drawNames(pen, labels, image);
  }
}

/** Values of the heat map that is drawn, and the top of their scale; no values if the image lacks the word. */
function shownHeat(image, axes) {
  if (state.part && image === shown) return [partHeat(state.part, axes), 1];
  const choice = state.part ? null : choiceOf(image);
  return [choice && image.heat(currentMaps(image), choice, axes), scaleTop()];
}

/** Takes the colour out of the photo, as far as the heat map covers it. */
function drawGrey(pen, width, height, opacity) {
  pen.globalCompositeOperation = "saturation";
  pen.globalAlpha = Math.min(1, opacity / (1 - GREY));
  pen.fillStyle = "#808080";
  pen.fillRect(0, 0, width, height);
  pen.globalCompositeOperation = "source-over";
}

function drawNames(pen, labels, image) {
  const { height, width } = pen.canvas;
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
    const name = fitted(pen, label === IGNORED ? "ignored" : image.classes[label].name, width - 8 * zoom);
    const half = pen.measureText(name).width / 2 + 4 * zoom;
    const place = [Math.min(Math.max(x, half), Math.max(half, width - half)), Math.min(Math.max(y, size), height - size)];
    const overlaps = (other) => Math.abs(other.x - place[0]) < other.half + half && Math.abs(other.y - place[1]) < 1.2 * size;
    if (taken.some(overlaps)) continue; // only the larger one gets its name
    taken.push({ x: place[0], y: place[1], half });
    pen.lineWidth = 4 * zoom;
    pen.strokeStyle = "rgb(0 0 0 / 75%)";
    pen.strokeText(name, ...place);
    pen.fillStyle = "#fff";
    pen.fillText(name, ...place);
  }
}

/** `text` with its end cut off where it is wider than `width`. */
function fitted(pen, text, width) {
  const letters = [...text];
  while (letters.length > 1 && pen.measureText(letters.join("")).width > width) letters.splice(-2, 2, "…");
  return letters.join("");
}

/** Every layer alone: the chosen word's heat on one scale for all layers, or the layer's own labels. */
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
  const [name, low, high] = state.part
    ? [state.part.name, state.part.low.toFixed(1), state.part.high.toFixed(1)]
    : [chosenName(), "0", percent(scaleTop())];
  const texts = [element("b", { textContent: name, dir: "auto", title: name }), element("span", { textContent: low })];
  scale.replaceChildren(...texts, ramp, element("span", { textContent: high }));
}

function markControls() {
  const { layers, view, choice } = state;
  for (const input of byId("views").querySelectorAll("input")) {
    input.checked = input.value === view;
    if (input.value === "refined") {
      input.disabled = !configuredLayersShown();
      input.parentElement.title = input.disabled ? `The CRF was run on ${namedLayers(shown.configured)}` : "";
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
  const names = { heat: state.part?.name ?? `Where ${chosenName()} is`, labels: "Labels", refined: "Labels after the CRF", truth: "Ground truth" };
  byId("picture").setAttribute("aria-label", `${names[view]}, ${shown.name}`);
  const iou = currentIou()?.filter((value) => value !== null);
  const mean = iou?.length ? iou.reduce((a, b) => a + b, 0) / iou.length : 0;
  // the evaluation counted at the image's own size, the page counts in the frame
  const where = iou && view !== "refined" && shown.truth.resolution === "original" ? " in the model’s frame" : "";
  const score = iou ? `. IoU in this image: ${percent(mean)}, mean of ${counted(iou.length, "class", "classes")}${where}` : "";
  const crf = view === "refined" ? `, ${counted(shown.crf, "CRF iteration")}` : "";
  const nothing = view !== "heat" && shownLabels(view).every((label) => label === BACKGROUND || label === IGNORED);
  const found = nothing ? ". Nothing found: every pixel is background" : "";
  byId("status").textContent = state.part ? `${state.part.name}: logits` : view === "truth" ? "Ground truth" : `From ${namedLayers(layers)}${crf}${score}${found}`;
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
