/** Lists the streams: live ones, and below them those that have ended. */

import { byId, clockTime, element, languageName } from "./elements.js";

/** More buttons than a person reads; the newest are the ones looked for. */
const LIVE_MAX = 500;

/** Enough to find what was live a moment ago. */
const ENDED_MAX = 50;

/**
 * @typedef {object} Stream
 * @property {string} stream_id
 * @property {string} tenant
 * @property {string | null} language BCP 47 tag.
 * @property {number} opened_at ms since 1970.
 * @property {"live" | "closed"} state
 */

/** The list of streams, each a button that selects it. */
export class StreamList {
  #live = byId("live-streams");
  #ended = byId("ended-streams");
  #leftOut = byId("streams-left-out");
  /** @type {Map<string, {stream: Stream, item: HTMLElement}>} */
  #entries = new Map();
  #current = "";
  #onSelect;

  /** @param {(streamId: string) => void} onSelect Called when the reader picks a stream. */
  constructor(onSelect) {
    this.#onSelect = onSelect;
  }

  /** @returns {string | undefined} Id of the live stream that was opened last. */
  get newestLive() {
    return this.#live.querySelector("button")?.dataset.streamId;
  }

  /**
   * Show these streams and no others.
   *
   * @param {Stream[]} streams
   */
  replaceAll(streams) {
    const kept = new Set(streams.map((stream) => stream.stream_id));
    for (const [id, { item }] of this.#entries) {
      if (kept.has(id)) continue;
      item.remove();
      this.#entries.delete(id);
    }
    for (const stream of streams) this.#place(stream);
    this.#leftOut.hidden = true;
    this.#settle();
  }

  /** Add a stream that has just been opened. */
  open({ stream_id, tenant, language, opened_at }) {
    this.#place({ stream_id, tenant, language, opened_at, state: "live" });
    this.#settle();
  }

  /** Move a stream to those that have ended. */
  close({ stream_id: id }) {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    this.#place({ ...entry.stream, state: "closed" });
    this.#settle();
  }

  /**
   * Mark the stream that is shown.
   *
   * @param {string} streamId "" for none.
   */
  setCurrent(streamId) {
    this.#current = streamId;
    for (const { stream, item } of this.#entries.values()) this.#mark(stream, item);
    if (this.#ended.querySelector("[aria-current]")) byId("ended").open = true;
  }

  #place(stream) {
    const shown = this.#entries.get(stream.stream_id);
    // The end is the last word: an opening that was under way meanwhile changes nothing.
    if (shown?.stream.state === stream.state || shown?.stream.state === "closed") return;
    const item = shown?.item ?? this.#buildItem(stream);
    const hadFocus = item.contains(document.activeElement);
    this.#entries.set(stream.stream_id, { stream, item });
    item.querySelector(".stream-state").textContent = stream.state === "live" ? "Live" : "Ended";
    this.#mark(stream, item);
    const list = stream.state === "live" ? this.#live : this.#ended;
    const isOlder = (other) => Number(other.dataset.openedAt) < stream.opened_at;
    list.insertBefore(item, [...list.children].find(isOlder) ?? null);
    if (stream.state === "closed") this.#reveal(stream.stream_id === this.#current || hadFocus);
    if (hadFocus) item.querySelector("button").focus(); // moving an element takes focus away
  }

  #reveal(isOpen) {
    byId("ended").hidden = false;
    if (isOpen) byId("ended").open = true;
  }

  #buildItem(stream) {
    const item = element("li", "");
    const button = element("button", "stream");
    const facts = [
      stream.tenant,
      stream.language && languageName(stream.language),
      clockTime(stream.opened_at),
    ];
    button.type = "button";
    button.dataset.streamId = stream.stream_id;
    item.dataset.openedAt = String(stream.opened_at);
    button.append(
      element("span", "stream-id", stream.stream_id),
      " ",
      element("span", "stream-state"),
      " ",
      element("span", "stream-facts", facts.filter(Boolean).join(" · ")),
    );
    button.addEventListener("click", () => this.#onSelect(stream.stream_id));
    item.append(button);
    return item;
  }

  #mark(stream, item) {
    const button = item.querySelector("button");
    if (stream.stream_id === this.#current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }

  #settle() {
    const leftOut = this.#shorten(this.#live, LIVE_MAX) + this.#shorten(this.#ended, ENDED_MAX);
    if (leftOut > 0) {
      this.#leftOut.textContent =
        `Only the newest ${LIVE_MAX} live and ${ENDED_MAX} ended streams are listed.`;
      this.#leftOut.hidden = false;
    }
    byId("live-count").textContent = String(this.#live.childElementCount);
    byId("ended-count").textContent = String(this.#ended.childElementCount);
    byId("live-empty").hidden = this.#live.childElementCount > 0;
    byId("ended").hidden = this.#ended.childElementCount === 0;
  }

  #shorten(list, itemsMax) {
    let removed = 0;
    while (list.childElementCount > itemsMax) {
      const oldest = list.lastElementChild;
      this.#entries.delete(oldest.querySelector("button").dataset.streamId);
      oldest.remove();
      removed += 1;
    }
    return removed;
  }
}
