/** Follows one server-sent event feed, across lost connections, for as long as it is wanted.
 *
 * fetch and not EventSource: EventSource hides the status code, and 401 must lead to the key field.
 */

/** Short enough that a restart of the server is hardly noticed. */
const RETRY_MIN_MS = 500;

/** Long enough that a thousand open pages do not hinder a server that is coming back. */
const RETRY_MAX_MS = 10_000;

/** A connection that lasted this long was good: the next retry is quick again. */
const STEADY_MS = 5_000;

/** Silence of a server that sends comments as heartbeats: a sleeping laptop gets no other sign. */
const SILENCE_MAX_MS = 45_000;

/** Characters of one event. The bus carries no message above 1 MiB, so more is not an event. */
const EVENT_CHARS_MAX = 1_048_576;

const UNAVAILABLE = [403, 404, 410];

/**
 * @typedef {object} FeedHandlers
 * @property {() => void | Promise<void>} onOpen The server accepted; events follow once it is done.
 * @property {(event: {type: string}) => void} onEvent One event, in order.
 * @property {() => void} onLost The connection failed or ended; a retry follows by itself.
 * @property {() => boolean} isComplete True when nothing can follow: the feed then ends at the
 *   server's word, without a retry.
 */

/** A request for anything but the feed failed with this status. */
export class StatusError extends Error {
  /** @param {number} status HTTP status. */
  constructor(status) {
    super(`status ${status}`);
    this.status = status;
  }
}

/**
 * Read a feed and reconnect until it is over. Never throws.
 *
 * @param {URL} url
 * @param {FeedHandlers} handlers
 * @param {AbortSignal} signal Ends it.
 * @returns {Promise<"stopped" | "complete" | "refused" | "unavailable">} Refused: the key is
 *   missing or wrong. Unavailable: this key may not read it, or it does not exist.
 */
export async function follow(url, handlers, signal) {
  let retryMs = RETRY_MIN_MS;
  while (!signal.aborted) {
    const startedMs = performance.now();
    const status = await readOnce(url, handlers, signal);
    if (signal.aborted) break;
    if (status === 401) return "refused";
    if (UNAVAILABLE.includes(status)) return "unavailable";
    if (handlers.isComplete()) return "complete";
    handlers.onLost();
    if (performance.now() - startedMs >= STEADY_MS) retryMs = RETRY_MIN_MS;
    await pause(retryMs * (0.5 + Math.random() / 2), signal);
    retryMs = Math.min(retryMs * 2, RETRY_MAX_MS);
  }
  return "stopped";
}

/** Resolve to the status with which one connection began or failed; 0 when there was none. */
async function readOnce(url, handlers, signal) {
  const attempt = new AbortController();
  const stop = () => attempt.abort();
  signal.addEventListener("abort", stop);
  const silence = new Silence(stop);
  try {
    const response = await fetch(url, {
      headers: { accept: "text/event-stream" },
      cache: "no-store",
      signal: attempt.signal,
    });
    if (!response.ok || response.body === null) return response.status;
    await handlers.onOpen();
    await readEvents(response.body, handlers.onEvent, silence);
    return response.status;
  } catch (error) {
    return error instanceof StatusError ? error.status : 0;
  } finally {
    signal.removeEventListener("abort", stop);
    silence.end();
    attempt.abort(); // frees the connection when reading stopped before the server did
  }
}

/** Notices when a server that used to send heartbeats has gone quiet. */
class Silence {
  #timer = 0;
  #hasHeartbeats = false;

  constructor(onSilence) {
    this.onSilence = onSilence;
  }

  heartbeat() {
    this.#hasHeartbeats = true;
  }

  heard() {
    clearTimeout(this.#timer);
    if (this.#hasHeartbeats) this.#timer = setTimeout(this.onSilence, SILENCE_MAX_MS);
  }

  end() {
    clearTimeout(this.#timer);
  }
}

async function readEvents(body, onEvent, silence) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let fields = [];
  let fieldChars = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    // A carriage return at the very end may be the first half of a line end: it waits in `rest`.
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") {
        deliver(fields, onEvent);
        fields = [];
        fieldChars = 0;
      } else if (line.startsWith(":")) {
        silence.heartbeat();
      } else {
        fields.push(parseField(line));
        fieldChars += line.length;
      }
    }
    silence.heard();
    if (fieldChars + rest.length > EVENT_CHARS_MAX) throw new RangeError("event too long");
  }
}

/** Split "name: value"; a line without a colon is a name. */
function parseField(line) {
  const colon = line.indexOf(":");
  if (colon < 0) return [line, ""];
  const value = line.slice(colon + 1);
  return [line.slice(0, colon), value.startsWith(" ") ? value.slice(1) : value];
}

function deliver(fields, onEvent) {
  const name = fields.findLast(([field]) => field === "event")?.[1];
  const data = fields.filter(([field]) => field === "data").map(([, value]) => value);
  if (name === undefined && data.length === 0) return;
  let event;
  try {
    event = JSON.parse(data.join("\n") || "{}");
  } catch {
    return; // one event that cannot be read must not hide those after it
  }
  if (typeof event !== "object" || event === null) return;
  try {
    onEvent({ ...event, type: name ?? event.type });
  } catch (error) {
    reportError(error); // a bug of this page: shown in the console, and not a lost connection
  }
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}
