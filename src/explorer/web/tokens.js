// Tokens and heads: what one layer sees for every token of a prompt, and each of its heads. The server computes it.

let parts = null; // of the last requested word and layer

/** Only a page of the server can request tokens and heads. */
function showLayerChoice() {
  byId("parts-ask").hidden = !server;
  byId("parts-need").hidden = Boolean(server);
  const chosen = byId("parts-layer").value;
  const options = shown.layers.map((layer) => element("option", { value: layer, textContent: `layer ${layer}` }));
  byId("parts-layer").replaceChildren(...options);
  byId("parts-layer").value = shown.layers.includes(Number(chosen)) && chosen ? chosen : state.layers[0];
}

function forgetParts() {
  parts = state.part = null;
  byId("token-cards").replaceChildren();
  byId("head-cards").replaceChildren();
}

/** The chosen word; of a class the first. */
function chosenWord() {
  const { kind, index } = state.choice;
  return kind === "words" ? shown.words[index].text : shown.words.find((word) => word.class === index).text;
}

async function askForParts() {
  const [image, word, layer] = [shown, chosenWord(), Number(byId("parts-layer").value)];
  const answer = await server.parts(word, layer);
  if (!answer || image !== shown) return;
  const logits = new Float32Array(bytesOf(answer.logits).buffer);
  const [count, { patches }] = [answer.tokens.length, shown];
  const heads = logits.length / count / patches;
  const tokens = largest(logits, heads, count * patches);
  parts = { word, layer, heads, logits, tokens, texts: answer.tokens, sum: total(tokens, count, patches) };
  const cards = parts.texts.map((text, at) => {
    const part = { name: `“${text}” in layer ${layer}`, values: tokens.subarray(at * patches, (at + 1) * patches), token: at };
    return partCard(text, part, rangeOf(tokens));
  });
  const whole = { name: `${word} in layer ${layer}`, values: parts.sum };
  cards.unshift(partCard("all tokens", whole, rangeOf(parts.sum)));
  byId("head-cards").replaceChildren();
  byId("token-cards").replaceChildren(...cards);
  choosePart(cards[0].shows);
}

/** Cards of the heads of one token. */
function showHeads(token) {
  const { patches } = shown;
  const maps = Array.from({ length: parts.heads }, (_, head) => {
    const start = (head * parts.texts.length + token) * patches;
    return parts.logits.subarray(start, start + patches);
  });
  const range = [Math.min(...maps.map((map) => rangeOf(map)[0])), Math.max(...maps.map((map) => rangeOf(map)[1]))];
  const cards = maps.map((values, head) => {
    const name = `“${parts.texts[token]}” in layer ${parts.layer}, head ${head}`;
    return partCard(`head ${head}`, { name, values, head }, range);
  });
  byId("head-cards").replaceChildren(...cards);
}

/** The lowest and the highest value. */
function rangeOf(values) {
  return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
}

/** A button with the map of one part of a word; its colours are those of the range that its neighbours share. */
function partCard(text, part, range) {
  Object.assign(part, { low: range[0], high: range[1] });
  const size = canvasSize().map((side) => Math.round((side * THUMBNAIL_SIDE) / CANVAS_SIDE));
  const pixels = heatPixels(partHeat(part, shown.stretchedAxes(...size)), 1, shown.heatColours);
  const numbers = rangeOf(part.values).map((value) => value.toFixed(1)).join(" to ");
  const button = element("button", { type: "button", className: "part" }, canvasOf(...size, pixels),
    element("span", { className: "part-name", textContent: text, dir: "auto" }), element("span", { className: "quiet", textContent: numbers }));
  button.addEventListener("click", () => choosePart(part));
  return Object.assign(button, { shows: part });
}

/** Logits of a part at every crossing of two axes, 0 to 1 between the ends of its scale. */
function partHeat({ values, low, high }, [rows, columns]) {
  return sample(values, 0, shown.grid, rows, columns).map((value) => (value - low) / (high - low || 1));
}

function choosePart(part) {
  Object.assign(state, { part, view: "heat" });
  if (part.token !== undefined) showHeads(part.token);
  else if (part.head === undefined) byId("head-cards").replaceChildren();
  refresh();
}

function markParts() {
  byId("parts-show").textContent = `Show “${chosenWord()}”`;
  for (const card of document.querySelectorAll(".part")) card.setAttribute("aria-pressed", card.shows === state.part);
}

function listenToParts() {
  byId("parts-show").addEventListener("click", askForParts);
}
