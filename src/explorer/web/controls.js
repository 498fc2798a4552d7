// Controls: links, views, the cards of the layers and the list of words.

/** The initial spot: deep inside the largest class that is not the background. */
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
  const { index, orders } = shown.links ?? {};
  const wanted = addressValues().get("order");
  const order = orders && wanted && Object.hasOwn(orders, wanted) ? wanted : "list";
  const [before, after] = orders?.[order] ?? [];
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
      state.part = null;
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
  forgetMaps();
  if (state.view === "refined" && !configuredLayersShown()) state.view = "labels";
  refresh();
}

function makeWordList() {
  const labels = shown.refined ?? shownLabels("labels");
  const sizes = new Float64Array(256);
  for (const label of labels) sizes[label]++;
  const order = shown.classes.map((_, label) => label).sort((a, b) => sizes[b] - sizes[a] || a - b);
  order.push(...order.splice(order.indexOf(BACKGROUND), 1)); // many words, rarely of interest
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
    row.append(swatch(label), element("span", { className: "name", textContent: name, title: name, dir: "auto" }), itmBar(best));
    row.append(element("span", { className: "pixels" }), element("span", { className: "iou" }));
    const group = element("div", { className: "class-group" }, row);
    if (prompts > 1 || shown.words[words[0]].text !== name) {
      const chips = words.map((word) => {
        const chip = choiceButton("words", word, "word");
        chip.append(element("span", { textContent: shown.words[word].text, dir: "auto" }), itmBar(shown.itm[word]));
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
  button.addEventListener("click", () => chooseWord({ kind, index }));
  return button;
}

/** Shows the heat map of a word or class. */
function chooseWord(choice) {
  Object.assign(state, { choice, view: "heat", part: null });
  refresh();
}
