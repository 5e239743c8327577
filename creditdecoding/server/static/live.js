const tell = (text, wrong) => {
  $("status").textContent = text;
  $("status").className = wrong ? "wrong" : "";
};
let running = null, wanted = 0;
const redraw = () => { wanted = wanted || requestAnimationFrame(() => { wanted = 0; draw(); }); };

const events = async function* (body, signal) {
  const headers = { "content-type": "application/json" };
  if ($("key").value) headers.authorization = "Bearer " + $("key").value;
  const response = await fetch("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (response.status === 401) $("locked").hidden = false;
  if (!response.ok) throw new Error((await response.json()).error.message);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
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

const run = async () => {
  if (running) running.abort();
  const mine = running = new AbortController(), names = [$("left").value.trim(), $("right").value.trim()], length = Number($("length").value);
  open(names.map(name => ({ name, positions: [...Array(length).keys()], frames: [], tail: [], live: true })));
  document.body.classList.remove("idle");
  $("halt").hidden = false;
  tell("Decoding\u2026");
  draw();
  const body = {
    messages: [{ role: "user", content: $("prompt").value }], max_tokens: length, temperature: Number($("temperature").value), seed: 0,
    stream: true, draft: true,
  };
  try {
    const passes = await Promise.all(cards.map((card, i) => decode(card, { ...body, decoder: names[i] }, mine.signal)));
    const times = passes[0] / passes[1];
    tell(names[0] + ": " + passes[0] + " forward passes. " + names[1] + ": " + passes[1] + ", " + (times >= 10 ? times.toFixed(0) : times.toFixed(1)) + "x fewer.");
  } catch (error) {
    mine.abort();
    if (running === mine) tell(error.name === "AbortError" ? "Stopped." : error.message, error.name !== "AbortError");
  }
  if (running !== mine) return;
  running = null;
  $("halt").hidden = true;
  fit();
};

$("ask").addEventListener("submit", event => { event.preventDefault(); run(); });
$("halt").addEventListener("click", () => running && running.abort());
$("prompt").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("ask").requestSubmit(); }
});
document.body.classList.add("idle");
open(traces);
draw();
