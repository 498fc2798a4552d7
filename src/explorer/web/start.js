// The start: shows the image of the page, or asks the server.

addEventListener("unhandledrejection", ({ reason }) => {
  byId("about").textContent = `This page cannot be shown (${reason.message}); a current browser is needed.`;
});
listen();
const embedded = JSON.parse(byId("content").textContent);
const server = embedded.server && new Server(embedded.server);
const ready = server ? server.begin() : show(embedded);

/** For the browser's console and for tests: the numbers behind the display. */
window.explorer = {
  ready,
  show,
  setLayers,
  get image() {
    return shown;
  },
  /** Logits of the tokens and heads that the server computed last. */
  get parts() {
    return parts;
  },
  /** Labels before the CRF at every pixel of the frame that shows the photo. */
  frameLabels: (layers) => shown.labels(shown.maps(layers), shown.frameAxes()),
  /** Labels before the CRF at the photo's own size. */
  ownLabels: (layers) => shown.ownLabels(shown.maps(layers)),
  /** Share of a word or class ({kind: "words" or "classes", index}) at every pixel of the frame that shows the photo. */
  heat: (layers, choice) => shown.heat(shown.maps(layers), choice, shown.frameAxes()),
  /** Words at a pixel of the frame, strongest first. */
  ranking: (layers, y, x) => shown.ranking(shown.maps(layers), y, x),
};
