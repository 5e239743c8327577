const setStatus = (text, isError) => {
  $("status").textContent = text;
  $("status").className = isError ? "wrong" : "";
};

let running = null; // AbortController of the current run
let redrawRequest = 0;
const redraw = () => {
  redrawRequest = redrawRequest || requestAnimationFrame(() => {
    redrawRequest = 0;
    draw();
  });
};

const events = async function* (body, signal) {
  const headers = { "content-type": "application/json" };
  if ($("key").value) headers.authorization = "Bearer " + $("key").value;
  const options = { method: "POST", headers, body: JSON.stringify(body), signal };
  const response = await fetch("/v1/chat/completions", options);
  if (response.status === 401) $("locked").hidden = false;
  if (!response.ok) throw new Error((await response.json()).error.message);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: {")) yield JSON.parse(part.slice(6));
  }
};

const decode = async (card, body, signal) => {
  for await (const event of events(body, signal)) {
    if (event.error) throw new Error(event.error.message);
    const draft = event.choices.length && event.choices[0].draft;
    if (!draft) continue;
    card.tails = new Set(card.trace.positions.slice(draft.end));
    grow(card, draft);
    redraw();
  }
  card.trace.live = false;
  redraw();
  return card.trace.frames.length;
};

const ratio = (first, second) => {
  if (first === second) return "as many";
  const times = Math.max(first, second) / Math.min(first, second);
  const digits = times >= 10 ? 0 : 1;
  return times.toFixed(digits) + "x " + (second < first ? "fewer" : "more");
};

const run = async () => {
  if (running) running.abort();
  const controller = new AbortController();
  running = controller;
  const names = [$("left").value.trim(), $("right").value.trim()];
  const length = Number($("length").value);
  const positions = [...Array(length).keys()];
  open(names.map(name => ({ name, positions, frames: [], tail: [], live: true })));
  document.body.classList.remove("idle");
  $("halt").hidden = false;
  setStatus("Decoding\u2026");
  draw();
  const body = {
    messages: [{ role: "user", content: $("prompt").value }],
    max_tokens: length,
    temperature: Number($("temperature").value),
    seed: 0,
    stream: true,
    draft: true,
  };
  const decodeCard = (card, i) => decode(card, { ...body, decoder: names[i] }, controller.signal);
  try {
    const [first, second] = await Promise.all(cards.map(decodeCard));
    const comparison = second + ", " + ratio(first, second);
    setStatus(names[0] + ": " + first + " forward passes. " + names[1] + ": " + comparison + ".");
  } catch (error) {
    controller.abort();
    const isStopped = error.name === "AbortError";
    if (running === controller) setStatus(isStopped ? "Stopped." : error.message, !isStopped);
  }
  if (running !== controller) return;
  running = null;
  $("halt").hidden = true;
  fit();
};

$("ask").addEventListener("submit", event => {
  event.preventDefault();
  run();
});
$("halt").addEventListener("click", () => running && running.abort());
$("prompt").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
document.body.classList.add("idle");
open(traces);
draw();
