// A page of Kotoba's page's kind: a secret from the own server, the browser's WebSocket with its
// subprotocols, 16 bit audio from a file. Knows nothing of Speechbus.
import { readFile } from "node:fs/promises";

const [sessionUrl, pcmPath] = process.argv.slice(2);
const secret = await (await fetch(sessionUrl)).text();
const socket = new WebSocket(process.env.KOTOBA_ASR_URL, [
  "realtime",
  `kotoba-insecure-api-key.${secret}`,
]);
const say = (message) => socket.send(JSON.stringify(message));

socket.onmessage = async ({ data }) => {
  const event = JSON.parse(data);
  switch (event.type) {
    case "transcription_session.created":
      say({
        type: "transcription_session.update",
        session: {
          input_audio_sample_rate: 24000,
          input_audio_transcription: { language: "en", target_language: "en" },
          turn_detection: { type: "server_vad" },
        },
      });
      break;
    case "transcription_session.updated": {
      const pcm = await readFile(pcmPath);
      for (let at = 0; at < pcm.length; at += 4800) {
        const audio = pcm.subarray(at, at + 4800).toString("base64");
        say({ type: "input_audio_buffer.append", audio });
      }
      say({ type: "input_audio_buffer.commit" });
      break;
    }
    case "conversation.item.input_audio_transcription.completed":
      console.log(event.transcript);
      break;
    case "input_audio_buffer.committed":
      console.log(socket.protocol);
      socket.close();
  }
};
socket.onerror = () => process.exit(1);
