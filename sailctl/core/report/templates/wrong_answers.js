"use strict";
// Data becomes text (textContent, setAttribute), never markup.
const ROW_HEIGHT = 76; // as .row has it
const FOLD = 1500; // characters shown of a longer text
const HASH_EVERY_MS = 400; // browsers refuse an address that changes more often
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const rows = data.rows;
const suites = new Map(Object.entries(data.suites));

// What a row has of each choice; `show` may have several.
const reasons = { unparsed: "unparsed", failed: "without answer", empty: "empty answer", cut: "cut at the limit", partly: "partly right" };
const reasonsOf = (row) => {
  const found = [];
  if (row.u) found.push("unparsed");
  if (row.f) found.push("failed");
  if (!row.f && !(row.p ?? "").trim()) found.push("empty");
  if (row.t) found.push("cut");
  if (row.s > 0) found.push("partly");
  return found;
};
const choices = {
  suite: (row) => [suites.get(row.b) ?? ""],
  benchmark: (row) => [row.b],
  category: (row) => [row.c ?? ""],
  show: reasonsOf,
};
const names = Object.keys(choices);
const has = rows.map((row) => names.map((name) => choices[name](row)));
const variety = names.map((name, k) => new Set(has.flatMap((of) => of[k])).size);
const firstOf = new Map();
rows.forEach((row, n) => { if (!firstOf.has(row.b)) firstOf.set(row.b, n); });
const graded = rows.some((row) => row.s > 0);

const everything = () => ({ suite: null, benchmark: null, category: null, show: null, q: "", below: 1, order: "" });
let state = everything();
let chosen = []; // numbers of the rows that fit, in the order shown
let place = 0; // of the current one among them
const haystacks = [];

function sift() {
  const counts = names.map(() => new Map());
  const wanted = names.map((name) => state[name]);
  const words = state.q.trim().toLowerCase();
  chosen = [];
  rows.forEach((row, n) => {
    if (row.s >= state.below) return;
    if (words) {
      haystacks[n] ??= `${row.q ?? ""}\n${row.p ?? ""}\n${row.i}`.toLowerCase();
      if (!haystacks[n].includes(words)) return;
    }
    const misses = wanted.flatMap((value, k) => (value === null || has[n][k].includes(value) ? [] : [k]));
    if (misses.length === 0) chosen.push(n);
    if (misses.length > 1) return;
    // A choice counts what would be there if only it were changed.
    (misses.length ? misses : [...names.keys()]).forEach((k) => {
      for (const value of has[n][k]) counts[k].set(value, (counts[k].get(value) ?? 0) + 1);
      counts[k].all = (counts[k].all ?? 0) + 1;
    });
  });
  if (state.order === "worst") {
    chosen.sort((a, b) => firstOf.get(rows[a].b) - firstOf.get(rows[b].b) || rows[a].s - rows[b].s || a - b);
  }
  return counts;
}

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

function fillChoices(counts) {
  names.forEach((name, k) => {
    const values = [...counts[k].keys()];
    if (state[name] !== null && !counts[k].has(state[name])) values.push(state[name]);
    if (name === "category" || name === "suite") values.sort((a, b) => a.localeCompare(b));
    const label = (value) => (name === "show" ? reasons[value] : value) || "(none)";
    const options = values.map((value) => new Option(`${label(value)} (${commas(counts[k].get(value) ?? 0)})`, `=${value}`));
    $(name).replaceChildren(new Option(`all (${commas(counts[k].all ?? 0)})`, ""), ...options);
    $(name).value = state[name] === null ? "" : `=${state[name]}`;
    $(`${name}-field`).hidden = variety[k] < (name === "show" ? 1 : 2);
  });
  $("search").value = state.q;
  $("below").value = state.below;
  $("below-value").textContent = state.below;
  $("order").value = state.order;
  $("below-field").hidden = $("order-field").hidden = !graded;
}

const commas = (count) => count.toLocaleString("en");
const clip = (text, length) => text.slice(0, length).replace(/[\uD800-\uDBFF]$/, "").replace(/\s+/g, " ");

function change(next) {
  const current = chosen[place];
  state = { ...state, ...next };
  fillChoices(sift());
  goNear(current);
}

// The same row where it still fits, else the next one of the table that does.
function goNear(row) {
  const same = chosen.indexOf(row);
  const after = state.order ? 0 : chosen.findIndex((n) => n >= row);
  go(same >= 0 ? same : Math.max(0, after));
}

function go(to) {
  place = Math.min(Math.max(0, to), Math.max(0, chosen.length - 1));
  const count = chosen.length;
  $("count").textContent = count ? `${commas(place + 1)} of ${commas(count)}` : "none";
  $("previous").disabled = place === 0;
  $("next").disabled = place >= count - 1;
  showQuestion();
  const list = $("list");
  const top = place * ROW_HEIGHT;
  if (list.clientHeight) {
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
  }
  showList();
  saveHash();
}

// The list holds only the rows in sight.
function showList() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 5);
  const last = Math.min(chosen.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + 5);
  const made = [];
  for (let at = first; at < last; at += 1) {
    const row = rows[chosen[at]];
    const said = element("div", { class: "said" }, `→ ${clip(row.p ?? "", 120) || (row.f ? "no answer" : "(empty)")}`);
    const head = element("div", { class: "head" }, element("span", null, `${row.b} · ${row.i}`), graded ? element("span", null, String(row.s)) : null);
    const attributes = { class: "row", role: "option", id: `row-${at}`, "aria-selected": String(at === place) };
    Object.assign(attributes, { "aria-posinset": at + 1, "aria-setsize": chosen.length });
    const shown = element("div", attributes, head, element("div", null, clip(row.q ?? "", 160) || "(no question)"), said);
    shown.style.top = `${at * ROW_HEIGHT}px`;
    shown.addEventListener("click", () => go(at));
    made.push(shown);
  }
  $("rows").style.height = `${chosen.length * ROW_HEIGHT}px`;
  $("rows").replaceChildren(...made);
  list.setAttribute("aria-activedescendant", `row-${place}`);
}

function prose(text, otherwise) {
  if (!text.trim()) return [element("p", { class: "prose nothing" }, otherwise)];
  const shown = element("p", { class: "prose", dir: "auto" }, text);
  if (text.length <= FOLD) return [shown];
  const unfold = element("button", { type: "button", "aria-expanded": "false" });
  const set = (open) => {
    shown.textContent = open ? text : `${text.slice(0, FOLD).replace(/[\uD800-\uDBFF]$/, "")} …`;
    unfold.textContent = open ? "Show less" : `Show all ${commas(text.length)} characters`;
    unfold.setAttribute("aria-expanded", String(open));
  };
  unfold.addEventListener("click", () => set(unfold.getAttribute("aria-expanded") === "false"));
  set(false);
  return [shown, unfold];
}

const section = (title, kind, ...children) => element("section", { class: kind }, element("h3", null, title), ...children);
const same = (a, b) => a.trim().toLowerCase() === b.trim().toLowerCase();
// A letter alone, with or without a bracket or a full stop.
const letterIn = (text) => /^\s*\(?([A-Z])[).:]?\s*$/.exec(text)?.[1] ?? null;

function options(row) {
  const names = (text, [letter, option]) => (letter && letterIn(text) === letter) || same(text, option);
  const items = row.o.map((option) => {
    const right = names(row.a ?? "", option);
    const said = names(row.p ?? "", option);
    const marks = [right ? "right" : "", said ? "chosen" : ""].filter(Boolean);
    const mark = marks.length ? element("span", { class: "mark" }, marks.join(", ")) : null;
    const letter = option[0] ? element("span", { class: "letter" }, option[0]) : null;
    return element("li", { class: marks[0] ?? "" }, letter, element("span", { class: "text", dir: "auto" }, option[1]), mark);
  });
  return section("Options", "", element("ul", { class: "options" }, ...items));
}

function pictures(row) {
  const absent = (text) => element("p", { class: "absent" }, text);
  const figures = row.m.map((name, at) => {
    const which = row.m.length > 1 ? `Picture ${at + 1} of ${row.m.length}` : "Picture";
    const figure = element("figure");
    if (name === null) {
      figure.append(absent(`${which}: not kept by the bench`));
      return figure;
    }
    const image = element("img", { alt: `${which} of question ${row.i} of ${row.b}`, loading: "lazy", decoding: "async" });
    const button = element("button", { type: "button", title: "Enlarge" }, image);
    image.addEventListener("error", () => button.replaceWith(absent(`${which}: cannot be shown`)));
    button.addEventListener("click", () => zoom(image));
    image.src = `images/${name}`;
    figure.append(button);
    if (row.m.length > 1) figure.append(element("figcaption", null, which));
    return figure;
  });
  return element("div", { class: "pictures" }, ...figures);
}

function showQuestion() {
  const article = $("question");
  const row = rows[chosen[place]];
  if (row === undefined) {
    article.replaceChildren(element("p", { class: "prose nothing" }, "No wrong answer fits these filters."));
    return;
  }
  const badges = reasonsOf(row).filter((reason) => reason !== "partly").map((reason) => (reason === "failed" ? `without answer: ${row.f}` : reasons[reason]));
  const badge = (text) => element("span", { class: "badge" }, text);
  const about = [suites.get(row.b), row.c, row.l ? `level ${row.l}` : ""].filter(Boolean).join(" · ");
  const heading = element("div", null, element("h2", null, `${row.b} · ${row.i}`), element("div", { class: "meta" }, about));
  const top = element("div", { class: "top" }, heading, element("div", { class: "badges" }, badge(`score ${row.s}`), ...badges.map(badge)));
  const others = row.r ? element("p", { class: "meta" }, `also right: ${row.r.join(" · ")}`) : null;
  const texts = element(
    "div",
    { class: "texts" },
    section("Question", "", ...prose(row.q ?? "", "(no question)")),
    row.o ? options(row) : null,
    element(
      "div",
      { class: "pair" },
      section("Right answer", "right", ...prose(row.a ?? "", "(none given)"), ...(others ? [others] : [])),
      section("Answer given", "wrong", ...prose(row.p ?? "", row.f ? "(no answer)" : "(empty: the model said nothing)")),
    ),
  );
  article.replaceChildren(top, element("div", { class: row.m ? "body pictured" : "body" }, row.m ? pictures(row) : null, texts));
  if (article.getBoundingClientRect().top < 0) $("work").scrollIntoView();
}

function zoom(image) {
  $("zoomed").src = image.src;
  $("zoomed").alt = image.alt;
  $("zoomed").classList.remove("full");
  $("zoom").showModal();
}

// The address holds filters and place: a reload stays, a link leads to the same question.
let saved = 0;
let saving = null;
function saveHash() {
  clearTimeout(saving);
  saving = setTimeout(putHash, Math.max(0, saved + HASH_EVERY_MS - Date.now()));
}
function putHash() {
  clearTimeout(saving);
  saving = null;
  saved = Date.now();
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== everything()[name]) parts.set(name, value);
  }
  const row = rows[chosen[place]];
  if (row) parts.set("at", `${row.b}/${row.i}`);
  history.replaceState(null, "", `#${parts}`);
}
function readHash() {
  const parts = new URLSearchParams(location.hash.slice(1));
  state = everything();
  for (const name of [...names, "q", "order"]) if (parts.has(name)) state[name] = parts.get(name);
  if (state.show !== null && !Object.hasOwn(reasons, state.show)) state.show = null;
  if (state.order !== "worst") state.order = "";
  const below = Number(parts.get("below"));
  if (below > 0 && below < 1) state.below = below;
  fillChoices(sift());
  const at = parts.get("at");
  goNear(at === null ? 0 : rows.findIndex((row) => `${row.b}/${row.i}` === at));
}
addEventListener("hashchange", readHash);
addEventListener("pagehide", () => { if (saving !== null) putHash(); });

let byMouse = false; // after a choice with the mouse, keys leaf again
for (const name of [...names, "order"]) {
  const select = $(name);
  select.addEventListener("pointerdown", () => { byMouse = true; });
  select.addEventListener("keydown", () => { byMouse = false; });
  select.addEventListener("change", () => {
    change({ [name]: name === "order" ? select.value : select.value ? select.value.slice(1) : null });
    if (byMouse) select.blur();
  });
}
let typing = null;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => change({ q: $("search").value }), 150);
});
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Escape" || event.key === "Enter") $("search").blur();
});
$("below").addEventListener("input", () => change({ below: Number($("below").value) }));
$("reset").addEventListener("click", () => {
  clearTimeout(typing);
  change(everything());
});
$("previous").addEventListener("click", () => go(place - 1));
$("next").addEventListener("click", () => go(place + 1));
$("list-toggle").addEventListener("click", () => {
  const open = $("work").classList.toggle("listed");
  $("list-toggle").setAttribute("aria-expanded", String(open));
  go(place);
});
$("list").addEventListener("scroll", showList);
$("list").addEventListener("keydown", (event) => {
  const page = Math.max(1, Math.floor($("list").clientHeight / ROW_HEIGHT) - 1);
  const to = { ArrowDown: place + 1, ArrowUp: place - 1, PageDown: place + page, PageUp: place - page, Home: 0, End: chosen.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  go(to);
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("zoom").open || event.target.closest?.("input, select, textarea")) return;
  if (event.key === "/") {
    event.preventDefault();
    $("filters").open = true;
    $("search").focus();
  }
  if (event.key === "j" || event.key === "ArrowRight") go(place + 1);
  if (event.key === "k" || event.key === "ArrowLeft") go(place - 1);
});
addEventListener("resize", showList);
$("zoomed").addEventListener("click", () => $("zoomed").classList.toggle("full"));
$("zoom-close").addEventListener("click", () => $("zoom").close());
$("zoom").addEventListener("click", (event) => { if (event.target === $("zoom")) $("zoom").close(); });

if (matchMedia("(max-width: 860px)").matches) $("filters").open = false;
readHash();
