// The server of Kotoba's page that hands out client secrets, told again: Node's own HTTP server in
// the place of Express, the same request. Knows nothing of Speechbus; Kotoba's address is its default.
import { createServer } from "node:http";

const url =
  process.env.KOTOBA_SESSIONS_URL ?? "https://api.kotobatech.ai/v1/realtime/transcription_sessions";

const server = createServer(async (req, res) => {
  const r = await fetch(url, {
    method: "POST",
    headers: {
      Authorization: `Bearer ${process.env.KOTOBA_API_KEY}`,
      "Content-Type": "application/json",
    },
    body: JSON.stringify({}),
  });
  const data = await r.json();
  res.end(data.client_secret.value);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
