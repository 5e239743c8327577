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

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const decode = async (card, body, signal) => {
  const began = performance.now();
  let text = "";
  for await (const event of events(body, signal)) {
    if (event.error) throw new Error(event.error.message);
    if (!event.choices.length) continue;
    text += event.choices[0].delta.content || "";
    const draft = event.choices[0].draft;
    if (!draft) continue;
    card.tails = new Set(card.trace.positions.slice(draft.end));
    grow(card, draft);
    card.trace.seconds = (performance.now() - began) / 1000;
    if (!calm.matches) redraw();
  }
  card.trace.live = false;
  redraw();
  return { name: card.trace.name, passes: card.trace.frames.length, seconds: card.trace.seconds, text };
};

const ratio = (first, second, fewer, more) => {
  if (first === second) return "as many";
  const times = Math.max(first, second) / Math.min(first, second);
  const digits = times >= 10 ? 0 : 1;
  return times.toFixed(digits) + " times " + (second < first ? fewer : more);
};
const agreement = (first, second) => {
  if (first === second) return "Both wrote the same text.";
  let same = 0;
  while (first[same] === second[same]) same++;
  return "The texts differ from character " + (same + 1) + " on.";
};
const summary = (first, second) => {
  const counts = [first, second].map(
    run => run.name + ": " + run.passes + " " + plural(run.passes, "pass", "passes") + ", " + run.seconds.toFixed(2) + " s");
  const passes = ratio(first.passes, second.passes, "fewer", "more");
  return counts.join(". ") + ", " + passes + " passes. " + agreement(first.text, second.text);
};

const sides = ["left", "right"];
const specOf = side => {
  const settings = $(side + "-settings").value.trim();
  return $(side).value + (settings ? ":" + settings : "");
};
const labelOf = side => {
  const settings = $(side + "-settings").value.trim().replace(/\bthreshold=/, "").replaceAll("=", " ").replaceAll(",", ", ");
  if ($(side).value === "fixed" && settings.startsWith("k ")) return settings.slice(2) + " tokens a pass";
  return $(side).selectedOptions[0].text + (settings ? " " + settings : "");
};
const describeRule = side => { $(side + "-line").textContent = $(side).selectedOptions[0].dataset.line; };
const chooseRule = (side, name, settings) => {
  $(side).value = name;
  $(side + "-settings").value = settings === undefined ? $(side).selectedOptions[0].dataset.settings : settings;
  describeRule(side);
};

const request = side => ({
  messages: [{ role: "user", content: $("prompt").value }],
  decoder: specOf(side),
  max_tokens: Number($("length").value),
  temperature: Number($("temperature").value),
  seed: 0,
});
const inShell = text => "'" + text.replaceAll("'", "'\\''") + "'";
const shareRun = () => {
  const run = new URLSearchParams({ q: $("prompt").value, length: $("length").value, temperature: $("temperature").value });
  sides.forEach(side => run.set(side, specOf(side)));
  history.replaceState(null, "", "#" + run);
  $("link").href = location.href;
  const key = $("key").value ? ' -H "authorization: Bearer $CREDIT_API_KEY"' : "";
  $("curl").textContent = "curl -s " + location.origin + "/v1/chat/completions" + key
    + " -H 'content-type: application/json' -d " + inShell(JSON.stringify(request("right")));
};
const readLink = () => {
  const run = new URLSearchParams(location.hash.slice(1));
  if (!run.has("q")) return;
  $("prompt").value = run.get("q");
  for (const name of ["length", "temperature"]) if (run.has(name)) $(name).value = run.get(name);
  for (const side of sides) {
    const [name, ...settings] = (run.get(side) || "").split(":");
    if ([...$(side).options].some(option => option.value === name)) chooseRule(side, name, settings.join(":"));
  }
};

// After an early end the positions that were never predicted are no part of the answer.
const showDecoded = () => {
  const traces = cards.map(card => {
    const seen = card.film[card.film.length - 1].filter(cell => cell.block !== undefined).length;
    const frames = card.trace.frames.map(frame => ({ ...frame, cells: frame.cells.filter(cell => cell.index < seen) }));
    const tail = [...card.tails].filter(index => index < seen);
    return { ...card.trace, frames, tail, positions: card.trace.positions.slice(0, seen) };
  });
  open(traces);
  now = longest;
};

const run = async () => {
  if (running) running.abort();
  const controller = new AbortController();
  running = controller;
  const positions = [...Array(Number($("length").value)).keys()];
  const specs = sides.map(request);
  open(sides.map(side => ({ name: labelOf(side), positions, frames: [], tail: [], live: true, seconds: 0 })));
  document.body.classList.remove("idle");
  $("halt").hidden = false;
  setStatus("Decoding\u2026");
  shareRun();
  draw();
  const decodeCard = (card, i) => decode(card, { ...specs[i], stream: true, draft: true }, controller.signal);
  try {
    const done = await Promise.all(cards.map(decodeCard));
    showDecoded();
    setStatus(summary(...done));
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

const copy = async part => {
  const text = part === "link" ? $("link").href : $("curl").textContent;
  try {
    await navigator.clipboard.writeText(text);
    setStatus("Copied.");
  } catch {
    getSelection().selectAllChildren($(part));
    setStatus("Selected; copy it by Ctrl+C.");
  }
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
document.querySelectorAll("[data-question]").forEach(button => button.addEventListener("click", () => {
  $("prompt").value = button.dataset.question;
  $("ask").requestSubmit();
}));
document.querySelectorAll("[data-copy]").forEach(button => button.addEventListener("click", () => copy(button.dataset.copy)));
sides.forEach(side => {
  chooseRule(side, $(side).value);
  $(side).addEventListener("change", () => chooseRule(side, $(side).value));
});
addEventListener("hashchange", () => { readLink(); $("ask").requestSubmit(); });
document.body.classList.add("idle");
open(traces);
draw();
readLink();
$("ask").requestSubmit(); // something to see at once
