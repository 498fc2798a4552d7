// Comparison: another result for the same photo, right of a line that can be moved.

/** Why two images cannot be compared; null if they can. */
function differentPhotos(image) {
  if (image.photo.digest === shown.photo.digest) return null;
  return `These are different photos, ${shown.name} and ${image.name}; choose two results for one photo.`;
}

/** Starts a comparison, or shows why there is none. */
function compareWith(image, name) {
  endComparison(differentPhotos(image));
  if (!differentPhotos(image)) other = Object.assign(image, { title: name, current: {} });
  refresh();
}

/** Ends the comparison and shows the reason, if there is one. */
function endComparison(reason) {
  other = null;
  byId("compare-message").textContent = reason ?? "";
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
  compareWith(image, file.name);
}

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
    return element("span", { textContent: `${name}: ${image.model}, layers ${layersOf(image).join(", ")}${lacks}`, dir: "auto" });
  });
  byId("sides").replaceChildren(...sides);
}

function listenToComparison() {
  byId("swipe").addEventListener("input", drawPicture);
  byId("compare-file").addEventListener("change", (event) => {
    if (event.target.files.length) openOther(event.target.files[0]);
    event.target.value = "";
  });
  byId("compare-keep").addEventListener("click", () => {
    compareWith(Object.assign(new Exploration(), shown), `the answer to “${shown.classes.slice(1).map(({ name }) => name).join("; ")}”`);
  });
  byId("compare-end").addEventListener("click", () => {
    endComparison();
    refresh();
  });
}
