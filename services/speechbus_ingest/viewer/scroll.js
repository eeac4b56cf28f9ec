/** Keeps the newest line in view while the reader is at the end, and only then. */

import { byId } from "./elements.js";

/** About two lines: a reader this close to the end means to be there. */
const END_SLACK_PX = 48;

/** Follows the end of the transcript, and offers the way back to it. */
export class EndFollower {
  #scroller = byId("scroller");
  #jump = byId("jump");
  #isFollowing = true;
  #lastTop = 0;

  constructor() {
    this.#scroller.addEventListener("scroll", () => this.#noteScroll(), { passive: true });
    this.#jump.addEventListener("click", () => {
      this.follow();
      this.#scroller.focus(); // the button disappears, and focus must not fall to the page
    });
    const grown = new ResizeObserver(() => this.#settle());
    grown.observe(this.#scroller);
    grown.observe(byId("content"));
  }

  /** Go to the end and stay there. */
  follow() {
    this.#isFollowing = true;
    this.#settle();
  }

  /** @param {boolean} isLive Whether the end of the transcript is now. */
  nameEnd(isLive) {
    this.#jump.textContent = isLive ? "Jump to live" : "Jump to the end";
  }

  #noteScroll() {
    // Text that grew since our own scroll also makes a distance: only moving up is the reader's.
    const movedUp = this.#scroller.scrollTop < this.#lastTop - 1;
    this.#lastTop = this.#scroller.scrollTop;
    if (this.#isNearEnd()) this.#isFollowing = true;
    else if (movedUp) this.#isFollowing = false;
    this.#jump.hidden = this.#isFollowing;
  }

  #settle() {
    if (this.#isFollowing) {
      this.#scroller.scrollTop = this.#scroller.scrollHeight;
      this.#lastTop = this.#scroller.scrollTop;
    }
    this.#jump.hidden = this.#isFollowing;
  }

  #isNearEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight <= END_SLACK_PX;
  }
}
