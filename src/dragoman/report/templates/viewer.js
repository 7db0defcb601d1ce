"use strict";
(() => {
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const LINE = 66, TOP = 400;
const element = (name, text, className) => {
  const node = document.createElement(name);
  if (text !== undefined && text !== null) node.textContent = text;
  if (className) node.className = className;
  return node;
};
const sign = (value, digits = 3) => value === null || value === undefined ? "–"
  : value.toFixed(digits).replace("-", "−");
const share = (part, whole) => whole ? `${(100 * part / whole).toFixed(1)} %` : "–";

// ---- one rollout, laid out in lines of pieces -------------------------------------------------------
// A chunk becomes one piece, or several where it is longer than a line; a piece holds runs of tokens of
// either side. Everything is measured in columns of the monospaced font.
let R = null, columns = 80, cell = 8.4, current = -1, hits = [], hitSet = new Set(), drawn = new Map();

const chunkOf = (r) => {
  const of = new Int32Array(r.student.label.length);
  if (r.chunks) for (let c = 0; c < r.chunks.kind.length; c++) of.fill(c, r.chunks.student[c], r.chunks.student[c + 1]);
  else for (let i = 0; i < of.length; i++) of[i] = i;
  return of;
};

const chunkBounds = (r, c) => r.chunks
  ? [r.chunks.student[c], r.chunks.student[c + 1], r.chunks.teacher[c], r.chunks.teacher[c + 1]]
  : [c, c + 1, 0, 0];

function layOut() {
  const size = (side, i) => Math.max(side.width[i], 1) + 1;
  const lines = [];
  let line = [], used = 0;
  R.lineOf = new Int32Array(R.student.label.length);
  const num = R.chunks ? R.chunks.kind.length : R.student.label.length;
  for (let c = 0; c < num; c++) {
    const [s0, s1, t0, t1] = chunkBounds(R, c);
    let i = s0, j = t0, first = true;
    while (i < s1 || j < t1) {
      const start = [i, j];
      let above = 0, below = 0;
      while (i < s1 && (above === 0 || above + size(R.student, i) < columns)) above += size(R.student, i++);
      while (j < t1 && (below === 0 || below + size(R.teacher, j) < columns)) below += size(R.teacher, j++);
      const width = Math.max(above, below, String(R.student.bounds[start[0]]).length) + 1;
      if (line.length && used + width > columns) { lines.push(line); line = []; used = 0; }
      line.push({ chunk: c, at: used, width, s: [start[0], i], t: [start[1], j], first });
      R.lineOf.fill(lines.length, start[0], i);
      used += width;
      first = false;
    }
  }
  if (line.length) lines.push(line);
  R.lines = lines;
  $("sheet").style.height = `${Math.max(lines.length, 1) * LINE}px`;
  drawn.forEach((node) => node.remove());
  drawn = new Map();
  draw();
}

// ---- drawing only what is in sight ------------------------------------------------------------------
function draw() {
  const box = $("tokens");
  const from = Math.max(0, Math.floor((box.scrollTop - TOP) / LINE));
  const to = Math.min(R.lines.length, Math.ceil((box.scrollTop + box.clientHeight + TOP) / LINE));
  for (const [n, node] of drawn) if (n < from || n >= to) { node.remove(); drawn.delete(n); }
  const fragment = document.createDocumentFragment();
  for (let n = from; n < to; n++) if (!drawn.has(n)) {
    const node = drawLine(n);
    drawn.set(n, node);
    fragment.append(node);
  }
  $("sheet").append(fragment);
}

function drawLine(n) {
  const line = element("div", null, "line");
  line.setAttribute("role", "presentation");
  line.style.top = `${n * LINE}px`;
  for (const piece of R.lines[n]) line.append(drawPiece(piece));
  return line;
}

const KIND_CLASS = { "event": "k-event", "normalised": "k-normalised", "impure": "k-impure",
  "student-only": "k-impure", "teacher-only": "k-impure", "n:m": "k-many", "1:n": "k-many", "n:1": "k-many" };

function drawPiece(piece) {
  const kind = R.chunks ? R.kinds[R.chunks.kind[piece.chunk]] : "1:1";
  const node = element("div", null, `piece ${piece.chunk % 2 ? "b " : ""}${KIND_CLASS[kind] || "k-same"}`);
  node.setAttribute("role", "presentation");
  node.style.left = `${piece.at * cell}px`;
  node.style.width = `${piece.width * cell - 3}px`;
  const ruler = element("span", piece.first ? R.student.bounds[piece.s[0]] : "…", "ruler");
  ruler.setAttribute("aria-hidden", "true");
  const above = element("span", null, "row"), below = element("span", null, "row teacher");
  above.setAttribute("role", "presentation");
  below.setAttribute("aria-hidden", "true");
  for (let i = piece.s[0]; i < piece.s[1]; i++) above.append(drawToken(i));
  for (let j = piece.t[0]; j < piece.t[1]; j++) {
    const token = element("span", R.teacher.label[j], "tok");
    token.dataset.t = j;
    token.dataset.c = piece.chunk;
    below.append(token);
  }
  // The ruler is drawn over the gap of the first row.
  above.style.marginTop = "14px";
  below.style.marginTop = "0";
  node.append(ruler, above, below);
  return node;
}

function drawToken(i) {
  const token = element("span", R.student.label[i], "tok");
  token.id = `s${i}`;
  token.dataset.s = i;
  token.setAttribute("role", "option");
  token.setAttribute("aria-selected", String(i === current));
  token.setAttribute("aria-label", spoken(i));
  if (R.student.odd[i]) token.classList.add("odd");
  if (R.student.reason[i]) token.classList.add("dropped");
  if (hitSet.has(i)) token.classList.add("hit");
  const strength = tint(i);
  if (strength !== null) token.style.background =
    `rgba(var(${strength < 0 ? "--low" : "--high"}), calc(var(--tint) * ${Math.abs(strength).toFixed(3)}))`;
  return token;
}

const spoken = (i) => {
  const values = R.colour.values, value = values ? values(i) : null;
  const reason = R.student.reason[i] ? `, dropped: ${R.reasons[R.student.reason[i]]}` : "";
  return `${R.student.label[i]}${value === null || value === undefined ? "" : `, ${R.colour.name} ${sign(value)}`}${reason}`;
};

// ---- colour -----------------------------------------------------------------------------------------
function colours() {
  const { student, teacher } = R, found = [];
  const chunkSum = (values, bounds) => (i) => {
    const c = R.of[i];
    let sum = 0;
    for (let k = bounds[c]; k < bounds[c + 1]; k++) { if (values[k] === null) return null; sum += values[k]; }
    return sum;
  };
  if (student.credit) found.push({ name: "advantage", values: (i) => student.credit[i], both: true });
  if (student.p && teacher && teacher.t && R.chunks) {
    const p = chunkSum(student.p, R.chunks.student), t = chunkSum(teacher.t, R.chunks.teacher);
    found.push({ name: "t − p of the chunk", both: true,
      values: (i) => R.chunks.kind[R.of[i]] > R.comparable || p(i) === null || t(i) === null ? null : t(i) - p(i) });
  }
  if (student.p) found.push({ name: "log-prob p", values: (i) => student.p[i], both: true });
  if (student.stop) found.push({ name: "stop mass", values: (i) => student.stop[i] === null ? null : Math.exp(student.stop[i]), both: false });
  found.push({ name: "none", values: null });
  return found;
}

function setColour(index) {
  R.colour = R.colours[index];
  const sizes = [];
  if (R.colour.values) for (let i = 0; i < R.student.label.length; i++) {
    const value = R.colour.values(i);
    if (value !== null && value !== undefined) sizes.push(Math.abs(value));
  }
  sizes.sort((a, b) => a - b);
  R.full = sizes.length ? Math.max(sizes[Math.floor(0.95 * (sizes.length - 1))], 1e-3) : null;
  $("scale").textContent = R.full === null ? "No colour."
    : `Colour: ${R.colour.name}, blue above and orange below zero, full at ${R.full.toPrecision(3)} (95 % of tokens are below that).`;
}

const tint = (i) => {
  if (!R.colour.values || R.full === null) return null;
  const value = R.colour.values(i);
  return value === null || value === undefined ? null : Math.max(-1, Math.min(1, value / R.full));
};

// ---- filters and search -----------------------------------------------------------------------------
function filters() {
  const { student } = R, found = [["everything", null]];
  found.push(["dropped", (i) => student.reason[i] > 0]);
  const reasons = [...new Set(student.reason)].filter((r) => r > 0).sort((a, b) => a - b);
  for (const r of reasons) found.push([`dropped: ${R.reasons[r]}`, (i) => student.reason[i] === r]);
  if (student.credit) {
    const order = [...student.credit.keys()].filter((i) => student.credit[i] !== null)
      .sort((a, b) => Math.abs(student.credit[b]) - Math.abs(student.credit[a])).slice(0, 20);
    const top = new Set(order);
    found.push(["20 largest advantages", (i) => top.has(i)]);
  }
  found.push(["non-canonical", (i) => student.odd[i] === 1], ["events", (i) => student.event[i] > 0]);
  if (R.chunks) found.push(["chunks of several tokens", (i) => [1, 2, 3].includes(R.chunks.kind[R.of[i]])]);
  return found;
}

// Bytes are searched, not labels: a character may be spread over several tokens.
const asBytes = (text) => String.fromCharCode(...new TextEncoder().encode(text)).replace(/[A-Z]/g, (c) => c.toLowerCase());

function searchHits(query) {
  const wanted = asBytes(query), bounds = R.student.bounds, found = new Set();
  for (let at = R.searched.indexOf(wanted); at >= 0; at = R.searched.indexOf(wanted, at + 1))
    for (let i = tokenAt(at); bounds[i] < at + wanted.length; i++) if (bounds[i + 1] > at) found.add(i);
  return [...found].sort((a, b) => a - b);
}

function tokenAt(at) {
  const bounds = R.student.bounds;
  let low = 0, high = bounds.length - 2;
  while (low < high) { const middle = (low + high + 1) >> 1; if (bounds[middle] <= at) low = middle; else high = middle - 1; }
  return low;
}

function refresh(jump) {
  const test = R.filters[$("filter").value][1], query = $("search").value;
  let found = null;
  if (query) found = searchHits(query);
  if (test) found = (found || [...R.student.label.keys()]).filter(test);
  hits = found || [];
  hitSet = new Set(hits);
  for (const node of $("sheet").querySelectorAll(".tok[data-s]")) node.classList.toggle("hit", hitSet.has(+node.dataset.s));
  $("hits").textContent = found === null ? "" : `${hits.length} token${hits.length === 1 ? "" : "s"}`;
  if (found !== null) $("status").textContent = `${hits.length} tokens found`;
  if (jump && hits.length) focusToken(hits[0]);
}

function step(direction) {
  if (!hits.length) return;
  const next = direction > 0 ? hits.find((i) => i > current) : [...hits].reverse().find((i) => i < current);
  focusToken(next === undefined ? hits[direction > 0 ? 0 : hits.length - 1] : next);
}

// ---- the token in focus -----------------------------------------------------------------------------
function focusToken(i) {
  const last = R.student.label.length - 1;
  if (last < 0) return;
  i = Math.max(0, Math.min(last, i));
  const old = $(`s${current}`);
  if (old) old.setAttribute("aria-selected", "false");
  current = i;
  const box = $("tokens"), top = R.lineOf[i] * LINE;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + LINE > box.scrollTop + box.clientHeight) box.scrollTop = top + LINE - box.clientHeight;
  draw();
  const node = $(`s${i}`);
  node.setAttribute("aria-selected", "true");
  box.setAttribute("aria-activedescendant", node.id);
  show(i);
}

function facts(rows) {
  const list = element("dl");
  for (const [name, value, code] of rows) {
    const entry = element("div"), description = element("dd");
    description.append(code ? element("code", value) : document.createTextNode(value));
    entry.append(element("dt", name), description);
    list.append(entry);
  }
  return list;
}

function show(i, j = null) {
  const { student, teacher } = R, c = i !== null ? R.of[i] : +j.chunk;
  const rows = [];
  if (i !== null) rows.push(
    ["student token", `${student.label[i]}`, true], ["number, id", `${i}, ${student.id[i]}`],
    ["bytes", `${student.bounds[i]} to ${student.bounds[i + 1]}`], ["p, nats", sign(student.p && student.p[i])],
    ["advantage, nats", sign(student.credit && student.credit[i])],
    ["signal", student.reason[i] ? `none: ${R.reasons[student.reason[i]]}` : "yes"],
    ["canonical", student.odd[i] ? "no" : "yes"],
    ["entropy, nats", sign(student.entropy && student.entropy[i])],
    ["stop mass", student.stop && student.stop[i] !== null ? Math.exp(student.stop[i]).toPrecision(3) : "–"]);
  else rows.push(
    ["teacher token", teacher.label[j.t], true], ["number, id", `${j.t}, ${teacher.id[j.t]}`],
    ["t, nats", sign(teacher.t && teacher.t[j.t])],
    ["stop mass", teacher.stop && teacher.stop[j.t] !== null ? Math.exp(teacher.stop[j.t]).toPrecision(3) : "–"]);
  if (R.chunks) {
    const [s0, s1, t0, t1] = chunkBounds(R, c);
    const sum = (values, a, b) => values && b > a ? values.slice(a, b).reduce((x, y) => x === null || y === null ? null : x + y, 0) : null;
    const reason = R.chunks.reason[c] ? ` (${R.reasons[R.chunks.reason[c]]})` : "";
    const most = 12, list = (side, a, b) => side.label.slice(a, Math.min(b, a + most)).join(" | ") + (b - a > most ? ` | … ${b - a - most} more` : "");
    rows.push(["chunk, kind", `${c}, ${R.kinds[R.chunks.kind[c]]}${reason}`],
      ["student of the chunk", list(student, s0, s1) || "–", true], ["sum p", sign(sum(student.p, s0, s1))],
      ["teacher of the chunk", list(teacher, t0, t1) || "–", true],
      ["each t", teacher.t ? teacher.t.slice(t0, Math.min(t1, t0 + most)).map((v) => sign(v, 2)).join(" | ") || "–" : "–"],
      ["sum t", sign(sum(teacher.t, t0, t1))]);
  }
  $("details").replaceChildren(facts(rows));
}

// ---- a rollout is chosen ----------------------------------------------------------------------------
const option = (text, value) => { const node = element("option", text); node.value = value; return node; };

function table(id, rows, total) {
  $(id).tBodies[0].replaceChildren(...rows.map((cells) => {
    const row = element("tr");
    cells.forEach((cell, n) => row.append(element(n ? "td" : "th", cell)));
    row.firstChild.scope = "row";
    const bar = element("span", null, "bar");
    bar.style.width = `${Math.round(120 * (total ? cells[cells.length - 2].replace(/,/g, "") / total : 0))}px`;
    bar.setAttribute("aria-hidden", "true");
    row.lastChild.append(bar);
    return row;
  }));
}

function choose(index) {
  R = DATA.rollouts[index];
  R.of = chunkOf(R);
  R.comparable = R.kinds.indexOf("normalised");
  R.searched = R.data.replace(/[A-Z]/g, (c) => c.toLowerCase());
  const size = R.student.label.length;
  const kinds = R.kinds.map((name) => [name, 0, 0]), reasons = R.reasons.map((name) => [name, 0]);
  if (R.chunks) R.chunks.kind.forEach((k, c) => { kinds[k][1]++; kinds[k][2] += R.chunks.student[c + 1] - R.chunks.student[c]; });
  R.student.reason.forEach((r) => { if (r) reasons[r][1]++; });
  table("kinds", kinds.filter((k) => k[1]).map(([name, chunks, tokens]) => [name, `${chunks}`, `${tokens}`, share(tokens, size)]), size);
  table("reasons", reasons.filter((r) => r[1]).map(([name, tokens]) => [name, `${tokens}`, share(tokens, size)]), size);
  $("reasons").hidden = !reasons.some((r) => r[1]);
  const covered = R.chunks ? kinds.slice(0, R.comparable + 1).reduce((sum, k) => sum + k[2], 0) : null;
  $("facts").textContent = [`step ${R.step}`, R.turn ? `turn ${R.turn}` : null, `${size} student tokens`,
    R.teacher ? `${R.teacher.label.length} teacher tokens` : "no teacher", `${R.data.length} bytes`,
    covered === null ? null : `coverage ${share(covered, size)}`, `ended by ${R.ending}`,
    R.teacher_name ? `teacher ${R.teacher_name}` : null].filter(Boolean).join(" · ");
  $("text").textContent = R.text;
  $("prompt").replaceChildren(...R.prompt.map((turn) => {
    const node = element("div", null, "turn");
    node.append(element("b", turn.role));
    if (turn.thinking) node.append(element("i", `thinks: ${turn.thinking}\n`));
    node.append(turn.content);
    for (const call of turn.calls || []) node.append(element("div", `calls ${call}`));
    return node;
  }));
  R.colours = colours();
  $("colour").replaceChildren(...R.colours.map((c, n) => option(c.name, n)));
  setColour(0);
  R.filters = filters();
  $("filter").replaceChildren(...R.filters.map((f, n) => option(f[1] === null ? f[0] : `${f[0]}: ${[...R.student.label.keys()].filter(f[1]).length}`, n)));
  $("search").value = "";
  current = -1;
  $("tokens").removeAttribute("aria-activedescendant");
  $("tokens").scrollTop = 0;
  $("details").replaceChildren(element("p", size ? "Point at a token, or move with the arrow keys." : "This response is empty.", "hint"));
  measure();
  refresh(false);
}

function measure() {
  const probe = element("span", "0".repeat(100), "tok");
  probe.style.cssText = "position:absolute;visibility:hidden;padding:0;margin:0";
  $("tokens").append(probe);
  // A column is a glyph and its part of the padding between tokens.
  cell = Math.max(probe.getBoundingClientRect().width / 100, 4);
  probe.remove();
  const style = getComputedStyle($("tokens"));
  const room = $("tokens").clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  columns = Math.max(Math.floor(room / cell) - 1, 12);
  layOut();
}

// ---- wiring -----------------------------------------------------------------------------------------
const themes = ["system", "light", "dark"];
$("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme || "system", next = themes[(themes.indexOf(now) + 1) % 3];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  $("theme").textContent = `Theme: ${next}`;
});
$("rollout").addEventListener("change", (event) => choose(+event.target.value));
$("colour").addEventListener("change", (event) => { setColour(+event.target.value); drawn.forEach((n) => n.remove()); drawn = new Map(); draw(); });
$("filter").addEventListener("change", () => refresh(true));
$("search").addEventListener("input", () => refresh(true));
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
  if (event.key === "Escape") { $("search").value = ""; refresh(false); $("tokens").focus(); }
});
$("next").addEventListener("click", () => step(1));
$("previous").addEventListener("click", () => step(-1));
$("tokens").addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
$("tokens").addEventListener("mouseover", (event) => {
  const token = event.target.closest(".tok");
  if (!token) return;
  if (token.dataset.s !== undefined) show(+token.dataset.s);
  else show(null, { t: +token.dataset.t, chunk: +token.dataset.c });
});
$("tokens").addEventListener("mouseleave", () => { if (current >= 0) show(current); });
$("tokens").addEventListener("click", (event) => {
  const token = event.target.closest(".tok[data-s]");
  if (token) focusToken(+token.dataset.s);
});
const neighbourLine = (direction) => {
  const at = current < 0 ? 0 : R.lineOf[current];
  for (let n = at + direction; n >= 0 && n < R.lines.length; n += direction) {
    const piece = R.lines[n].find((p) => p.s[1] > p.s[0]);
    if (piece) return piece.s[0];
  }
  return current;
};
const neighbourChunk = (direction) => {
  if (current < 0) return 0;
  let i = current;
  if (direction < 0) { while (i > 0 && R.of[i] === R.of[current]) i--; while (i > 0 && R.of[i - 1] === R.of[i]) i--; return i; }
  while (i < R.of.length - 1 && R.of[i] === R.of[current]) i++;
  return i;
};
const page = (direction) => {
  const lines = Math.max(1, Math.floor($("tokens").clientHeight / LINE) - 1);
  const wanted = Math.max(0, Math.min(R.lines.length - 1, (current < 0 ? 0 : R.lineOf[current]) + direction * lines));
  const piece = R.lines[wanted].find((p) => p.s[1] > p.s[0]);
  return piece ? piece.s[0] : current;
};
const MOVES = {
  ArrowRight: () => current + 1, ArrowLeft: () => current - 1, ArrowDown: () => neighbourLine(1),
  ArrowUp: () => neighbourLine(-1), j: () => neighbourChunk(1), k: () => neighbourChunk(-1),
  Home: () => 0, End: () => R.student.label.length - 1, PageDown: () => page(1), PageUp: () => page(-1),
};
$("tokens").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !MOVES[event.key] || !R.student.label.length) return;
  event.preventDefault();
  focusToken(MOVES[event.key]());
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(input|select|textarea)$/i.test(event.target.tagName)) return;
  const box = $("filter");
  if (event.key === "/") { event.preventDefault(); $("search").focus(); }
  else if (event.key === "n") step(1);
  else if (event.key === "N") step(-1);
  else if (event.key === "f") { box.value = (+box.value + 1) % R.filters.length; refresh(true); }
  else if (event.key === "?") $("help-box").open = !$("help-box").open;
});
let pending = 0;
window.addEventListener("resize", () => { clearTimeout(pending); pending = setTimeout(() => { measure(); if (current >= 0) focusToken(current); }, 100); });
for (const box of document.querySelectorAll("details")) box.addEventListener("toggle", () => draw());

$("name").textContent = DATA.title;
if (DATA.left_out) { $("left-out").hidden = false; $("left-out").textContent = `${DATA.left_out} more rollouts are not in this page.`; }
$("rollout").replaceChildren(...DATA.rollouts.map((r, n) => option(`step ${r.step} · ${r.key}`, n)));
choose(0);
})();
