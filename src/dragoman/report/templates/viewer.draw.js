// Drawing: only the lines in sight, and a map of the whole at the side.
const LINE = 72, MARGIN = 400;
const $ = (id) => document.getElementById(id);
const element = (name, text, className) => {
  const node = document.createElement(name);
  if (text !== undefined && text !== null) node.textContent = text;
  if (className) node.className = className;
  return node;
};
const KIND_CLASS = { "1:1": "k-same", "1:n": "k-many", "n:1": "k-many", "n:m": "k-many", "event": "k-event",
  "normalised": "k-normalised", "impure": "k-impure", "student-only": "k-impure", "teacher-only": "k-impure" };
const view = { r: null, cell: 8.4, columns: 80, current: -1, hits: [], marked: new Set(), drawn: new Map(),
  colouring: null, full: null };

function draw() {
  const { r, drawn } = view, box = $("tokens");
  const from = Math.max(0, Math.floor((box.scrollTop - MARGIN) / LINE));
  const to = Math.min(r.lines.length, Math.ceil((box.scrollTop + box.clientHeight + MARGIN) / LINE));
  // The token in focus stays, wherever it is: assistive technology is pointed at it.
  const kept = view.current >= 0 ? r.lineOf[view.current] : -1;
  for (const [n, node] of drawn) if ((n < from || n >= to) && n !== kept) { node.remove(); drawn.delete(n); }
  const fragment = document.createDocumentFragment();
  for (let n = from; n < to; n++) if (!drawn.has(n)) fragment.append(drawLine(n));
  if (kept >= 0 && !drawn.has(kept)) fragment.append(drawLine(kept));
  $("sheet").append(fragment);
}

function redraw() {
  view.drawn.forEach((node) => node.remove());
  view.drawn = new Map();
  $("sheet").style.height = `${Math.max(view.r.lines.length, 1) * LINE}px`;
  $("sheet").classList.toggle("searching", view.marked.size > 0);
  draw();
  drawMap();
}

function drawLine(n) {
  const line = element("div", null, "line");
  line.setAttribute("role", "presentation");
  line.style.top = `${n * LINE}px`;
  for (const piece of view.r.lines[n]) line.append(drawPiece(piece));
  view.drawn.set(n, line);
  return line;
}

function drawPiece(piece) {
  const { r } = view, c = piece.chunk, kind = r.kindName(c);
  const node = element("div", null, `piece ${c % 2 ? "b " : ""}${KIND_CLASS[kind] || "k-same"}${piece.cut ? " cut" : ""}`);
  node.setAttribute("role", "presentation");
  node.style.left = `${piece.at * view.cell}px`;
  node.style.width = `${piece.width * view.cell - 3}px`;
  const ruler = element("span", piece.part ? "…" : r.student.bounds[piece.s0], "ruler");
  ruler.setAttribute("aria-hidden", "true");
  const above = element("span", null, "row"), below = element("span", null, "row teacher");
  above.setAttribute("role", "presentation");
  for (let s = piece.s0; s < piece.s1; s++) above.append(drawToken(r.student, s, r.itemOf[s]));
  const alone = r.chunks.student[c] === r.chunks.student[c + 1];
  if (alone) below.setAttribute("role", "presentation"); else below.setAttribute("aria-hidden", "true");
  for (let t = piece.t0; t < piece.t1; t++) {
    // A chunk without a student token is reached at its first teacher token.
    const token = drawToken(r.teacher, t, alone && t === r.chunks.teacher[c] ? r.itemOfChunk[c] : null);
    token.dataset.t = t;
    token.dataset.c = c;
    below.append(token);
  }
  node.append(ruler, above, below);
  return node;
}

function drawToken(side, i, item) {
  const token = element("span", side.name(i), "tok"), student = side === view.r.student;
  token.style.flexGrow = side.width(i);
  if (student && side.odd[i]) token.classList.add("odd");
  if (side.event[i]) token.classList.add("event");
  if (side.reason[i]) token.classList.add("dropped");
  if (item !== null) {
    token.id = `i${item}`;
    token.dataset.item = item;
    token.setAttribute("role", "option");
    token.setAttribute("aria-selected", String(item === view.current));
    token.setAttribute("aria-setsize", view.r.items.length);
    token.setAttribute("aria-posinset", item + 1);
    if (view.marked.has(item)) token.classList.add("hit");
  } else token.setAttribute("role", "presentation");
  const values = student ? view.colouring.above : view.colouring.below;
  if (values && view.full !== null) tint(token, values(i));
  return token;
}

function tint(token, value) {
  if (Number.isNaN(value)) return;
  const strength = Math.max(-1, Math.min(1, value / view.full));
  token.classList.add(strength < 0 ? "low" : "high");
  token.style.setProperty("--strength", Math.abs(strength).toFixed(3));
}

// One row of the map for each pixel: hits, or without a search the student tokens that are lost.
function drawMap() {
  const { r } = view, map = $("map"), height = $("tokens").clientHeight;
  map.height = Math.max(height, 1);
  const paint = map.getContext("2d"), style = getComputedStyle(document.documentElement);
  const marks = view.marked.size ? [...view.marked]
    : [...r.itemOf].filter((_, s) => r.student.reason[s] > 0);
  paint.fillStyle = style.getPropertyValue(view.marked.size ? "--hit" : "--muted");
  const scale = height / Math.max(r.lines.length, 1);
  for (const line of new Set(marks.map((item) => r.lineOf[item])))
    paint.fillRect(2, Math.floor(line * scale), 10, Math.max(2, Math.min(scale - 1, 6)));
  drawFrame();
}

function drawFrame() {
  const box = $("tokens"), room = box.clientHeight, whole = Math.max(box.scrollHeight, 1), least = 8;
  const size = whole <= room ? 0 : Math.max(room * room / whole, least), travel = Math.max(whole - room, 1);
  const from = (room - size) * box.scrollTop / travel;
  $("map").style.setProperty("--from", `${from}px`);
  $("map").style.setProperty("--to", `${from + size}px`);
}
