"use strict";
const { ramps, traces } = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id), tip = $("tip"), slider = $("slider"), dark = matchMedia("(prefers-color-scheme: dark)");
const make = (parent, tag, kind, text) => {
  const node = parent.appendChild(document.createElement(tag));
  if (kind) node.className = kind;
  if (text) node.textContent = text;
  return node;
};
const channels = colour => [1, 3, 5].map(start => parseInt(colour.slice(start, start + 2), 16));
const shade = (ramp, value, alpha) => {
  const scaled = Math.min(Math.max(value, 0), 1) * (ramp.length - 1), low = Math.min(Math.floor(scaled), ramp.length - 2);
  const from = channels(ramp[low]), to = channels(ramp[low + 1]);
  return "rgba(" + from.map((x, i) => Math.round(x + (to[i] - x) * (scaled - low))).join(",") + "," + alpha + ")";
};
let cards = [], longest = 0, most = 0, now = 0, timer = 0;
const fold = (film, frame) => {
  const cells = film[film.length - 1].slice();
  for (const cell of frame.cells) {
    cells[cell.index] = cell;
    most = Math.max(most, cell.credit || 0);
  }
  film.push(cells);
};

const round = value => value.toFixed(3).replace(/0$/, "");
const quoted = text => "“" + text.replace(/\n/g, "↵") + "”";
const describe = (cell, tail) => {
  const reason = cell.block === undefined ? "not predicted yet" : "taken back in this pass";
  if (cell.text === undefined && cell.confidence === undefined) return "mask, " + reason;
  const lines = [quoted(cell.text || "") + (tail ? " after the end" : ""), "confidence " + round(cell.confidence)];
  if (cell.credit !== undefined) lines.push("credit " + round(cell.credit));
  lines.push(cell.commit ? "written in pass " + cell.commit : "candidate, still masked");
  return lines.join("\n");
};
const show = (text, x, y) => {
  tip.textContent = text;
  tip.hidden = false;
  tip.style.left = "0";
  const box = tip.getBoundingClientRect(), room = document.documentElement.clientWidth - box.width - 8;
  tip.style.left = Math.max(8, Math.min(x - box.width / 2, room)) + "px";
  tip.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 14 : y + 18) + "px";
};
const hide = () => { tip.hidden = true; };

const plural = (number, one, many = one + "s") => number === 1 ? one : many;
const build = (trace, t) => {
  const article = make($("traces"), "article"), head = make(article, "div", "head"), title = make(head, "h2", "", trace.name);
  title.id = "name" + t;
  article.setAttribute("aria-labelledby", title.id);
  const nfe = make(head, "div", "nfe");
  const count = make(nfe, "span");
  const passes = make(nfe, "small");
  passes.title = "forward passes of the network; papers say NFE";
  const sub = make(article, "div", "sub"), tokens = make(sub, "span"), where = make(sub, "span");
  const text = make(article, "div", "text"), axis = make(article, "div", "axis"), map = make(article, "canvas");
  const scale = make(axis, "span", "");
  make(axis, "span", "", "confidence");
  text.setAttribute("role", "list");
  text.setAttribute("aria-label", "Answer of " + trace.name);
  map.setAttribute("role", "img");
  map.setAttribute("aria-label", "Confidence by pass and position of " + trace.name + ": a row a pass");
  const film = [trace.positions.map(() => ({ state: "masked" }))];
  const card = { trace, film, scale, count, passes, tokens, where, text, map, tails: new Set(trace.tail) };
  trace.frames.forEach(frame => fold(film, frame));
  const parts = trace.positions.map((position, i) => {
    if (i && position !== trace.positions[i - 1] + 1) make(text, "span", "tail", " … ").setAttribute("role", "listitem");
    const part = make(text, "span");
    part.setAttribute("role", "listitem");
    part.tabIndex = i ? -1 : 0;
    const showTip = () => { const box = part.getBoundingClientRect(); show(part.dataset.tip, box.left + box.width / 2, box.bottom - 10); };
    part.addEventListener("pointerenter", showTip);
    part.addEventListener("click", showTip);
    part.addEventListener("focus", showTip);
    part.addEventListener("pointerleave", hide);
    part.addEventListener("blur", hide);
    part.addEventListener("keydown", event => {
      const next = parts[i + ({ ArrowLeft: -1, ArrowRight: 1 }[event.key] || 0)];
      if (!/^Arrow(Left|Right)$/.test(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      if (next) { part.tabIndex = -1; next.tabIndex = 0; next.focus(); }
    });
    return part;
  });
  const cellAt = event => {
    const box = map.getBoundingClientRect(), pass = 1 + Math.floor((event.clientY - box.top) / box.height * trace.frames.length);
    const column = Math.floor((event.clientX - box.left) / box.width * parts.length);
    return { pass: Math.min(Math.max(pass, 1), trace.frames.length), column: Math.min(Math.max(column, 0), parts.length - 1) };
  };
  map.addEventListener("click", event => go(cellAt(event).pass));
  map.addEventListener("pointermove", event => {
    const { pass, column } = cellAt(event);
    const head = "pass " + pass + ", position " + (trace.positions[column] + 1);
    show(head + "\n" + describe(film[pass][column], card.tails.has(column)), event.clientX, event.clientY);
  });
  map.addEventListener("pointerleave", hide);
  return Object.assign(card, { parts });
};

const drawPart = (part, cell, tail) => {
  const predicted = cell.confidence !== undefined, written = cell.state !== "masked";
  part.className = !predicted ? "unasked" : "token" + (written ? "" : " candidate") + (cell.state === "now" ? " now" : "") + (tail ? " tail" : "");
  part.textContent = !predicted ? "" : tail ? "∎" : (cell.text || "·").replace(/\n/g, "↵\n");
  part.dataset.tip = describe(cell, tail);
  part.setAttribute("aria-label", part.dataset.tip.replace(/\n/g, ", "));
  const bar = predicted && cell.credit && most ? .5 + 4.5 * cell.credit / most : 0;
  const alpha = (dark.matches ? .38 : .24) + .2 * (1 - cell.confidence);
  part.style.backgroundColor = predicted && written && !tail ? shade(ramps.ink, cell.confidence, alpha) : "";
  part.style.backgroundImage = bar ? "linear-gradient(var(--credit), var(--credit))" : "none";
  part.style.backgroundSize = "100% " + bar + "px";
};
const drawText = (card, pass) => card.film[pass].forEach((cell, i) => drawPart(card.parts[i], cell, card.tails.has(i)));
// A row is tall enough to be seen in a short map, and a long map fits the screen.
const rowHeight = rows => Math.max(1, Math.min(14, 260 / rows));
const drawMap = (card, pass) => {
  const rows = card.trace.frames.length, columns = card.parts.length, high = rowHeight(rows), sharp = devicePixelRatio || 1;
  const map = card.map, wide = map.clientWidth, pen = map.getContext("2d"), across = wide / columns, gap = high > 5 && across > 4 ? 1 : 0;
  card.scale.textContent = rows + " " + plural(rows, "pass", "passes") + " ↓  " + columns + " positions →";
  map.style.height = rows * high + "px";
  map.width = wide * sharp;
  map.height = rows * high * sharp;
  pen.scale(sharp, sharp);
  const style = getComputedStyle(document.documentElement), ramp = dark.matches ? ramps.dark : ramps.light;
  for (let row = 1; row <= rows; row++) {
    pen.globalAlpha = row > pass ? .22 : 1;
    card.film[row].forEach((cell, column) => {
      if (cell.confidence === undefined) return;
      const box = [column * across, (row - 1) * high, across - gap, high - gap];
      pen.fillStyle = cell.state === "before" ? style.getPropertyValue("--written") : shade(ramp, cell.confidence, 1);
      pen.fillRect(...box);
      if (cell.state !== "now" || high < 4) return;
      pen.strokeStyle = style.getPropertyValue("--text");
      pen.lineWidth = Math.min(1.4, high / 6);
      pen.strokeRect(box[0] + .6, box[1] + .6, box[2] - 1.2, box[3] - 1.2);
    });
  }
  pen.globalAlpha = 1;
  pen.fillStyle = style.getPropertyValue("--accent");
  if (pass && pass < rows) pen.fillRect(0, pass * high - 1, wide, 2);
};
const draw = () => {
  for (const card of cards) {
    const last = card.trace.frames.length, pass = Math.min(now, last), done = pass === last && !card.trace.live;
    const frame = card.trace.frames[pass - 1] || { nfe: 0, written: 0, block: 0, step: 0 };
    drawText(card, pass);
    drawMap(card, pass);
    card.count.textContent = frame.nfe;
    card.passes.textContent = " " + plural(frame.nfe, "pass", "passes");
    card.tokens.textContent = frame.written + " " + plural(frame.written, "token") + " · " + (pass ? frame.written / frame.nfe : 0).toFixed(2) + " a pass";
    const seconds = card.trace.seconds ? " in " + card.trace.seconds.toFixed(2) + " s" : "";
    card.where.textContent = done ? "done" + seconds : "block " + (frame.block + 1) + ", step " + (frame.step + 1);
    card.where.className = done ? "done" : "";
  }
  slider.max = longest;
  slider.value = now;
  $("credits").hidden = !most;
  slider.setAttribute("aria-valuetext", "pass " + now + " of " + longest);
  $("where").textContent = "pass " + now + " / " + longest;
};
const go = pass => { now = Math.min(Math.max(pass, 0), longest); hide(); draw(); };
const stop = () => { clearInterval(timer); timer = 0; $("play").textContent = "Play"; $("play").setAttribute("aria-label", "Play"); };
const play = () => {
  if (timer) return stop();
  if (now >= longest) go(0);
  $("play").textContent = "Pause";
  $("play").setAttribute("aria-label", "Pause");
  timer = setInterval(() => { go(now + 1); if (now >= longest) stop(); }, Math.max(60, Math.min(450, 8000 / longest)));
};
const fit = () => {
  for (const card of cards) {
    const every = Math.max(1, Math.ceil(card.film.length / 24));
    card.text.style.minHeight = "";
    let tall = 0;
    for (let pass = 0; pass < card.film.length; pass += every) { drawText(card, pass); tall = Math.max(tall, card.text.offsetHeight); }
    card.text.style.minHeight = tall + "px";
  }
  draw();
};
const open = traces => {
  stop();
  $("traces").replaceChildren();
  most = longest = now = 0;
  cards = traces.map(build);
  longest = Math.max(0, ...traces.map(trace => trace.frames.length));
};
const grow = (card, frame) => {
  const follows = now === longest;
  card.trace.frames.push(frame);
  fold(card.film, frame);
  longest = Math.max(longest, card.trace.frames.length);
  if (follows) now = longest;
};
slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });
$("play").addEventListener("click", play);
$("scale").style.background = "linear-gradient(90deg, " + ramps.ink.join(", ") + ")";
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  if (event.key === "ArrowRight" || event.key === "ArrowLeft") { stop(); go(now + (event.key === "ArrowRight" ? 1 : -1)); event.preventDefault(); }
  if (event.key === " " && !event.target.closest("button")) { play(); event.preventDefault(); }
  if (event.key === "Escape") hide();
});
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; hide(); fit(); } });
addEventListener("scroll", hide, { passive: true });
dark.addEventListener("change", draw);
