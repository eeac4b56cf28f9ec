/** Builds elements from plain text: nothing that came over the network is ever parsed as HTML. */

/**
 * Make an element.
 *
 * @param {string} tag
 * @param {string} className
 * @param {string} text Shown as it is; "" for none.
 * @returns {HTMLElement}
 */
export function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/**
 * Find an element of index.html.
 *
 * @param {string} id
 * @returns {HTMLElement}
 * @throws {Error} when index.html and the scripts are of different versions.
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`index.html has no #${id}`);
  return found;
}

/**
 * Name a language in words.
 *
 * @param {string} tag BCP 47.
 * @returns {string} Its English name; the tag itself when it has none.
 */
export function languageName(tag) {
  try {
    return new Intl.DisplayNames(["en"], { type: "language" }).of(tag) ?? tag;
  } catch {
    return tag; // providers also send tags that are not well-formed
  }
}

/**
 * Show an instant as the reader's wall clock, with the day when it is not today.
 *
 * @param {number} unixMs
 * @returns {string}
 */
export function clockTime(unixMs) {
  const at = new Date(unixMs);
  const time = { hour: "2-digit", minute: "2-digit" };
  const isToday = at.toDateString() === new Date().toDateString();
  return at.toLocaleString([], isToday ? time : { ...time, day: "numeric", month: "short" });
}
