// Words at a spot of the picture, strongest first.

const MAX_RANKS = 8;

/** The spot as a pixel of the frame. */
function framePlace({ y, x }) {
  const place = (share, inner) => Math.min(Math.max(share * inner - 0.5, 0), inner - 1);
  return [place(y, shown.inner[0]), place(x, shown.inner[1])];
}

function rank() {
  const spot = state.spot;
  byId("spot").hidden = !spot;
  byId("release").hidden = !state.held;
  if (!spot) return;
  byId("spot").style.left = `${100 * spot.x}%`;
  byId("spot").style.top = `${100 * spot.y}%`;
  byId("spot").classList.toggle("held", state.held);
  const ranking = shown.ranking(currentMaps(), ...framePlace(spot)).slice(0, MAX_RANKS);
  const longest = Math.max(ranking[0].share, 1e-6);
  const rows = ranking.map((word) => {
    const bar = element("span", { className: "rank-bar" }, element("span"));
    bar.firstChild.style.width = `${Math.min(100, (100 * word.share) / Math.max(longest, 0.5))}%`;
    const name = element("button", { type: "button", className: "rank-name", textContent: word.text, title: word.text, dir: "auto" });
    name.addEventListener("click", () => chooseWord({ kind: "words", index: word.index }));
    const owner = shown.classes[word.class].name;
    const of = owner === word.text ? "" : owner;
    return element("li", {}, swatch(word.class), name, element("span", { className: "quiet of", textContent: of }), bar,
      element("span", { className: "value", textContent: percent(word.share) }));
  });
  byId("ranks").replaceChildren(...rows);
  byId("spot-summary").replaceChildren(...spotSummary(spot));
  byId("over-100").hidden = !(ranking[0].share > 1);
}

function spotSummary(spot) {
  const [height, width] = canvasSize();
  const at = Math.min(height - 1, Math.floor(spot.y * height)) * width + Math.min(width - 1, Math.floor(spot.x * width));
  const views = ["labels", "refined", "truth"].filter((view) => shown[view === "labels" ? "photo" : view]);
  const parts = views.flatMap((view) => {
    const label = shownLabels(view)[at];
    const name = label === IGNORED ? "ignored" : shown.classes[label].name;
    return [`${{ labels: "Label", refined: "after CRF", truth: "ground truth" }[view]} `, element("b", { textContent: name }), ", "];
  });
  return [...parts, `at ${spotPixel().join(", ")}${state.held ? " (held)" : ""}`];
}

function placeOf(event) {
  const box = byId("canvas").getBoundingClientRect();
  const share = (value, start, length) => Math.min(Math.max((value - start) / length, 0), 0.9999);
  return { y: share(event.clientY, box.top, box.height), x: share(event.clientX, box.left, box.width) };
}

function moveSpot(event) {
  if (event.target !== byId("picture")) return; // the swipe handle is inside it
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  if (event.key in steps) {
    const [dy, dx] = steps[event.key];
    const from = state.spot ?? { y: 0.5, x: 0.5 };
    const step = shown.inner.map((side) => (event.shiftKey ? 1 : shown.imageSize / shown.grid) / side);
    const inside = (share) => Math.min(Math.max(share, 0), 0.9999);
    state.spot = { y: inside(from.y + dy * step[0]), x: inside(from.x + dx * step[1]) };
    state.held = true;
    rank();
    const spoken = [...byId("ranks").children].slice(0, 3).map((row) => row.querySelector(".rank-name").textContent);
    byId("spot-spoken").textContent = spoken.join(", ");
  } else if (event.key === "Enter" || event.key === " ") {
    state.held = !state.held;
    rank();
  } else if (event.key === "Escape") {
    state.held = false;
    rank();
  } else {
    return;
  }
  event.preventDefault();
}
