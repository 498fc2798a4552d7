// Events: what pointer, keys and buttons do.

/** One Tab reaches a list, arrow keys, Home and End move in it; `columns` is its width. Elements may be added and removed. */
function moveInList(list, selector, columns = () => 1) {
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
    const below = columns();
    const moves = { ArrowDown: below, ArrowRight: 1, ArrowUp: -below, ArrowLeft: -1, Home: -at, End: all.length - 1 - at };
    const to = at + moves[event.key];
    if (at < 0 || Number.isNaN(to)) return;
    event.preventDefault();
    all[Math.min(Math.max(to, 0), all.length - 1)].focus();
  });
}

function say(text) {
  byId("status").textContent = text;
}

function stem() {
  return shown.name.replace(/\.[^.]*$/, "");
}

async function saveLabels() {
  const { height, width } = shown.photo;
  const view = state.view === "heat" ? "labels" : state.view;
  say("Making the labels at the photo’s own size …");
  await new Promise((resolve) => setTimeout(resolve, 30)); // large photos take seconds: show the message first
  const labels = { refined: shown.refined, truth: shown.truth?.labels }[view] ?? shown.ownLabels(currentMaps());
  const names = { refined: "labels", truth: "truth", labels: `labels_layers_${state.layers.join("_")}` };
  download(await labelPng(labels, height, width, shown.palette), `${stem()}_${names[view]}.png`);
  markControls();
}

function savePicture() {
  const word = (state.part?.name ?? chosenName()).replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60);
  const what = state.view === "heat" ? `heatmap_${word}` : state.view;
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
    if (event.target === byId("swipe")) return;
    state.held = event.pointerType === "touch" ? true : !state.held;
    state.spot = placeOf(event);
    rank();
    writeAddress();
  });
  picture.addEventListener("keydown", moveSpot);
  picture.addEventListener("keyup", () => writeAddress(false)); // once, however long an arrow key is held
  byId("release").addEventListener("click", () => {
    state.held = false;
    rank();
    writeAddress();
  });
  if (byId("command") && navigator.clipboard) {
    byId("copy").hidden = false;
    byId("copy").addEventListener("click", async () => {
      await navigator.clipboard.writeText(byId("command").textContent);
      byId("copy").textContent = "Copied";
    });
  }
  addEventListener("popstate", followAddress);
  for (const id of ["layer-cards", "words", "photos", "token-cards", "head-cards"]) moveInList(byId(id), "button");
  listenToGrid();
  listenToParts();
  listenToComparison();
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
