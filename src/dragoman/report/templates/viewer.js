// Choosing a rollout, colours, filters and search; keys and pointers.
const THEMES = ["system", "light", "dark"];

function focusItem(item) {
  const { r } = view;
  if (!r.items.length) return;
  item = Math.max(0, Math.min(r.items.length - 1, item));
  const old = $(`i${view.current}`);
  if (old) old.setAttribute("aria-selected", "false");
  view.current = item;
  const box = $("tokens"), top = r.lineOf[item] * LINE;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + LINE > box.scrollTop + box.clientHeight) box.scrollTop = top + LINE - box.clientHeight;
  draw();
  $(`i${item}`).setAttribute("aria-selected", "true");
  $(`i${item}`).scrollIntoView({ block: "nearest", inline: "nearest" });
  box.setAttribute("aria-activedescendant", `i${item}`);
  showCurrent();
  $("status").textContent = sentence(item);
  showHits();
}

function showCurrent() {
  const { r, current } = view;
  if (current < 0) { $("details").replaceChildren(element("p", r.items.length ? "Point at a token, or move with the arrow keys." : "This response is empty.", "hint")); return; }
  const s = r.items[current], c = r.chunkOf(current);
  if (s >= 0) showDetails(s, null, c); else showDetails(null, r.chunks.teacher[c], c);
}

// ---- filters and search: a hit is a list of items; without a query each item of the filter is one ------
function refresh(jump) {
  const { r } = view, test = r.filters[$("filter").value].test, query = $("search").value;
  let found = null;
  if (query) found = search(r, query);
  else if (test) found = [...r.items.keys()].filter((n) => test(r.items[n], n)).map((n) => [n]);
  if (query && test) found = found.filter((items) => items.some((n) => test(r.items[n], n)));
  view.hits = found || [];
  view.searching = found !== null;
  view.marked = new Set(view.hits.flat());
  redraw();
  if (jump && view.hits.length) focusItem((view.hits.find((items) => items[0] >= view.current) || view.hits[0])[0]);
  else showHits();
  if (jump && found !== null) $("status").textContent = `${count(found.length, "hit")}. ${$("status").textContent}`;
}

function showHits() {
  const { hits, current } = view, place = hits.findIndex((items) => items[0] === current);
  $("hits").textContent = !view.searching ? "" : place >= 0 ? `${(place + 1).toLocaleString("en")} of ${count(hits.length, "hit")}` : count(hits.length, "hit");
  for (const id of ["previous", "next"]) $(id).disabled = !hits.length;
}

function step(direction) {
  const { hits, current } = view;
  if (!hits.length) return;
  const next = direction > 0 ? hits.find((items) => items[0] > current) : hits.findLast((items) => items[0] < current);
  focusItem((next || hits[direction > 0 ? 0 : hits.length - 1])[0]);
}

function chooseFilter(name) {
  const index = view.r.filters.findIndex((filter) => filter.name === name);
  $("filter").value = $("filter").value === String(index) ? 0 : index;
  refresh(true);
}

function cycle(select, direction) {
  const num = select.options.length;
  select.value = (Number(select.value) + direction + num) % num;
  select.dispatchEvent(new Event("change"));
  $("status").textContent = `${select.labels[0].firstChild.textContent.trim()}: ${select.selectedOptions[0].textContent}. ${select === $("filter") ? $("status").textContent : ""}`;
}

function setColour(index) {
  view.colouring = view.colourings[index];
  view.full = fullAt(view.r, view.colouring);
  showScale();
  redraw();
}

// ---- a rollout is chosen ------------------------------------------------------------------------------
const option = (text, value) => { const node = element("option", text); node.value = value; return node; };

function choose(index) {
  const r = view.r = unpack(DATA.rollouts[index]);
  Object.assign(view, { current: -1, hits: [], marked: new Set(), searching: false });
  view.colourings = colourings(r);
  view.colouring = view.colourings[0];
  view.full = fullAt(r, view.colouring);
  r.filters = filtersOf(r);
  $("colour").replaceChildren(...view.colourings.map((one, n) => option(one.name, n)));
  $("filter").replaceChildren(...r.filters.map((one, n) => option(one.test ? `${one.name} (${one.count.toLocaleString("en")})` : one.name, n)));
  $("search").value = "";
  $("tokens").removeAttribute("aria-activedescendant");
  $("tokens").scrollTop = 0;
  for (const show of [showFacts, showConversation, showCounts, showScale, showCurrent, showText, measure, showHits]) show();
}

function showText() { $("text").textContent = $("text-box").open ? view.r.text : ""; }

function measure() {
  const box = $("tokens"), probe = element("span", "0".repeat(100), "probe"), style = getComputedStyle(box);
  box.append(probe);
  view.cell = Math.max(probe.getBoundingClientRect().width / 100, 4);
  probe.remove();
  const room = box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  view.columns = Math.max(Math.floor(room / view.cell), 14);
  layOut(view.r, view.columns);
  redraw();
}

// ---- moving -------------------------------------------------------------------------------------------
// The item of another line that stands nearest to where the current one does.
function otherLine(number) {
  const { r, current } = view, line = r.lines[Math.max(0, Math.min(r.lines.length - 1, number))];
  const node = $(`i${current}`), left = node ? node.offsetLeft + node.closest(".piece").offsetLeft : 0;
  let best = line[0];
  for (const piece of line) if (piece.at * view.cell <= left + 1) best = piece;
  if (best.s0 === best.s1) return r.itemOfChunk[best.chunk];
  const share = (left - best.at * view.cell) / (best.width * view.cell);
  return r.itemOf[Math.min(best.s1 - 1, best.s0 + Math.max(0, Math.floor(share * (best.s1 - best.s0))))];
}

const lineNow = () => view.current < 0 ? 0 : view.r.lineOf[view.current];
const pageLines = () => Math.max(1, Math.floor($("tokens").clientHeight / LINE) - 1);
const chunkFrom = (direction) => {
  const { r, current } = view;
  if (current < 0) return 0;
  return r.itemOfChunk[Math.max(0, Math.min(r.chunks.length - 1, r.chunkOf(current) + direction))];
};
const MOVES = {
  ArrowRight: () => view.current + 1, ArrowLeft: () => view.current - 1,
  ArrowDown: () => otherLine(lineNow() + 1), ArrowUp: () => otherLine(lineNow() - 1),
  PageDown: () => otherLine(lineNow() + pageLines()), PageUp: () => otherLine(lineNow() - pageLines()),
  j: () => chunkFrom(1), k: () => chunkFrom(-1), Home: () => 0, End: () => view.r.items.length - 1,
};
const nextRollout = (direction) => cycle($("rollout"), direction);
const KEYS = {
  "/": () => { $("search").focus(); $("search").select(); }, n: () => step(1), N: () => step(-1),
  f: () => cycle($("filter"), 1), F: () => cycle($("filter"), -1), c: () => cycle($("colour"), 1),
  "[": () => nextRollout(-1), "]": () => nextRollout(1),
  "?": () => { $("help-box").open = !$("help-box").open; },
};

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || /^(input|select|textarea)$/i.test(target.tagName)) return;
  const moving = target === document.body || target === $("tokens");
  if (Object.hasOwn(KEYS, key)) KEYS[key]();
  else if (moving && Object.hasOwn(MOVES, key) && view.r.items.length) focusItem(view.current < 0 && key !== "End" ? 0 : MOVES[key]());
  else return;
  event.preventDefault();
});
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
  else if (event.key === "Escape") { $("search").value = ""; refresh(false); $("tokens").focus(); }
  else return;
  event.preventDefault();
});

// ---- pointers, controls, sizes ------------------------------------------------------------------------
$("tokens").addEventListener("mouseover", (event) => {
  const token = event.target.closest(".tok");
  if (!token) return;
  const { t, c, item } = token.dataset;
  if (t !== undefined) showDetails(null, Number(t), Number(c));
  else showDetails(view.r.items[item], null, view.r.chunkOf(Number(item)));
});
$("tokens").addEventListener("mouseleave", showCurrent);
$("tokens").addEventListener("click", (event) => {
  const token = event.target.closest(".tok");
  if (token) focusItem(token.dataset.item !== undefined ? Number(token.dataset.item) : view.r.itemOfChunk[token.dataset.c]);
});
let asked = false;
$("tokens").addEventListener("scroll", () => {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; draw(); drawFrame(); });
}, { passive: true });
const toMap = (event) => {
  const box = $("tokens"), share = (event.clientY - $("map").getBoundingClientRect().top) / $("map").clientHeight;
  box.scrollTop = share * box.scrollHeight - box.clientHeight / 2;
};
$("map").addEventListener("pointerdown", (event) => { $("map").setPointerCapture(event.pointerId); toMap(event); });
$("map").addEventListener("pointermove", (event) => { if (event.buttons) toMap(event); });
$("rollout").addEventListener("change", (event) => choose(Number(event.target.value)));
$("colour").addEventListener("change", (event) => setColour(Number(event.target.value)));
$("filter").addEventListener("change", () => refresh(true));
$("search").addEventListener("input", () => refresh(true));
$("next").addEventListener("click", () => step(1));
$("previous").addEventListener("click", () => step(-1));
$("text-box").addEventListener("toggle", showText);
$("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme || "system", next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  $("theme").textContent = `Theme: ${next}`;
  drawMap();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
let pending = 0, size = "";
new ResizeObserver(() => {
  const now = `${$("tokens").clientWidth} ${$("tokens").clientHeight}`;
  if (now === size) return;
  const first = size === "";
  size = now;
  clearTimeout(pending);
  if (!first) pending = setTimeout(() => { measure(); if (view.current >= 0) focusItem(view.current); }, 60);
}).observe($("tokens"));

$("name").textContent = DATA.title;
$("left-out").hidden = !DATA.left_out;
$("left-out").textContent = `${count(DATA.left_out, "more rollout")} recorded there ${DATA.left_out === 1 ? "is" : "are"} not in this page.`;
const steps = new Map();
DATA.rollouts.forEach((rollout, n) => {
  if (!steps.has(rollout.step)) { steps.set(rollout.step, element("optgroup")); steps.get(rollout.step).label = `step ${rollout.step}`; }
  steps.get(rollout.step).append(option(`${rollout.step} · ${rollout.key}`, n));
});
$("rollout").append(...steps.values());
choose(Number($("rollout").value));
