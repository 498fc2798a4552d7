// Comparison: another result for the same photo, right of a line that can be moved.

const COMPARED = ["compare", "compare-classes", "compare-background"]; // in the address: a file, or words of an answer
const MIDDLE = "50"; // where the line is at first, in percent

const opened = new Map(); // results that this page has compared with: Back shows them again
let awaited = null; // an answer that the address names and the server has not given yet: {compare-classes, ...}

/** Why two images cannot be compared; null if they can. */
function differentPhotos(image) {
  if (image.photo.digest === shown.photo.digest) return null;
  return `These are different photos, ${shown.name} and ${image.name}; choose two results for one photo.`;
}

/** The key of a result for the photo shown: `address` has its keys in the address. */
const openedKey = (address) => JSON.stringify([shown.photo.digest, ...COMPARED.map((key) => address[key])]);

/** Starts a comparison, or shows why there is none. */
function compareWith(image, title, address) {
  endComparison(differentPhotos(image));
  if (!differentPhotos(image)) {
    other = Object.assign(image, { title, address, current: {} });
    opened.set(openedKey(address), other);
  }
  refresh();
}

/** Ends the comparison and shows the reason, if there is one. */
function endComparison(reason) {
  other = awaited = null;
  byId("compare-message").textContent = reason ?? "";
  if (reason) document.querySelector(".compare").open = true;
}

/** Reads a saved page and compares with it. */
async function openOther(file) {
  let image;
  try {
    const saved = new DOMParser().parseFromString(await file.text(), "text/html");
    image = await Exploration.read(JSON.parse(saved.getElementById("content").textContent));
  } catch {
    endComparison(`${file.name} is not a page of the explorer for one image.`);
    return refresh();
  }
  compareWith(image, file.name, { compare: file.name });
}

/** Compares as the address says, or waits for the server's answer; returns what it ignored. */
function readComparison(values) {
  const ignored = [];
  const named = COMPARED.filter((key) => values.has(key)).map((key) => [key, values.get(key)]);
  const address = Object.fromEntries(named);
  endComparison();
  other = opened.get(openedKey(address)) ?? null;
  if (!other && server && values.has("compare-classes")) awaited = address;
  else if (!other && values.has("compare")) {
    const name = shorten(values.get("compare"));
    endComparison(`${name} was compared with this photo. A page cannot open files by itself: choose it again.`);
  } else if (!other) ignored.push(...named.map(([key, value]) => `${key} ${shorten(value)}`));
  const line = values.get("line") ?? MIDDLE;
  const valid = /^\d{1,3}$/.test(line) && Number(line) <= 100 && (named.length > 0 || line === MIDDLE);
  byId("swipe").value = valid ? line : MIDDLE;
  if (!valid) ignored.push(`line ${shorten(line)}`);
  return ignored;
}

/** Asks the server for the answer that the address compares with; then says again what was `ignored`. */
async function restoreOther(ignored) {
  const address = awaited;
  if (!address) return;
  const [classes, background] = [address["compare-classes"], address["compare-background"] ?? ""];
  const answer = await server.answerTo(classes, background);
  if (awaited !== address || answer === undefined) return; // a newer question
  if (answer) compareWith(await Exploration.read(answer), titleOf(answer), address);
  else {
    endComparison(`The answer to “${shorten(classes)}” is not compared: the server refuses it.`);
    refresh();
  }
  sayIgnored(ignored);
}

const titleOf = (answer) => `the answer to “${answer.classes.slice(1).map(({ name }) => name).join("; ")}”`;

/** Draws the other image right of the line. */
function paintOther() {
  byId("swipe").hidden = byId("compare-end").hidden = byId("sides").hidden = !other;
  if (!other) return;
  const canvas = byId("canvas");
  const { height, width } = canvas;
  const right = canvasOf(height, width);
  paint(right, other);
  const at = Math.round((byId("swipe").value / 100) * width);
  if (at < width) canvas.getContext("2d").drawImage(right, at, 0, width - at, height, at, 0, width - at, height);
  const sides = [[shown, "this page"], [other, other.title]].map(([image, name]) => {
    const lacks = state.view === "heat" && !choiceOf(image) ? `; it has no word “${chosenName()}”` : "";
    return element("span", { textContent: `${name}: ${image.model}, ${namedLayers(layersOf(image))}${lacks}`, dir: "auto" });
  });
  byId("sides").replaceChildren(...sides);
}

function listenToComparison() {
  byId("swipe").addEventListener("input", drawPicture);
  byId("swipe").addEventListener("change", () => writeAddress(false));
  byId("compare-file").addEventListener("change", (event) => {
    if (event.target.files.length) openOther(event.target.files[0]);
    event.target.value = "";
  });
  byId("compare-keep").addEventListener("click", () => {
    const { classes, background } = server.answered;
    const address = { "compare-classes": classes, ...(background && { "compare-background": background }) };
    compareWith(Object.assign(new Exploration(), shown), titleOf(shown), address);
  });
  byId("compare-end").addEventListener("click", () => {
    endComparison();
    refresh();
  });
}
