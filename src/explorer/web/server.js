// Requests to the server, if one serves the page.

/** Requests to the server of this page; a page in a file has none. */
class Server {
  constructor({ photos, classes, background }) {
    this.photo = null; // key of the photo shown or requested
    this.asked = null; // aborts the pending question
    this.answered = {}; // the words of the answer shown
    const address = new URLSearchParams(location.hash.slice(1));
    byId("ask").hidden = byId("compare-keep").hidden = false;
    byId("ask-classes").value = address.get("classes") ?? classes;
    byId("ask-background").value = address.get("background") ?? background;
    for (const { key, name } of photos) this.offer(key, name);
    this.listen();
    this.tell(photos.length ? "" : "Open or drop a photo to begin.");
  }

  /** Puts a photo into the row of photos. */
  offer(key, name) {
    const known = this.button(key);
    if (known) return known;
    const image = element("img", { src: `photos/${key}`, alt: name, loading: "lazy" });
    const button = element("button", { type: "button", title: name }, image);
    button.dataset.key = key;
    button.addEventListener("click", () => this.ask(key));
    byId("photos").append(button);
    return button;
  }

  button(key) {
    return byId("photos").querySelector(`[data-key="${CSS.escape(key)}"]`);
  }

  /** Asks about a photo with the words typed in, and shows the answer; of several questions the last one counts. */
  async ask(photo) {
    if (!photo) return this.tell("Open or drop a photo first.", true);
    this.photo = photo;
    for (const button of byId("photos").children) button.setAttribute("aria-pressed", button.dataset.key === photo);
    const [classes, background] = ["classes", "background"].map((name) => byId(`ask-${name}`).value);
    const answer = await this.send("explore", JSON.stringify({ photo, classes, background }), "Looking …");
    if (!answer) return;
    this.answered = { classes, background };
    await show(answer);
    if (matchMedia("(max-width: 900px)").matches) byId("ask-fold").open = false; // the picture first
    const unknown = answer.unknown.map((word) => `“${word}”`).join(", ");
    this.tell(unknown && `The model’s vocabulary cannot spell ${unknown}; expect little of it.`);
  }

  /** Asks for the tokens and heads of a word in one layer. */
  async parts(word, layer) {
    const answer = await this.send("parts", JSON.stringify({ photo: this.photo, word, layer }), "Looking …");
    if (answer) this.tell("");
    return answer;
  }

  /** Sends a photo and asks about it. */
  async upload(file) {
    const address = `photos?name=${encodeURIComponent(file.name || "photo")}`;
    const answer = await this.send(address, file, "Sending the photo …");
    if (!answer) return;
    this.offer(answer.key, answer.name).scrollIntoView({ block: "nearest", inline: "nearest" });
    await this.ask(answer.key);
  }

  /** Posts to the server; returns its answer, or null after a newer question or an error, which is shown. */
  async send(address, body, meanwhile) {
    this.asked?.abort();
    const asked = (this.asked = new AbortController());
    this.tell(meanwhile);
    byId("ask").setAttribute("aria-busy", "true");
    let problem;
    try {
      const response = await fetch(address, { method: "POST", body, signal: asked.signal });
      const answer = await response.json();
      if (asked.signal.aborted) return null;
      if (response.ok) return answer;
      problem = answer.error;
    } catch {
      problem = "The server does not answer. Is it still running?";
    } finally {
      if (this.asked === asked) byId("ask").removeAttribute("aria-busy");
    }
    if (!asked.signal.aborted) this.tell(problem, true);
    return null;
  }

  tell(text, isError = false) {
    byId("message").textContent = text;
    byId("message").classList.toggle("error", isError);
    if (isError) byId("ask-fold").open = true;
  }

  listen() {
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask(this.photo);
    });
    byId("ask-file").addEventListener("change", (event) => {
      if (event.target.files.length) this.upload(event.target.files[0]);
      event.target.value = "";
    });
    document.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      byId("drop").hidden = false;
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) byId("drop").hidden = true;
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      byId("drop").hidden = true;
      if (event.dataTransfer.files.length) this.upload(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", (event) => {
      const [file] = event.clipboardData.files;
      if (file) this.upload(file);
    });
  }
}
