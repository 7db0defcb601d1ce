"use strict";
// A rollout as typed arrays, and its lines. Everything is measured in columns of the monospaced font.
const DATA = JSON.parse(document.getElementById("data").textContent);
const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };
const NEWLINE = 10;

function column(packed) {
  if (packed === null) return null;
  const [[type, text]] = Object.entries(packed);
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return new ARRAYS[type](bytes.buffer);
}

function boundsOf(sizes) {
  const bounds = new Uint32Array(sizes.length + 1);
  for (let i = 0; i < sizes.length; i++) bounds[i + 1] = bounds[i] + sizes[i];
  return bounds;
}

function unpackSide(packed) {
  if (packed === null) return null;
  const side = { names: packed.names, cells: packed.cells };
  for (const name of Object.keys(packed)) if (!(name in side)) side[name] = column(packed[name]);
  side.length = side.id.length;
  side.bounds = boundsOf(side.size);
  if (side.reason === null) side.reason = new Uint8Array(side.length);
  side.name = (i) => side.names[side.label[i]];
  side.width = (i) => side.cells[side.label[i]];
  return side;
}

// Without an alignment every student token stands alone. An *item* is what the keyboard can reach: a student
// token s as s, a chunk c that has none as ~c.
function unpack(packed) {
  const student = unpackSide(packed.student), teacher = unpackSide(packed.teacher), given = packed.chunks;
  const num = given ? column(given.kind).length : student.length;
  const chunks = {
    length: num,
    student: given ? boundsOf(column(given.student)) : boundsOf(new Uint8Array(num).fill(1)),
    teacher: given ? boundsOf(column(given.teacher)) : new Uint32Array(num + 1),
    kind: given ? column(given.kind) : new Uint8Array(num),
    reason: given ? column(given.reason) : new Uint8Array(num),
  };
  const of = new Uint32Array(student.length), itemOf = new Uint32Array(student.length), items = [];
  const itemOfChunk = new Uint32Array(num);
  for (let c = 0; c < num; c++) {
    itemOfChunk[c] = items.length;
    if (chunks.student[c] === chunks.student[c + 1]) items.push(~c);
    for (let s = chunks.student[c]; s < chunks.student[c + 1]; s++) { of[s] = c; itemOf[s] = items.length; items.push(s); }
  }
  const kindName = (c) => given ? DATA.kinds[chunks.kind[c]] : "not aligned";
  const comparable = (c) => given !== null && chunks.kind[c] < DATA.num_comparable;
  const chunkOf = (item) => items[item] < 0 ? ~items[item] : of[items[item]];
  return { ...packed, student, teacher, chunks, aligned: given !== null, of, items, itemOf, itemOfChunk, chunkOf,
    kindName, comparable, bytes: atob(packed.data), folded: fold(atob(packed.data)) };
}

// ASCII letters alone are folded: anything else would change the number of bytes.
function fold(text) { return text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase()); }

// Lines of pieces: a chunk is one piece, or several where it is longer than a line. A line also ends where
// the text's does.
function layOut(r, columns) {
  const { student, teacher, chunks } = r, lines = [];
  const most = columns - 2, size = (side, i) => Math.min(side.width(i) + (side.event[i] ? 2 : 1), most);
  r.lineOf = new Uint32Array(r.items.length);
  let line = [], used = 0;
  const close = () => { if (line.length) lines.push(line); line = []; used = 0; };
  for (let c = 0; c < chunks.length; c++) {
    const s1 = chunks.student[c + 1], t1 = chunks.teacher[c + 1];
    let i = chunks.student[c], j = chunks.teacher[c], part = 0;
    while (i < s1 || j < t1) {
      const s0 = i, t0 = j;
      let above = 0, below = 0;
      while (i < s1 && (above === 0 || above + size(student, i) <= most)) above += size(student, i++);
      while (j < t1 && (below === 0 || below + size(teacher, j) <= most)) below += size(teacher, j++);
      const ruler = String(student.bounds[s0]).length * 0.8;
      const width = Math.ceil(Math.max(above, below, ruler)) + 1;
      if (line.length && used + width > columns) close();
      line.push({ chunk: c, part, at: used, width, cut: width >= most, s0, s1: i, t0, t1: j });
      if (s0 < i) r.lineOf.fill(lines.length, r.itemOf[s0], r.itemOf[i - 1] + 1);
      else if (part === 0) r.lineOf[r.itemOfChunk[c]] = lines.length;
      used += width;
      part++;
    }
    if (s1 > chunks.student[c] && r.bytes.charCodeAt(student.bounds[s1] - 1) === NEWLINE && student.size[s1 - 1]) close();
  }
  close();
  r.lines = lines;
}

// Values of a chunk: the sum of a side's log-probs, NaN where one is missing.
function chunkSum(side, bounds, c) {
  let sum = 0;
  for (let i = bounds[c]; i < bounds[c + 1]; i++) sum += side.logp[i];
  return sum;
}

function gap(r, c) {
  if (!r.comparable(c) || !r.student.logp || !r.teacher || !r.teacher.logp) return NaN;
  return chunkSum(r.teacher, r.chunks.teacher, c) - chunkSum(r.student, r.chunks.student, c);
}

// Each colouring gives a value to student tokens, and some to teacher tokens.
function colourings(r) {
  const { student, teacher } = r, found = [], scored = teacher !== null && teacher.logp !== null;
  if (student.credit) found.push({ name: "advantage", unit: "nats", above: (s) => student.credit[s] });
  if (scored && student.logp && r.aligned)
    found.push({ name: "t − p of the chunk", unit: "nats", above: (s) => gap(r, r.of[s]) });
  if (student.logp || scored) found.push({ name: "log-probs", unit: "nats",
    above: (s) => student.logp ? student.logp[s] : NaN, below: scored ? (t) => teacher.logp[t] : null });
  if (student.entropy) found.push({ name: "entropy", unit: "nats", above: (s) => student.entropy[s] });
  if (student.stop || (teacher && teacher.stop)) found.push({ name: "stop mass", unit: "",
    above: (s) => student.stop ? Math.exp(student.stop[s]) : NaN,
    below: teacher && teacher.stop ? (t) => Math.exp(teacher.stop[t]) : null });
  return [...found, { name: "none", unit: "", above: null }];
}

// Where the colour is full: the 95th percentile of the sizes.
function fullAt(r, colouring) {
  const sizes = [];
  if (colouring.above) for (let s = 0; s < r.student.length; s++) sizes.push(Math.abs(colouring.above(s)));
  if (colouring.below) for (let t = 0; t < r.teacher.length; t++) sizes.push(Math.abs(colouring.below(t)));
  const finite = Float32Array.from(sizes.filter(Number.isFinite)).sort();
  return finite.length ? Math.max(finite[Math.floor(0.95 * (finite.length - 1))], 1e-3) : null;
}

// Filters test items; `s` is the student token or, if negative, there is none.
function filtersOf(r) {
  const { student, chunks } = r, found = [{ name: "everything", test: null }];
  const add = (name, test) => {
    let count = 0;
    for (let n = 0; n < r.items.length; n++) if (test(r.items[n], n)) count++;
    found.push({ name, test, count });
  };
  const seen = (values) => [...new Set(values)].sort((a, b) => a - b);
  add("dropped, any reason", (s) => s >= 0 && student.reason[s] > 0);
  for (const reason of seen(student.reason)) if (reason)
    add(`dropped: ${DATA.reasons[reason]}`, (s) => s >= 0 && student.reason[s] === reason);
  if (student.credit) {
    const order = [...student.credit.keys()].filter((s) => Number.isFinite(student.credit[s]))
      .sort((a, b) => Math.abs(student.credit[b]) - Math.abs(student.credit[a]));
    for (const most of [20, 200]) if (most === 20 || order.length > most) {
      const top = new Set(order.slice(0, most));
      add("largest advantages", (s) => top.has(s));
    }
  }
  add("non-canonical", (s) => s >= 0 && student.odd[s] === 1);
  add("events", (s) => s >= 0 && student.event[s] > 0);
  if (r.aligned) for (const kind of seen(chunks.kind))
    add(`chunks ${DATA.kinds[kind]}`, (s, n) => chunks.kind[r.chunkOf(n)] === kind);
  return found;
}

function tokenAt(bounds, at) {
  let low = 0, high = bounds.length - 2;
  while (low < high) { const middle = (low + high + 1) >> 1; if (bounds[middle] <= at) low = middle; else high = middle - 1; }
  return low;
}

// Hits as lists of items: where the bytes are, over any number of tokens, and tokens whose drawn name
// contains the query (`⟨stop⟩`, `\xc3`, `·the`). `#12` is token 12.
function search(r, query) {
  if (/^#\d+$/.test(query)) {
    const token = Number(query.slice(1));
    return token < r.student.length ? [[r.itemOf[token]]] : [];
  }
  const { bounds } = r.student, hits = new Map();
  const wanted = fold(Array.from(new TextEncoder().encode(query), (byte) => String.fromCharCode(byte)).join(""));
  for (let at = r.folded.indexOf(wanted); at >= 0; at = r.folded.indexOf(wanted, at + 1)) {
    const items = [];
    for (let s = tokenAt(bounds, at); bounds[s] < at + wanted.length; s++) if (bounds[s + 1] > at) items.push(r.itemOf[s]);
    hits.set(at, items);
  }
  const named = r.student.names.map((name) => fold(name).includes(fold(query)));
  const inBytes = new Set([...hits.values()].flat());
  for (let s = 0; s < r.student.length; s++)
    if (named[r.student.label[s]] && !inBytes.has(r.itemOf[s])) hits.set(bounds[s] + s / (r.student.length + 1), [r.itemOf[s]]);
  return [...hits.entries()].sort((a, b) => a[0] - b[0]).map(([, items]) => items);
}
