/** Writes stream time for people: 0:05.3, 61 minutes and more as 1:01:00.0. */

import { element } from "./elements.js";

/**
 * Write a point of stream time.
 *
 * @param {number} ms Since the stream's first sample.
 * @returns {string} m:ss.t, or h:mm:ss.t from one hour on; cut off, not rounded, so that no
 *   segment seems to start after its first word.
 */
export function formatTime(ms) {
  const tenths = Math.floor(ms / 100);
  const seconds = String(Math.floor(tenths / 10) % 60).padStart(2, "0");
  const minutes = Math.floor(tenths / 600);
  const clock = `${seconds}.${tenths % 10}`;
  if (minutes < 60) return `${minutes}:${clock}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${clock}`;
}

/**
 * Write a length of time.
 *
 * @param {number} ms
 * @returns {string} Seconds with one decimal below a minute, else as `formatTime`.
 */
export function formatSpan(ms) {
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : formatTime(ms);
}

/**
 * Make a time element of a point of stream time.
 *
 * @param {number} ms Since the stream's first sample.
 * @returns {HTMLElement}
 */
export function timeElement(ms) {
  const made = element("time", "", formatTime(ms));
  made.setAttribute("datetime", `PT${(ms / 1000).toFixed(1)}S`);
  return made;
}
