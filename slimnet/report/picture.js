// Find, select and fold in the drawing. Everything shown comes from the page's JSON and is set as
// text, never as markup. Folding moves rows; lines follow, as each coordinate belongs to a row.
"use strict";
const { rows, nodes, edges, groups, colours, rowHeight } = JSON.parse(
  document.getElementById("data").textContent
);
const drawing = document.getElementById("drawing");
const panel = document.getElementById("panel");
const search = document.getElementById("search");
const lines = [...drawing.querySelectorAll(".row")];
const bands = [...drawing.querySelectorAll(".head")];
const paths = [...drawing.querySelectorAll(".path[data-rows]")].map((element) => ({
  element,
  d: element.getAttribute("d"),
  rows: numbers(element.dataset.rows),
  groups: new Set(numbers(element.dataset.groups)),
}));
const rowOf = new Map(rows.map((row, n) => [row.node, n]).filter(([node]) => node !== null));
const shut = new Set(); // rows of folded headings
let hosts = []; // for each row the row that stands for it: itself, or a folded heading
let selected = null; // a row

function numbers(text) {
  return text ? text.split(" ").map(Number) : [];
}

// ---- folding

function place() {
  const tops = [];
  let y = 0;
  let host = -1; // the outermost folded heading
  hosts = rows.map((row, n) => {
    if (host >= 0 && n <= rows[host].last) {
      tops.push(tops[host]);
      return host;
    }
    host = shut.has(n) ? n : -1;
    tops.push(y);
    y += rowHeight;
    return n;
  });
  lines.forEach((line, n) => {
    line.classList.toggle("hidden", hosts[n] !== n);
    line.classList.toggle("shut", shut.has(n));
    if (rows[n].node === null) line.setAttribute("aria-expanded", String(!shut.has(n)));
    line.setAttribute("transform", `translate(0,${tops[n] + rowHeight / 2})`);
  });
  for (const band of bands) {
    const n = Number(band.dataset.row);
    band.classList.toggle("hidden", hosts[n] !== n);
    band.setAttribute("y", tops[n] + 1);
  }
  for (const path of paths) {
    const inside = path.rows.every((n) => hosts[n] === hosts[path.rows[0]] && hosts[n] !== n);
    path.element.classList.toggle("hidden", inside);
    if (!inside) path.element.setAttribute("d", path.d.replace(/,([\d.]+)/g, (_, old) => {
      const row = Math.min(Math.floor(old / rowHeight), rows.length - 1);
      return `,${tops[row] + (old - row * rowHeight)}`;
    }));
  }
  drawing.setAttribute("height", y);
  drawing.setAttribute("viewBox", `0 0 ${drawing.getAttribute("width")} ${y}`);
  mark();
}

function fold(row, close) {
  if (close) shut.add(row);
  else shut.delete(row);
  place();
}

function reveal(row) {
  rows.forEach((_, n) => { if (n < row && row <= rows[n].last) shut.delete(n); });
  place();
}

function foldFrom(depth) {
  shut.clear();
  rows.forEach((row, n) => { if (row.node === null && row.depth >= depth) shut.add(n); });
  place();
}

function makeLevels() {
  const depths = [...new Set(rows.filter((row) => row.node === null).map((row) => row.depth))];
  const forked = depths.filter((d) => rows.filter((r) => r.node === null && r.depth === d).length > 1);
  if (!forked.length) return place();
  const levels = [["stages", forked[0]], ["layers", Infinity]];
  if (forked.length > 1) levels.splice(1, 0, ["blocks", forked[0] + 1]);
  const buttons = levels.map(([name, depth]) => {
    const button = document.createElement("button");
    button.textContent = name;
    button.addEventListener("click", () => {
      foldFrom(depth);
      buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      if (selected !== null) lines[hosts[selected]].scrollIntoView({ block: "center" });
    });
    return button;
  });
  document.getElementById("levels").append("show ", ...buttons.flatMap((b) => [b, " "]));
  buttons[rows.length > 150 ? levels.length - 2 : levels.length - 1].click();
}

// ---- selecting

function related(number) {
  const node = nodes[number];
  const together = new Set(node.groups.flatMap((g) => groups[g].makers));
  const near = new Set(edges.filter((e) => e.includes(number)).flat());
  for (const g of node.groups) {
    groups[g].readers.forEach((n) => near.add(n));
    nodes.forEach((x, n) => { if (x.role === "join" && x.groups.includes(g)) near.add(n); });
  }
  if (node.role === "layer" && !node.prunable) sameReason(number).forEach((n) => together.add(n));
  together.delete(number);
  near.delete(number);
  return { together, near };
}

function sameReason(number) {
  const [reason] = nodes[number].reasons;
  if (!reason) return [];
  return nodes.flatMap((x, n) => n !== number && !x.prunable && x.reasons[0] === reason ? [n] : []);
}

function mark() {
  drawing.classList.toggle("focus", selected !== null);
  for (const line of lines) line.classList.remove("here", "with", "near");
  if (selected === null) return;
  const number = rows[selected].node;
  const { together, near } = related(number);
  const label = (set, name) => set.forEach((n) => lines[hosts[rowOf.get(n)]].classList.add(name));
  label(together, "with");
  label(near, "near");
  lines[hosts[selected]].classList.add(hosts[selected] === selected ? "here" : "with");
  const own = nodes[number].groups;
  for (const path of paths) {
    const touches = path.element.classList.contains("wire") && path.rows.includes(selected);
    path.element.classList.toggle("on", touches || own.some((g) => path.groups.has(g)));
  }
}

function select(row) {
  selected = row;
  if (row === null) {
    history.replaceState(null, "", location.pathname + location.search);
    panel.replaceChildren(...welcome);
    return mark();
  }
  reveal(row);
  describe(rows[row].node);
  focus(row);
  lines[row].scrollIntoView({ block: "nearest" });
  history.replaceState(null, "", `#${encodeURIComponent(rows[row].path || rows[row].label)}`);
}

function focus(row) {
  for (const line of lines) line.tabIndex = -1;
  lines[row].tabIndex = 0;
}

// ---- the panel

const welcome = [...panel.childNodes];

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function title(node) {
  if (node.role === "join") return node.name ? `${node.kind} in ${node.name}` : node.kind;
  return node.name;
}

function link(number) {
  const button = make("button", { type: "button" }, make("code", {}, title(nodes[number])));
  button.addEventListener("click", () => select(rowOf.get(number)));
  return button;
}

function section(heading, items, note = "") {
  if (!items.length) return [];
  const list = make("ul", {}, ...items.map((item) => make("li", {}, item)));
  return [make("h3", {}, heading), ...(note ? [make("p", { className: "soft" }, note)] : []), list];
}

function describe(number) {
  const node = nodes[number];
  const role = node.role === "layer" ? node.kind : { join: "where tensors meet" }[node.role] ?? "";
  const parts = [make("h2", {}, title(node)), make("p", { className: "soft" }, role)];
  if (node.role === "layer") parts.push(...state(node));
  const names = (text) => make("code", {}, text);
  node.groups.slice(0, 12).forEach((g) => parts.push(...describeGroup(number, g)));
  if (node.groups.length > 12) {
    parts.push(make("p", { className: "soft" }, `and ${node.groups.length - 12} more groups`));
  }
  if (node.role === "layer" && !node.prunable) {
    parts.push(...section("Stay for the same reason", sameReason(number).map(link)));
  }
  const sources = edges.filter(([, b]) => b === number).map(([a]) => link(a));
  const readers = edges.filter(([a]) => a === number).map(([, b]) => link(b));
  parts.push(...section("Norms and raw parameters on its channels", node.carries.map(names)));
  parts.push(...section("Reads", sources), ...section("Is read by", readers));
  panel.replaceChildren(...parts);
  panel.scrollTop = 0;
}

function state(node) {
  const share = `${node.prunable.toLocaleString("en")} of ${node.channels.toLocaleString("en")}`;
  const parts = [make("p", { className: "facts" }, `${share} channels can leave`)];
  if (!node.reasons.length) return parts;
  parts.push(make("h3", {}, node.prunable ? "Why the others stay" : "Why it is pinned"));
  return parts.concat(node.reasons.map((text) => make("p", { className: "reason" }, text)));
}

function describeGroup(number, group) {
  const found = groups[group];
  const chip = make("span", { className: "chip" });
  chip.style.background = colours[group];
  const each = found.channels_at_a_time;
  const partners = found.makers.filter((n) => n !== number).map(link);
  const size = `${found.channels.toLocaleString("en")} channels, leave ` +
    (each > 1 ? `${each} at a time` : "singly");
  return [
    make("h3", {}, chip, `Group ${group}`),
    make("p", { className: "facts" }, size),
    ...found.approximate.map((text) => make("p", { className: "reason" }, `approximate: ${text}`)),
    ...(found.approximate.length ? [] : [make("p", {}, "exact: removing equals zeroing")]),
    ...(partners.length ? section("Lose these channels with it", partners) :
      [make("p", { className: "soft" }, "no other layer makes these channels")]),
    ...section("Lose the inputs", found.readers.filter((n) => n !== number).map(link)),
    ...section("Shrink as well", found.carried.map((name) => make("code", {}, name))),
  ];
}

// ---- finding

const texts = nodes.map((node) => [
  title(node), node.kind, ...node.carries, ...node.reasons, ...node.approximate,
  ...node.groups.map((g) => `group ${g};`),
  node.role === "layer" && !node.prunable ? "pinned" : "",
  node.approximate.length ? "approximate" : "",
].join("\n").toLowerCase());

function hits() {
  const wanted = search.value.trim().toLowerCase();
  if (!wanted) return [];
  const whole = /^group \d+$/.test(wanted) ? `${wanted};` : wanted;
  return texts.flatMap((text, n) => text.includes(whole) ? [rowOf.get(n)] : []);
}

search.addEventListener("input", () => {
  const found = hits();
  drawing.classList.toggle("seek", search.value.trim() !== "");
  for (const line of lines) line.classList.remove("hit");
  for (const row of found) lines[hosts[row]].classList.add("hit");
  document.getElementById("count").textContent = search.value.trim() ? `${found.length} found` : "";
  if (found.length) lines[hosts[found[0]]].scrollIntoView({ block: "nearest" });
});

search.addEventListener("keydown", (event) => {
  const found = hits();
  if (event.key !== "Enter" || !found.length) return;
  const next = found.find((row) => selected !== null && row > selected) ?? found[0];
  select(next);
  document.getElementById("count").textContent = `${found.indexOf(next) + 1} of ${found.length}`;
});

// ---- mouse, keys, links

drawing.addEventListener("click", (event) => {
  const line = event.target.closest(".row");
  if (line) act(Number(line.dataset.row));
});

function act(row) {
  if (rows[row].node === null) fold(row, !shut.has(row));
  else select(selected === row ? null : row);
}

function step(row, by) {
  let next = row + by;
  while (rows[next] && hosts[next] !== next) next += by;
  if (!rows[next]) return;
  focus(next);
  lines[next].focus({ preventScroll: true });
  lines[next].scrollIntoView({ block: "nearest" });
}

drawing.addEventListener("keydown", (event) => {
  const row = Number(event.target.closest(".row")?.dataset.row);
  const keys = {
    ArrowDown: () => step(row, 1),
    ArrowUp: () => step(row, -1),
    ArrowLeft: () => rows[row].node === null && fold(row, true),
    ArrowRight: () => rows[row].node === null && fold(row, false),
    Enter: () => act(row),
    " ": () => act(row),
  };
  if (Number.isNaN(row) || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") select(null);
  if (event.key !== "/" || event.target === search) return;
  event.preventDefault();
  search.focus();
  search.select();
});

for (const line of lines) line.setAttribute("role", "treeitem");
makeLevels();
focus(0);
const asked = decodeURIComponent(location.hash.slice(1));
const start = rows.findIndex((row) => asked && row.node !== null && row.path === asked);
if (start >= 0) {
  select(start);
  lines[start].scrollIntoView({ block: "center" });
}
