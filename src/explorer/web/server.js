// Requests to the server, if one serves the page.

const FIELDS = ["classes", "background"]; // fields of the form, and their names in the address

/** Requests to the server of this page; a page in a file has none. */
class Server {
  constructor({ photos, classes, background }) {
    this.photo = null; // key of the photo shown or requested
    this.asked = null; // aborts the pending question
    this.answered = {}; // the words of the answer shown
    this.initial = { classes, background };
    this.notes = ""; // on the answer shown
    byId("ask").hidden = byId("compare-keep").hidden = false;
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

  /** Asks what the address names, or, without it, about the first photo. */
  async begin() {
    const { photo, words } = this.addressed();
    this.fill(words);
    if (photo) await this.ask(photo, true);
  }

  /** Asks again if the address names another photo or other words than those shown; returns whether it does. */
  follow() {
    const { photo, words } = this.addressed();
    if (photo === this.photo && FIELDS.every((name) => words[name] === this.answered[name])) return false;
    this.fill(words);
    this.ask(photo, true);
    return true;
  }

  /** The words of the address, and its photo; if this server has no such photo, the one shown, or the first. */
  addressed() {
    const values = addressValues();
    const words = Object.fromEntries(FIELDS.map((name) => [name, values.get(name) ?? this.initial[name]]));
    const known = values.has("photo") && this.button(values.get("photo"));
    return { photo: known ? values.get("photo") : this.photo ?? byId("photos").firstChild?.dataset.key, words };
  }

  fill(words) {
    for (const name of FIELDS) byId(`ask-${name}`).value = words[name];
  }

  /**
   * Asks about a photo with the words typed in, and shows the answer, in the state of the address if `addressed`. Of
   * several questions the last one counts.
   */
  async ask(photo, addressed = false) {
    if (!photo) return this.tell("Open or drop a photo first.", true);
    this.photo = photo;
    for (const button of byId("photos").children) button.setAttribute("aria-pressed", button.dataset.key === photo);
    const [classes, background] = FIELDS.map((name) => byId(`ask-${name}`).value);
    const answer = await this.send("explore", JSON.stringify({ photo, classes, background }), "Looking …");
    if (!answer) return;
    this.answered = { classes, background };
    const unknown = answer.unknown.map((word) => `“${word}”`).join(", ");
    this.notes = unknown && `The model’s vocabulary cannot spell ${unknown}; expect little of it.`;
    this.tell(this.notes);
    if (matchMedia("(max-width: 900px)").matches) byId("ask-fold").open = false; // the picture first
    await show(answer, addressed || !shown);
  }

  /** The answer to other words about the same photo; null after an error, which is shown, undefined after a newer question. */
  async answerTo(classes, background) {
    const question = { photo: this.photo, classes, background };
    const answer = await this.send("explore", JSON.stringify(question), "Looking …");
    if (answer) this.tell(this.notes);
    return answer;
  }

  /** Asks for the tokens and heads of a word in one layer. */
  async parts(word, layer) {
    const answer = await this.send("parts", JSON.stringify({ photo: this.photo, word, layer }), "Looking …");
    if (answer) this.tell(this.notes);
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

  /** Posts to the server; returns its answer, null after an error, which is shown, undefined after a newer question. */
  async send(address, body, meanwhile) {
    this.asked?.abort();
    const asked = (this.asked = new AbortController());
    this.tell(meanwhile);
    byId("ask").setAttribute("aria-busy", "true");
    let problem;
    try {
      const response = await fetch(address, { method: "POST", body, signal: asked.signal });
      const answer = await response.json();
      if (asked.signal.aborted) return undefined;
      if (response.ok) return answer;
      problem = answer.error;
    } catch {
      problem = "The server does not answer. Is it still running?";
    } finally {
      if (this.asked === asked) byId("ask").removeAttribute("aria-busy");
    }
    if (asked.signal.aborted) return undefined;
    this.tell(problem, true);
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
