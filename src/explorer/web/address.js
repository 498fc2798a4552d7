// The address: the state as keys such as #word=boat&layers=0,1&view=heat&spot=120,80.

const addressValues = () => new URLSearchParams(location.hash.slice(1));

/** Takes the state from the address; what it does not name is as in the configuration. Returns what it ignored. */
function readAddress() {
  Object.assign(state, { layers: [...shown.configured], view: shown.refined ? "refined" : "labels", held: false, part: null });
  const values = addressValues();
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
  const order = values.get("order");
  if (shown.links && order && !Object.hasOwn(shown.links.orders, order)) ignored.push(`order ${shorten(order)}`);
  const photo = values.get("photo");
  if (server && photo && photo !== server.photo) ignored.push(`photo ${shorten(photo)}`);
  ignored.push(...readComparison(values));
  if (!viewExists(state.view)) state.view = "labels";
  forgetMaps();
  return ignored;
}

function sayIgnored(ignored) {
  if (ignored.length) say(`Ignored in the address: ${ignored.join(", ")}.`);
}

const shorten = (text) => (text.length > 40 ? `${text.slice(0, 39)}…` : text);

/**
 * Writes the state to the address; other keys, such as the order of the index, are kept. Without `step`, Back skips this
 * change: something moved a little.
 */
function writeAddress(step = true) {
  if (location.protocol === "about:") return; // a page inside a notebook has no address
  const values = addressValues();
  const put = (key, value) => (value === null ? values.delete(key) : values.set(key, value));
  put("word", state.view === "heat" ? chosenName() : null);
  put("view", state.view === "heat" ? null : state.view);
  put("layers", configuredLayersShown() ? null : state.layers.join(","));
  put("spot", state.held ? spotPixel().join(",") : null);
  if (server) {
    put("photo", server.photo);
    // a field that was emptied is named too: without it the page would begin with the words of the command line
    for (const name of FIELDS) put(name, server.answered[name] || (server.initial[name] ? "" : null));
  }
  const compared = other?.address ?? awaited;
  for (const key of COMPARED) put(key, compared?.[key] ?? null);
  put("line", compared && byId("swipe").value !== MIDDLE ? byId("swipe").value : null);
  const hash = `#${values.toString().replaceAll("%2C", ",")}`;
  const same = hash === location.hash || (hash === "#" && !location.hash);
  if (!same && addressWritten && step) history.pushState(null, "", hash);
  else if (!same) history.replaceState(null, "", hash); // the initial state is not a step of the history
  addressWritten = true;
}
let addressWritten = false;

/** Shows the state of the address after Back, Forward or an edit. */
async function followAddress() {
  if (!shown || server?.follow()) return;
  const ignored = readAddress();
  refresh();
  showLinks();
  sayIgnored(ignored);
  await restoreOther(ignored);
}

/** The spot as a pixel of the photo: x, y. */
function spotPixel() {
  return [Math.floor(state.spot.x * shown.photo.width), Math.floor(state.spot.y * shown.photo.height)];
}

/** The class or else the word of this name, if there is one. */
function choiceCalled(name, image = shown) {
  const label = image.classes.findIndex((one) => one.name === name);
  const word = image.words.findIndex(({ text }) => text === name);
  return label >= 0 ? { kind: "classes", index: label } : word >= 0 ? { kind: "words", index: word } : null;
}
