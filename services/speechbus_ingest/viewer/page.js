/** Joins the parts of the page: the key, the selection, and the two feeds from the server. */

import { byId } from "./elements.js";
import { follow, StatusError } from "./feed.js";
import { EndFollower } from "./scroll.js";
import { StreamList } from "./streams.js";
import { Transcript } from "./transcript.js";

const KEY_ITEM = "speechbus.key";

const CONNECTION_TEXTS = {
  connecting: "Connecting…",
  lost: "Connection lost. Trying again…",
  open: "Connected",
  refused: "Key needed",
};

/** Worst first: the page shows the worst of its two connections. */
const CONNECTION_ORDER = ["refused", "lost", "connecting", "open"];

const list = new StreamList((streamId) => {
  location.hash = new URLSearchParams({ stream: streamId }).toString();
  // The hash may already name it, and then no event follows.
  select(streamId);
});
const transcript = new Transcript();
const end = new EndFollower();

let key = takeKey();
let selected = "";
let listFeed = new AbortController();
let transcriptFeed = new AbortController();
const connections = { list: "connecting", transcript: "open" };

/**
 * Take the key from the address, which then no longer shows it, or from this tab's last visit.
 *
 * The tab remembers it so that a reload does not ask again.
 *
 * @returns {string} "" when there is none.
 */
function takeKey() {
  const address = new URL(location.href);
  const given = address.searchParams.get("token");
  if (given === null) return remembered();
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
  remember(given);
  return given;
}

function remembered() {
  try {
    return sessionStorage.getItem(KEY_ITEM) ?? "";
  } catch {
    return ""; // storage is blocked in this browser: the key lives until the next reload
  }
}

function remember(value) {
  try {
    sessionStorage.setItem(KEY_ITEM, value);
  } catch {
    // As above.
  }
}

/** Address of the server this page came from, with the key when there is one. */
function apiUrl(path) {
  const url = new URL(path, document.baseURI);
  if (key) url.searchParams.set("token", key);
  return url;
}

function streamIdOfAddress() {
  return new URLSearchParams(location.hash.slice(1)).get("stream") ?? "";
}

function showConnection(changes) {
  Object.assign(connections, changes);
  const states = Object.values(connections);
  const worst = CONNECTION_ORDER.find((state) => states.includes(state));
  const shown = byId("connection");
  if (shown.dataset.state === worst) return; // said once is enough for a screen reader
  shown.dataset.state = worst;
  shown.textContent = CONNECTION_TEXTS[worst];
}

function showPanel(id) {
  for (const panel of ["key-panel", "welcome", "transcript"]) byId(panel).hidden = panel !== id;
  byId("streams").hidden = id === "key-panel"; // without a key, "none" would be a wrong answer
}

async function followList() {
  listFeed.abort();
  if (document.hidden) return; // see the listener for visibilitychange
  listFeed = new AbortController();
  const { signal } = listFeed;
  showConnection({ list: "connecting" });
  const outcome = await follow(
    apiUrl("v1/streams/events"),
    {
      // The feed is open before the list is read, so no stream falls between the two.
      onOpen: async () => {
        const response = await fetch(apiUrl("v1/streams"), { cache: "no-store", signal });
        if (!response.ok) throw new StatusError(response.status);
        const { streams } = await response.json();
        list.replaceAll(streams);
        list.setCurrent(selected);
        showConnection({ list: "open" });
        selectNewest();
      },
      onEvent: (event) => {
        if (event.type === "stream.opened") list.open(event);
        if (event.type === "stream.closed") list.close(event);
        selectNewest();
      },
      onLost: () => showConnection({ list: "lost" }),
      isComplete: () => false,
    },
    signal,
  );
  if (outcome === "refused" || outcome === "unavailable") askForKey();
}

async function followTranscript() {
  transcriptFeed.abort();
  if (document.hidden) return;
  transcriptFeed = new AbortController();
  const { signal } = transcriptFeed;
  showConnection({ transcript: "connecting" });
  const outcome = await follow(
    apiUrl(`v1/streams/${encodeURIComponent(selected)}/events`),
    {
      onOpen: () => showConnection({ transcript: "open" }),
      onEvent: (event) => {
        transcript.take(event);
        if (event.type === "stream.closed") end.nameEnd(false);
      },
      onLost: () => showConnection({ transcript: "lost" }),
      isComplete: () => transcript.isClosed,
    },
    signal,
  );
  if (outcome === "stopped") return;
  if (outcome === "refused") askForKey();
  if (outcome === "unavailable") transcript.showUnavailable();
  if (outcome !== "refused") showConnection({ transcript: "open" });
}

function select(streamId) {
  if (streamId === selected) return;
  selected = streamId;
  list.setCurrent(streamId);
  if (streamId === "") {
    transcriptFeed.abort();
    showConnection({ transcript: "open" });
    document.title = "Speechbus";
    showPanel("welcome");
    return;
  }
  const link = byId("permalink");
  link.textContent = streamId;
  link.href = `#${new URLSearchParams({ stream: streamId })}`;
  document.title = `${streamId} · Speechbus`;
  byId("announcement").textContent = `Showing stream ${streamId}`;
  transcript.show(streamId);
  showPanel("transcript");
  end.nameEnd(true);
  end.follow();
  void followTranscript();
}

/** Show the newest live stream when the reader has chosen none. */
function selectNewest() {
  if (selected !== "") return;
  const newest = list.newestLive;
  if (newest !== undefined) {
    select(newest);
    return;
  }
  byId("welcome-heading").textContent = "Waiting for a live stream";
  byId("welcome-help").hidden = false;
}

function askForKey() {
  listFeed.abort();
  transcriptFeed.abort();
  const wasRefused = key !== "";
  const input = byId("key");
  remember(""); // a reload then asks without blaming the reader
  showConnection({ list: "refused" });
  showPanel("key-panel");
  byId("key-problem").textContent = wasRefused ? "The server does not accept this key." : "";
  input.setAttribute("aria-invalid", String(wasRefused));
  input.value = "";
  input.focus();
}

/** Open both connections anew; in a hidden tab, end them. */
function start() {
  void followList();
  if (selected !== "") void followTranscript();
}

byId("key-form").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  key = byId("key").value.trim();
  remember(key);
  showPanel(selected === "" ? "welcome" : "transcript");
  start();
});

byId("skip").addEventListener("click", (clicked) => {
  clicked.preventDefault(); // following the link would take the stream out of the address
  const target = byId("transcript").hidden ? "main" : "transcript-heading";
  byId(target).focus();
});

window.addEventListener("hashchange", () => {
  select(streamIdOfAddress());
  selectNewest();
});

// A browser opens at most six connections to one HTTP/1.1 server, for all its tabs together:
// a tab that nobody sees gives its two back, or the fourth tab would never load.
document.addEventListener("visibilitychange", () => {
  if (connections.list === "refused") return;
  start();
});

select(streamIdOfAddress());
void followList();
