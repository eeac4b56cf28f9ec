/** Decides which event of a segment counts, whatever the order and number in which they come.
 *
 * A reconnect repeats everything that is stored, and a worker that lost its stream may still speak
 * for a moment; both must leave the page as it is.
 */

/** As many as the page shows: a retraction further back than that finds nothing to guard. */
const RETRACTED_MAX = 2_000;

/** The newest accepted event of each segment of one stream. */
export class Revisions {
  #epoch = 0;
  #isClosed = false;
  /** @type {Map<string, number>} Revision of each final that is shown. */
  #finals = new Map();
  /** @type {Map<string, {epoch: number, revision: number}>} */
  #partials = new Map();
  /** @type {Map<string, {epoch: number, revision: number}>} By segment and language. */
  #translations = new Map();
  /** @type {Map<string, number>} Epoch that retracted the segment, oldest first. */
  #retracted = new Map();

  /** @returns {boolean} True after the stream's last event. */
  get isClosed() {
    return this.#isClosed;
  }

  /** Note who owns the stream; partials of earlier owners no longer count. */
  claim(epoch) {
    this.#epoch = Math.max(this.#epoch, epoch);
  }

  /** Note the end of the stream: what is not final by now never will be. */
  close() {
    this.#isClosed = true;
    this.#partials.clear();
    this.#translations.clear();
  }

  /** @returns {boolean} True when this partial is to be shown. */
  acceptsPartial({ transcription_id: id, epoch, revision }) {
    if (this.#isClosed || epoch < this.#epoch) return false;
    if (this.#finals.has(id) || this.#isRetracted(id, epoch)) return false;
    const shown = this.#partials.get(id);
    if (shown !== undefined && epoch === shown.epoch && revision <= shown.revision) return false;
    this.claim(epoch); // an owner's word proves its claim, should that event come later
    this.#partials.set(id, { epoch, revision });
    return true;
  }

  /** @returns {boolean} True when this translation of a shown partial is newer than the last. */
  acceptsPartialTranslation({ transcription_id: id, language, epoch, revision }) {
    if (!this.#partials.has(id) || epoch < this.#epoch) return false;
    const shown = this.#translations.get(id)?.get(language);
    const isOld = shown !== undefined && epoch === shown.epoch && revision <= shown.revision;
    if (isOld || epoch < shown?.epoch) return false;
    if (!this.#translations.has(id)) this.#translations.set(id, new Map());
    this.#translations.get(id).set(language, { epoch, revision });
    return true;
  }

  /** @returns {boolean} True when this final is to be shown, new or as a correction. */
  acceptsFinal({ transcription_id: id, epoch, revision }) {
    const shown = this.#finals.get(id);
    if (this.#isRetracted(id, epoch) || (shown !== undefined && revision <= shown)) return false;
    this.claim(epoch);
    this.#dropPartial(id);
    this.#finals.set(id, revision);
    return true;
  }

  /** Note that a segment is withdrawn; its partials that are still under way are refused. */
  retract({ transcription_id: id, epoch }) {
    this.forget(id);
    this.#retracted.delete(id);
    this.#retracted.set(id, epoch);
    if (this.#retracted.size > RETRACTED_MAX) {
      this.#retracted.delete(this.#retracted.keys().next().value);
    }
  }

  /** Free the memory of a segment that is no longer shown. */
  forget(id) {
    this.#finals.delete(id);
    this.#dropPartial(id);
  }

  #dropPartial(id) {
    this.#partials.delete(id);
    this.#translations.delete(id);
  }

  #isRetracted(id, epoch) {
    const retractedBy = this.#retracted.get(id);
    return retractedBy !== undefined && epoch <= retractedBy;
  }
}
