// The grid: every word in every layer, as small heat maps to compare and to open.

const CELL_SIDE = 64; // of the longer side of a small heat map

/** Makes the grid when it is opened; it is drawn again for another image or another scale. */
function drawGrid() {
  if (!byId("grid-fold").open || !shown) return;
  const shared = byId("shared").checked;
  if (drawnGrid.image === shown && drawnGrid.shared === shared) return markGrid();
  drawnGrid = { image: shown, shared };
  const scale = CELL_SIDE / Math.max(shown.photo.height, shown.photo.width);
  const size = [shown.photo.height, shown.photo.width].map((side) => Math.max(1, Math.round(side * scale)));
  const axes = shown.stretchedAxes(...size);
  const layers = shown.layers.map((layer) => shown.layerMaps(layer));
  const tops = shown.words.map((_, index) => Math.max(...layers.map((maps) => shown.top(maps, { kind: "words", index }))));
  const highest = Math.max(...tops);
  const head = element("tr", {}, element("td"), ...shown.layers.map((layer) => element("th", { scope: "col", textContent: layer })));
  const rows = shown.words.map(({ text }, index) => {
    const cells = layers.map((maps, position) => {
      const heat = shown.heat(maps, { kind: "words", index }, axes);
      const canvas = canvasOf(...size, heatPixels(heat, shared ? highest : tops[index], shown.heatColours));
      const button = element("button", { type: "button", title: `${text}, layer ${shown.layers[position]}` }, canvas);
      button.setAttribute("aria-label", button.title);
      Object.assign(button.dataset, { index, layer: shown.layers[position] });
      return element("td", {}, button);
    });
    return element("tr", {}, element("th", { scope: "row", textContent: text, title: text, dir: "auto" }), ...cells);
  });
  byId("grid").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  byId("grid-scale").textContent = shared ? `One colour scale: 0 to ${percent(highest)}.` : "Every word has a scale of its own.";
  markGrid();
}
let drawnGrid = {};

/** Marks the word and the layers that the large picture shows. */
function markGrid() {
  const { choice, layers, view } = state;
  for (const button of byId("grid").querySelectorAll("button")) {
    const word = choice.kind === "words" && view === "heat" && Number(button.dataset.index) === choice.index;
    button.setAttribute("aria-pressed", word && layers.includes(Number(button.dataset.layer)));
  }
}

function listenToGrid() {
  byId("grid-fold").addEventListener("toggle", drawGrid);
  moveInList(byId("grid"), "button", () => shown.layers.length);
  byId("grid").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    Object.assign(state, { layers: [Number(button.dataset.layer)], view: "heat", part: null });
    forgetMaps();
    chooseWord({ kind: "words", index: Number(button.dataset.index) });
    byId("picture").scrollIntoView({ block: "nearest" });
  });
}
