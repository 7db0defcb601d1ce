// What stands beside the tokens: details of one of them, counts, the conversation.
const MOST_ROWS = 16;
const digits = (value, places = 3) => Number.isNaN(value) ? "–" : value.toFixed(places)
  .replace("-Infinity", "-∞").replace("-", "−").replace(/^−(0\.?0*)$/, "$1");
const nats = (value) => Number.isNaN(value) ? "–" : `${digits(value)} nats`;
const at = (values, i) => values ? values[i] : NaN;
const share = (part, whole) => whole ? `${(100 * part / whole).toFixed(1)} %` : "–";
const count = (number, name) => `${number.toLocaleString("en")} ${name}${number === 1 ? "" : "s"}`;
const probability = (logp) => {
  const p = Math.exp(logp);
  return Number.isNaN(p) ? "–" : p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.001 ? `${(100 * p).toFixed(2 - (p >= 0.01))} %` : p.toExponential(1).replace("-", "−");
};
const hex = (bytes) => Array.from(bytes.slice(0, 24), (c) => c.charCodeAt(0).toString(16).padStart(2, "0")).join(" ")
  + (bytes.length > 24 ? " …" : "");

function chunkWord(c) {
  const { r } = view, kind = r.kindName(c), reason = DATA.reasons[r.chunks.reason[c]];
  return r.chunks.reason[c] && reason !== kind.replace("-", " ") ? `${kind}, ${reason}` : kind;
}

// One sentence, for the live region.
function sentence(item) {
  const { r } = view, s = r.items[item], c = r.chunkOf(item);
  const parts = [];
  if (s < 0) parts.push("no student token");
  else {
    parts.push(`${r.student.name(s)}, token ${s}`);
    if (r.student.logp) parts.push(`p ${digits(r.student.logp[s], 2)}`);
    if (r.student.credit && !Number.isNaN(r.student.credit[s])) parts.push(`advantage ${digits(r.student.credit[s], 2)}`);
    if (r.student.reason[s]) parts.push(`no signal: ${DATA.reasons[r.student.reason[s]]}`);
    if (r.student.odd[s]) parts.push("not canonical");
  }
  if (r.aligned) {
    parts.push(`chunk ${c}, ${chunkWord(c)}`);
    if (r.teacher.logp && r.chunks.teacher[c + 1] > r.chunks.teacher[c])
      parts.push(`t of the chunk ${digits(chunkSum(r.teacher, r.chunks.teacher, c), 2)}`);
  }
  return parts.join("; ");
}

function definitions(rows) {
  const list = element("dl");
  for (const [name, value, wide] of rows) if (value !== null) {
    const entry = element("div", null, wide ? "wide" : null);
    entry.append(element("dt", name), element("dd", value));
    list.append(entry);
  }
  return list;
}

function studentFacts(s) {
  const { student } = view.r, { logp, credit, entropy, stop } = student;
  const from = student.bounds[s], to = student.bounds[s + 1];
  return [
    ["advantage", student.credit ? nats(credit[s]) : null],
    ["signal", student.reason[s] ? `none: ${DATA.reasons[student.reason[s]]}` : "yes"],
    ["p", logp ? nats(logp[s]) : null], ["probability", logp ? probability(logp[s]) : null],
    ["entropy", entropy ? nats(entropy[s]) : null],
    ["stop mass", stop ? probability(stop[s]) : null],
    ["id", String(student.id[s])], ["canonical", student.odd[s] ? "no" : "yes"],
    ["bytes", to > from ? `${from}–${to}: ${hex(view.r.bytes.slice(from, to))}` : `none, at ${from}`, true],
  ];
}

function teacherFacts(t) {
  const { teacher } = view.r;
  return [
    ["t", !teacher.logp ? null : teacher.reason[t] ? `none: ${DATA.reasons[teacher.reason[t]]}` : nats(teacher.logp[t])],
    ["probability", teacher.logp ? probability(teacher.logp[t]) : null],
    ["stop mass", teacher.stop ? probability(teacher.stop[t]) : null], ["id", String(teacher.id[t])],
    ["bytes of the teacher's response", `${teacher.bounds[t]}–${teacher.bounds[t + 1]}`, true],
  ];
}

// The tokens of one side of a chunk, with a sum below where there are several.
function chunkTable(title, side, bounds, c, values, chosen) {
  const from = bounds[c], to = bounds[c + 1], table = element("table", null, "chunk"), body = element("tbody");
  const head = element("tr");
  for (const name of [title, "id", ...values.map(([name]) => name)]) { const cell = element("th", name); cell.scope = "col"; head.append(cell); }
  table.createTHead().append(head);
  const add = (cells, className) => {
    const row = element("tr", null, className);
    cells.forEach((cell, n) => { const node = element(n ? "td" : "th", cell); if (!n) node.scope = "row"; row.append(node); });
    body.append(row);
  };
  const first = Math.max(from, Math.min(chosen === null ? from : chosen - MOST_ROWS / 2, to - MOST_ROWS));
  if (first > from) add([`… ${first - from} before`]);
  for (let i = first; i < Math.min(to, first + MOST_ROWS); i++)
    add([side.name(i), side.id[i], ...values.map(([, column]) => digits(at(column, i)))], i === chosen ? "chosen" : null);
  if (to > first + MOST_ROWS) add([`… ${to - first - MOST_ROWS} more`]);
  if (to === from) add(["none"]);
  if (to - from > 1) add(["sum", "", ...values.map(([, column]) => digits(column.subarray(from, to).reduce((a, b) => a + b, 0)))], "sum");
  table.append(body);
  return table;
}

// Details of a student token `s`, of a teacher token `t`, or of a chunk alone.
function showDetails(s, t, c) {
  const { r } = view, { student, teacher, chunks } = r, nodes = [];
  const heading = element("p", null, "what"), side = t === null ? student : teacher, i = t === null ? s : t;
  if (i !== null) {
    heading.append(element("code", side.name(i)), ` ${t === null ? "student" : "teacher"} token ${i}`);
    nodes.push(heading, definitions(t === null ? studentFacts(s) : teacherFacts(t)));
  }
  if (r.aligned) {
    const difference = gap(r, c);
    nodes.push(element("p", `Chunk ${c} · ${chunkWord(c)}`, "what"));
    const given = (rows) => rows.filter(([, values]) => values);
    nodes.push(chunkTable("student", student, chunks.student, c, given([["p", student.logp], ["advantage", student.credit]]), s),
      chunkTable("teacher", teacher, chunks.teacher, c, given([["t", teacher.logp]]), t));
    if (!Number.isNaN(difference)) nodes.push(element("p", `t − p of the chunk: ${nats(difference)}`, "gap"));
  }
  $("details").replaceChildren(...nodes);
}

// Rows whose name chooses a filter, with a bar for the last share.
function countTable(table, rows, total) {
  table.tBodies[0].replaceChildren(...rows.map(([name, filter, ...numbers]) => {
    const row = element("tr"), head = element("th"), button = element("button", name, "link"), last = element("td");
    head.scope = "row";
    button.type = "button";
    button.addEventListener("click", () => chooseFilter(filter));
    head.append(button);
    const bar = element("span", null, "bar");
    bar.style.setProperty("--share", total ? numbers[numbers.length - 1] / total : 0);
    bar.setAttribute("aria-hidden", "true");
    last.append(bar, share(numbers[numbers.length - 1], total));
    row.append(head, ...numbers.map((number) => element("td", number.toLocaleString("en"))), last);
    return row;
  }));
}

function showCounts() {
  const { r } = view, { student, chunks } = r, kinds = new Map(), reasons = new Map();
  for (let c = 0; r.aligned && c < chunks.length; c++) {
    const found = kinds.get(chunks.kind[c]) || [0, 0];
    kinds.set(chunks.kind[c], [found[0] + 1, found[1] + chunks.student[c + 1] - chunks.student[c]]);
  }
  for (const reason of student.reason) if (reason) reasons.set(reason, (reasons.get(reason) || 0) + 1);
  const ordered = (map) => [...map.entries()].sort((a, b) => a[0] - b[0]);
  countTable($("kinds"), ordered(kinds).map(([k, numbers]) => [DATA.kinds[k], `chunks ${DATA.kinds[k]}`, ...numbers]), student.length);
  countTable($("reasons"), ordered(reasons).map(([k, n]) => [DATA.reasons[k], `dropped: ${DATA.reasons[k]}`, n]), student.length);
  $("kinds").parentElement.hidden = !kinds.size;
  $("reasons-box").hidden = !reasons.size;
}

function showFacts() {
  const { r } = view, { student, teacher } = r;
  $("facts").textContent = [`ended by ${r.ending}`, r.turn ? `turn ${r.turn} of the student` : null,
    count(student.length, "student token"), teacher ? count(teacher.length, "teacher token") : "no teacher",
    count(r.bytes.length, "byte"), r.coverage === null ? null : `coverage ${(100 * r.coverage).toFixed(1)} %`,
    count(student.odd.reduce((a, b) => a + b, 0), "token").replace("token", "non-canonical token"),
    r.num_clamped === null ? null : `${r.num_clamped} clamped`, `temperature ${r.temperature}`,
    `policy ${r.policy_version}`].filter(Boolean).join(" · ");
  $("who").textContent = teacher ? `Student above, teacher (${r.teacher_name}) below.` : "Student tokens.";
}

function showConversation() {
  $("prompt").replaceChildren(...view.r.prompt.map((turn) => {
    const node = element("div", null, "turn");
    node.append(element("b", turn.role));
    if (turn.thinking !== undefined) node.append(element("div", `thinks: ${turn.thinking}`, "aside"));
    if (turn.content) node.append(element("div", turn.content));
    for (const call of turn.calls || []) node.append(element("div", `calls ${call}`, "aside"));
    return node;
  }));
}

function showScale() {
  const { colouring, full } = view, box = $("scale");
  if (!colouring.above || full === null) { box.replaceChildren(); return; }
  const end = full >= 0.1 ? full.toFixed(2) : full.toPrecision(2), unit = colouring.unit ? ` ${colouring.unit}` : "";
  const bar = element("span", null, "ramp");
  bar.setAttribute("aria-hidden", "true");
  box.replaceChildren(`Colour: ${colouring.name}, −${end} `, bar, ` +${end}${unit} (95 % of tokens are within)`);
}
