// The address: the state as keys such as #word=boat&layers=0,1&view=heat&spot=120,80.

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

/** Writes the state to the address; other keys, such as the order of the index, are kept. */
function writeAddress() {
  if (location.protocol === "about:") return; // a page inside a notebook has no address
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
  else if (!same) history.replaceState(null, "", hash); // the initial state is not a step of the history
  addressWritten = true;
}
let addressWritten = false;

/** Shows the state of the address after Back, Forward or an edit. */
function followAddress() {
  if (!shown) return;
  Object.assign(state, { layers: [...shown.configured], view: shown.refined ? "refined" : "labels", held: false });
  const ignored = readAddress();
  if (!viewExists(state.view)) state.view = "labels";
  state.part = null;
  forgetMaps();
  refresh();
  showLinks();
  if (ignored.length) say(`Ignored in the address: ${ignored.join(", ")}.`);
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
