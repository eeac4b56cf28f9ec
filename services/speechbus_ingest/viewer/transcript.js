/** Shows one stream: its finals in order of time, and below them what is not final yet. */

import { byId, clockTime, element, languageName } from "./elements.js";
import { Revisions } from "./revisions.js";
import { formatSpan, formatTime, timeElement } from "./times.js";

/** About three hours of speech; browsers lay this out without a noticeable pause. */
const ROWS_MAX = 2_000;

/** A stream has one open segment for each channel or speaker; more are left-overs. */
const PARTIALS_MAX = 16;

const MISSING_REASONS = {
  no_engine: (source, target) => `no engine for ${source ?? "an unknown language"}-${target}`,
  refused: () => "the engine did not take the text",
  unavailable: () => "no engine answered",
  undelivered: () => "the provider has not delivered it",
};

/** Translations that overtook their final: the finals follow within seconds. */
const EARLY_TRANSLATIONS_MAX = 200;

const GAP_REASONS = {
  audio_lost: "the audio was lost",
  lag: "skipped to catch up",
  provider: "no provider could transcribe it",
};

const END_REASONS = {
  client_gone: "the sender went away",
  end: "the sender finished",
  idle: "no audio came for too long",
  limit: "it reached its limit",
  no_provider: "no provider could carry on",
  source_lost: "its audio was lost",
};

/** The transcript of the selected stream. */
export class Transcript {
  #log = byId("log");
  #partialsBox = byId("partials");
  #hint = byId("hint");
  #trimmed = byId("trimmed");

  #streamId = "";
  #revisions = new Revisions();
  /** @type {{id: string, atMs: number, index: number, node: HTMLElement}[]} In order of time. */
  #rows = [];
  /** @type {Map<string, {index: number, node: HTMLElement}>} */
  #partials = new Map();
  /** @type {Map<string, Record<string, object>>} By segment, oldest first; then by language. */
  #early = new Map();
  #ending = element("p", "ending");
  #facts = {};
  #hasSnapshot = false;

  /** @returns {boolean} True when the stream has ended, so nothing more is to be expected. */
  get isClosed() {
    return this.#revisions.isClosed;
  }

  /**
   * Begin with an empty transcript.
   *
   * @param {string} streamId
   */
  show(streamId) {
    this.#streamId = streamId;
    this.#revisions = new Revisions();
    this.#rows = [];
    this.#partials.clear();
    this.#early.clear();
    this.#facts = {};
    this.#hasSnapshot = false;
    this.#ending.textContent = "";
    this.#partialsBox.replaceChildren();
    this.#trimmed.hidden = true;
    // Off until the snapshot is in: nobody wants the last hour read aloud.
    this.#log.setAttribute("aria-live", "off");
    this.#log.replaceChildren(this.#ending);
    this.#showFacts();
    this.#showHint("Loading…");
  }

  /** Say that the server has no such stream, or not for this key. */
  showUnavailable() {
    this.#showHint(
      "The server has no such stream. It may be older than what the server keeps, " +
        "or belong to another key.",
    );
  }

  /**
   * Take one event of the stream; those of unknown type change nothing.
   *
   * @param {{type: string}} event As it is on the bus.
   */
  take(event) {
    this.#handlers[event.type]?.(event);
  }

  #handlers = {
    "segment.final": (event) => this.#takeFinal(event),
    "segment.partial": (event) => this.#takePartial(event),
    "segment.retracted": (event) => this.#retract(event),
    "snapshot.end": () => this.#endSnapshot(),
    "stream.claimed": (event) => this.#takeClaim(event),
    "stream.closed": (event) => this.#close(event),
    "stream.lag": (event) => this.#noteFacts({ waitingMs: event.waiting_ms }),
    "stream.opened": (event) => this.#noteFacts(event),
    "translation.final": (event) => this.#takeTranslation(event),
    "translation.missing": (event) => this.#takeTranslation(event),
    "translation.partial": (event) => this.#takePartialTranslation(event),
    "turn.ended": () => this.#noteFacts({ isSpeaking: false }),
    "turn.started": () => this.#noteFacts({ isSpeaking: true }),
    gap: (event) => this.#takeGap(event),
  };

  #takePartial(event) {
    if (!this.#revisions.acceptsPartial(event)) return;
    const { transcription_id: id, index } = event;
    let partial = this.#partials.get(id);
    if (partial === undefined) {
      partial = { index, node: segmentNode("segment partial") };
      this.#partials.set(id, partial);
      const next = [...this.#partials.values()].filter((other) => other.index > index);
      next.sort((a, b) => a.index - b.index);
      this.#partialsBox.insertBefore(partial.node, next[0]?.node ?? null);
    }
    fillSegment(partial.node, event);
    if (this.#partials.size > PARTIALS_MAX) this.#removePartial(this.#partials.keys().next().value);
    this.#showHint("");
  }

  #takeFinal(event) {
    if (!this.#revisions.acceptsFinal(event)) return;
    const { transcription_id: id, index, start_ms: atMs } = event;
    this.#removePartial(id);
    const shown = this.#rows.find((row) => row.id === id);
    if (shown !== undefined) {
      shown.node.dataset.revision = String(event.revision);
      // They translate what it said before.
      for (const outdated of shown.node.querySelectorAll(".translation")) outdated.remove();
    }
    if (shown?.atMs === atMs) {
      fillSegment(shown.node, event);
      this.#showEarly(id, shown.node);
      return;
    }
    if (shown !== undefined) this.#removeRow(id);
    const node = shown?.node ?? segmentNode("segment final");
    fillSegment(node, event);
    node.dataset.id = id;
    node.dataset.revision = String(event.revision);
    this.#insertRow({ id, atMs, index, node });
    this.#showEarly(id, node);
  }

  #showEarly(id, node) {
    for (const early of Object.values(this.#early.get(id) ?? {})) showTranslation(node, early);
    this.#early.delete(id);
  }

  #takeTranslation(event) {
    const id = event.transcription_id;
    const row = this.#rows.find((candidate) => candidate.id === id);
    if (row !== undefined && event.revision <= Number(row.node.dataset.revision)) {
      showTranslation(row.node, event);
      return;
    }
    const known = this.#early.get(id)?.[event.language];
    if (known !== undefined && !counts(event, known)) return;
    this.#early.set(id, { ...this.#early.get(id), [event.language]: event });
    if (this.#early.size > EARLY_TRANSLATIONS_MAX) {
      this.#early.delete(this.#early.keys().next().value);
    }
  }

  #takePartialTranslation(event) {
    const partial = this.#partials.get(event.transcription_id);
    if (partial !== undefined && this.#revisions.acceptsPartialTranslation(event)) {
      putTranslation(partial.node, event, translatedText(event));
    }
  }

  #takeGap({ from_ms: fromMs, to_ms: toMs, reason }) {
    const id = `gap ${fromMs} ${toMs}`;
    if (this.#rows.some((row) => row.id === id)) return;
    const node = element("div", "segment gap");
    const why = GAP_REASONS[reason] ?? reason;
    const text = `No text for ${formatSpan(toMs - fromMs)}: ${why}.`;
    node.append(timeElement(fromMs), element("p", "gap-text", text));
    this.#insertRow({ id, atMs: fromMs, index: -1, node });
  }

  #takeClaim(event) {
    this.#revisions.claim(event.epoch);
    this.#noteFacts({ provider: event.provider, waitingMs: 0 });
  }

  #retract(event) {
    this.#revisions.retract(event);
    this.#removePartial(event.transcription_id);
    this.#removeRow(event.transcription_id);
    this.#early.delete(event.transcription_id);
  }

  #close({ reason, audio_ms: audioMs, finals, gap_ms: gapMs }) {
    this.#revisions.close();
    for (const id of [...this.#partials.keys()]) this.#removePartial(id);
    const missing = gapMs > 0 ? `, ${formatSpan(gapMs)} of it without text` : "";
    const segments = finals === 1 ? "1 segment" : `${finals} segments`;
    const why = END_REASONS[reason] ?? reason;
    const text = `Stream ended: ${why}. ${formatTime(audioMs)} of audio${missing}, ${segments}.`;
    if (this.#ending.textContent !== text) this.#ending.textContent = text;
    this.#noteFacts({ isSpeaking: false });
  }

  #endSnapshot() {
    this.#hasSnapshot = true;
    this.#showFacts();
    this.#showIdleHint();
    const shown = this.#revisions;
    // Browsers tell screen readers what was added when they have laid it out: at the next frame.
    // Announcing must begin after that one, or the whole snapshot would be read aloud.
    requestAnimationFrame(() => setTimeout(() => {
      if (this.#revisions === shown) this.#log.setAttribute("aria-live", "polite");
    }));
  }

  /** Put a row where its time belongs: nearly always at the end. */
  #insertRow(row) {
    let place = this.#rows.length;
    while (place > 0 && isBefore(row, this.#rows[place - 1])) place -= 1;
    if (place === 0 && this.#rows.length >= ROWS_MAX) {
      this.#revisions.forget(row.id); // a snapshot brings back what was left out before
      return;
    }
    this.#log.insertBefore(row.node, this.#rows[place]?.node ?? this.#ending);
    this.#rows.splice(place, 0, row);
    this.#showHint("");
    if (this.#rows.length > ROWS_MAX) this.#trim();
  }

  #trim() {
    const oldest = this.#rows.shift();
    oldest.node.remove();
    this.#revisions.forget(oldest.id);
    if (!this.#trimmed.hidden) return;
    const newest = ROWS_MAX.toLocaleString("en");
    this.#trimmed.replaceChildren(
      `Older segments are left out: this page keeps the newest ${newest}. All of them, as events: `,
      element("code", "", `GET /v1/streams/${this.#streamId}/events`),
    );
    this.#trimmed.hidden = false;
  }

  #removeRow(id) {
    const place = this.#rows.findIndex((row) => row.id === id);
    if (place < 0) return;
    this.#rows[place].node.remove();
    this.#rows.splice(place, 1);
  }

  #removePartial(id) {
    this.#partials.get(id)?.node.remove();
    this.#partials.delete(id);
  }

  #noteFacts(facts) {
    this.#facts = { ...this.#facts, ...facts };
    this.#showFacts();
    if (this.#hasSnapshot) this.#showIdleHint();
  }

  #showFacts() {
    const { language, opened_at: openedAt, provider, waitingMs } = this.#facts;
    const facts = [
      this.isClosed ? "Ended" : this.#hasSnapshot && "Live",
      language && languageName(language),
      openedAt && `opened ${clockTime(openedAt)}`,
      provider && `transcribed by ${provider}`,
      !this.isClosed && waitingMs > 0 && `${Math.round(waitingMs / 1000)} s behind`,
    ];
    byId("stream-facts").textContent = facts.filter(Boolean).join(" · ");
  }

  #showIdleHint() {
    if (this.#rows.length > 0 || this.#partials.size > 0) this.#showHint("");
    else if (this.isClosed) this.#showHint("No speech was recognized in this stream.");
    else if (this.#facts.isSpeaking) this.#showHint("Somebody is speaking…");
    else this.#showHint("Listening. Text appears here when somebody speaks.");
  }

  #showHint(text) {
    this.#hint.textContent = text;
    this.#hint.hidden = text === "";
  }
}

function isBefore(row, other) {
  return row.atMs === other.atMs ? row.index < other.index : row.atMs < other.atMs;
}

function segmentNode(className) {
  const node = element("div", className);
  const what = element("div", "what");
  const text = element("p", "text");
  text.dir = "auto"; // each segment reads in the direction of its own script
  what.append(text);
  if (className.includes("partial")) what.append(element("span", "badge", "partial"));
  node.append(timeElement(0), what);
  return node;
}

function fillSegment(node, { text, language, start_ms: startMs, speaker }) {
  const shownText = node.querySelector(".text");
  // "" says that the language is unknown; without it readers would assume the page's English.
  shownText.lang = language ?? "";
  if (shownText.textContent !== text) shownText.textContent = text;
  const shownTime = node.querySelector("time");
  const time = timeElement(startMs);
  if (shownTime.dateTime !== time.dateTime) shownTime.replaceWith(time);
  node.querySelector(".speaker")?.remove();
  if (speaker) shownText.before(element("p", "speaker", `Speaker ${speaker}`));
}

/** Whether a translation, or the word that there is none, counts more than the one that is known:
 * of one revision the first text counts, and a text more than none. */
function counts(event, known) {
  if (event.revision !== known.revision) return event.revision > known.revision;
  return event.type === "translation.final" && known.type === "translation.missing";
}

/** Show a final's translation, or why there is none; one of another text than is shown is left out. */
function showTranslation(node, event) {
  const { language, reason, revision, type } = event;
  if (revision !== Number(node.dataset.revision)) return;
  const shown = findTranslation(node, language);
  if (shown !== null && !counts(event, { revision, type: shown.dataset.type })) return;
  if (type === "translation.final") {
    putTranslation(node, event, translatedText(event));
    return;
  }
  const source = node.querySelector(".text").lang || null;
  const why = MISSING_REASONS[reason]?.(source, language) ?? reason;
  putTranslation(node, event, element("span", "missing", `No translation: ${why}.`));
}

function findTranslation(node, language) {
  const all = [...node.querySelectorAll(".translation")];
  return all.find((candidate) => candidate.dataset.language === language) ?? null;
}

function translatedText({ language, text }) {
  const words = element("span", "", text);
  words.lang = language;
  words.dir = "auto";
  return words;
}

function putTranslation(node, { language, type }, content) {
  const made = element("p", "translation");
  made.dataset.language = language;
  made.dataset.type = type;
  made.append(element("span", "badge", languageName(language)), " ", content);
  const shown = findTranslation(node, language);
  if (shown === null) node.querySelector(".what").append(made);
  else shown.replaceWith(made);
}
