// What is chosen: view, layers, word and spot; and the image that is shown.

const VIEWS = { heat: "Heat map", labels: "Labels", refined: "After CRF", truth: "Ground truth" };

/** What is chosen at the moment. It outlives a change of image or of words. */
const state = {
  view: null, // one of VIEWS; null until a page is shown
  layers: [],
  choice: { kind: "classes", index: 0 },
  spot: null, // {y, x}: a place in the photo, 0 to 1
  held: false,
  part: null, // of a word, drawn instead of its heat: {name, values [N], low, high}
};
let shown = null; // the Exploration on the page
let other = null; // another Exploration of the same photo, to compare with

const percent = (share) => (share >= 0.9995 ? "100%" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`);
const colourOf = (label) => `rgb(${shown.palette.slice(3 * label, 3 * label + 3).join(" ")})`;
const counted = (number, noun, plural = `${noun}s`) => `${number} ${number === 1 ? noun : plural}`;
const namedLayers = (layers) => `${layers.length === 1 ? "layer" : "layers"} ${layers.join(", ")}`;
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

/** The layers of an image that are switched on; of the other one: the same, or those of its configuration. */
function layersOf(image) {
  if (image === shown) return state.layers;
  const same = state.layers.filter((layer) => image.layers.includes(layer));
  return same.length && !configuredLayersShown() ? same : image.configured;
}

function currentMaps(image = shown) {
  return (image.current.maps ??= image.maps(layersOf(image)));
}

/** Drops what was computed from the layers that were switched on before. */
function forgetMaps() {
  for (const image of [shown, other]) if (image) image.current = {};
}

/** The labels of a view at the size of the large picture. */
function shownLabels(view, image = shown) {
  const size = canvasSize();
  const own = [image.photo.height, image.photo.width];
  image.current.labels ??= {};
  return (image.current.labels[view] ??=
    view === "refined"
      ? nearest(image.refined, own, size)
      : view === "truth"
        ? nearest(image.truth.labels, own, size)
        : image.labels(currentMaps(image), image.stretchedAxes(...size)));
}

/** IoU of the labels shown, per class, in the frame of the model; null without ground truth. */
function currentIou() {
  if (!shown.truth || state.view === "truth") return null;
  if (state.view === "refined") return shown.truth.iou;
  return (shown.current.iou ??= iouOf(shown.labels(currentMaps(), shown.frameAxes()), shown.truth.frame, shown.classes.length));
}

/** Shows an image: in the state of the address if `addressed`, else in that of the image before it. */
async function show(content, addressed = !shown) {
  const before = shown && { photo: shown.name, choice: chosenName() };
  shown = await Exploration.read(content);
  forgetMaps();
  forgetParts();
  if (!addressed && other && differentPhotos(other)) endComparison(differentPhotos(other));
  const known = state.layers.filter((layer) => shown.layers.includes(layer));
  state.layers = known.length ? known : [...shown.configured];
  state.choice = choiceCalled(before?.choice) ?? { kind: "classes", index: 0 };
  if (before && before.photo !== shown.name) [state.spot, state.held] = [null, false];
  const ignored = addressed ? readAddress() : [];
  if (!viewExists(state.view)) state.view = "labels";
  byId("explorer").hidden = false;
  byId("title").textContent = shown.name;
  document.title = `${shown.name} · attention explorer`;
  const { height, width } = shown.photo;
  byId("about").textContent = `${width} × ${height} pixels, seen by ${shown.model} at ${shown.imageSize} px`;
  byId("warning").textContent = shown.warning ?? "";
  byId("warning").hidden = !shown.warning;
  showLinks();
  showViews();
  makeLayerCards();
  makeWordList();
  showLayerChoice();
  const { choice } = state;
  if (!state.spot) state.spot = deepestSpot();
  if (state.view === "heat") state.choice = choice; // a heat map stays that of its word
  refresh();
  sayIgnored(ignored);
  await restoreOther(ignored);
}

function viewExists(view) {
  if (view === "refined") return Boolean(shown.refined) && configuredLayersShown();
  return view === "truth" ? Boolean(shown.truth) : Object.hasOwn(VIEWS, view);
}
