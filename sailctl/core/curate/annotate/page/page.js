"use strict";
// Texts become text (textContent), never markup. What is shown as answered is on the server's disk.
const $ = (id) => document.getElementById(id);
const LARGEST_GROWTH = 3; // of small pictures, so that their pixels can be told
const LETTERS = "AB"; // of texts 1 and 2, so that they are told from scores
let words, fields, total, done, place, item, current = 0, zoomed = -1, waiting = Promise.resolve();

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

// One thing after another: a key counts for what stands there when those before it are dealt with.
function inTurn(work) {
  waiting = waiting.then(work).catch((error) => trouble(error.told ?? fill(words?.failed ?? "{why}", { why: error.message })));
  return waiting;
}

async function ask(path, answer) {
  let reply;
  try {
    reply = await fetch(path, answer && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(answer) });
  } catch (error) {
    throw Object.assign(error, { told: words?.offline ?? "The server does not answer." });
  }
  if (reply.status === 403 || reply.status === 421) throw Object.assign(new Error(reply.status), { told: words?.refused ?? (await reply.text()) });
  const said = await reply.json();
  if (!reply.ok) throw new Error(said.error);
  return said;
}

function trouble(text) {
  $("trouble").textContent = text ?? "";
  $("trouble").hidden = !text;
}

const valueOf = (field) => item.values[field.name];
const firstOpen = () => fields.findIndex((field) => valueOf(field) === undefined);

async function start() {
  const state = await ask("state");
  ({ words, fields, total, done } = state);
  $("title").textContent = `${words.title}: ${words.tasks[state.task]}`;
  document.title = $("title").textContent;
  $("annotator").textContent = state.annotator;
  $("intro").textContent = words.intro[state.task];
  for (const id of ["back", "next", "skip"]) $(id).textContent = words[id];
  $("keys").textContent = `${words.help} ?`;
  $("help-title").textContent = words.help;
  $("help-close").textContent = words.close;
  for (const [key, meaning] of Object.entries(words.keys)) {
    const term = make("dt");
    key.split(" ").forEach((one) => term.append(make("kbd", "", one)));
    $("help-keys").append(term, make("dd", "", meaning));
  }
  $("done-title").textContent = words.done_title;
  $("done-text").textContent = words.done_text;
  await go(state.place);
}

async function go(to) {
  if (to >= total) return finish();
  item = await ask(`item/${to}`);
  place = to;
  current = Math.max(firstOpen(), 0);
  trouble();
  $("finished").hidden = true;
  $("work").hidden = false;
  $("skip").disabled = false;
  draw();
  window.scrollTo(0, 0);
  if (to + 1 < total) fetch(`item/${to + 1}`).catch(() => 0); // has the next picture made while this one is judged
}

async function finish() {
  const found = await ask("agreement");
  place = total;
  item = undefined;
  trouble();
  $("work").hidden = true;
  $("finished").hidden = false;
  $("skip").disabled = true;
  far();
  const box = $("agreement");
  box.replaceChildren();
  if (found.waiting) box.append(make("p", "quiet", words.agreement_waiting));
  const rows = Object.entries(found.agreement);
  if (rows.length) {
    const table = make("table");
    table.append(make("caption", "", words.agreement));
    const head = make("tr");
    for (const name of ["criterion", "pairs", "percent", "kappa", "weighted"]) head.append(make("th", "", words[name]));
    const body = make("tbody");
    for (const [criterion, one] of rows) {
      const row = make("tr");
      row.append(make("th", "", words.criteria[criterion].name), make("td", "", String(one.percent.n)));
      row.append(make("td", "", `${(100 * one.percent.value).toFixed(0)}%`));
      for (const name of ["kappa", "weighted"]) row.append(make("td", "", one[name].value === null ? "–" : one[name].value.toFixed(2).replace("-", "−")));
      body.append(row);
    }
    const top = make("thead");
    top.append(head);
    table.append(top, body);
    box.append(table);
  }
  $("done-title").focus();
}

function far() {
  $("progress").textContent = fill(words.progress, { done, total });
  $("fill").style.width = `${(100 * done) / total}%`;
  $("bar").setAttribute("aria-valuenow", done);
  $("bar").setAttribute("aria-valuemax", total);
  $("bar").setAttribute("aria-label", $("progress").textContent);
  $("back").disabled = place === 0;
  $("next").disabled = place >= total;
}

function draw() {
  const pair = item.texts.length > 1;
  $("work").classList.toggle("pair", pair);
  $("pictures").replaceChildren(...item.pictures.map(picture));
  $("texts").replaceChildren(...item.texts.map((turns, n) => {
    const card = make("article", "card text");
    if (pair) card.append(make("h2", "", `${words.text} ${LETTERS[n]}`));
    for (const turn of turns) {
      if (turns.length > 1) card.append(make("h3", "", words.roles[turn.role] ?? turn.role));
      card.append(make("p", "prose", turn.text));
    }
    return card;
  }));
  update();
}

function picture(about, n) {
  const figure = make("figure");
  if (about.problem) {
    const notice = make("div", "broken");
    notice.append(make("strong", "", words.broken_picture), make("p", "", about.problem), make("p", "", words.broken_hint));
    figure.append(notice);
    return figure;
  }
  const button = make("button");
  button.type = "button";
  button.addEventListener("click", () => zoom(n));
  const image = make("img");
  image.alt = fill(words.picture, { n: n + 1 });
  image.title = words.zoom;
  image.width = about.width;
  image.height = about.height;
  image.style.maxWidth = `min(100%, ${LARGEST_GROWTH * about.width}px)`;
  image.src = `picture/${place}/${n}`;
  button.append(image);
  figure.append(button);
  return figure;
}

// The rubric: what the marked row asks and its scale, then a row a criterion; of a pair both texts side by side.
function update() {
  const groups = new Map();
  fields.forEach((field, n) => {
    const criterion = criterionOf(field);
    groups.set(criterion, [...(groups.get(criterion) ?? []), n]);
  });
  const focused = document.activeElement?.dataset?.field;
  $("rubric").replaceChildren(guide(), ...[...groups].map(([criterion, numbers]) => {
    const told = words.criteria[criterion];
    const row = make("section", "criterion");
    row.classList.toggle("current", numbers.includes(current));
    row.append(make("h3", "", told.name), ...numbers.map((n) => scores(fields[n], n, told, numbers.length > 1)));
    return row;
  }));
  if (focused) document.querySelector(`button[data-field="${CSS.escape(focused)}"][tabindex="0"]`)?.focus({ preventScroll: true });
  const status = item.skipped ? words.skipped : item.complete ? words.complete : "";
  $("status").textContent = [fill(words.place, { place: place + 1 }), status].filter(Boolean).join(" · ");
  $("status").className = item.skipped ? "skipped" : item.complete ? "complete" : "";
  far();
}

const criterionOf = (field) => field.name.split(".").pop();

function guide() {
  const field = fields[current];
  const told = words.criteria[criterionOf(field)];
  const box = make("section", fields.length > 1 ? "guide" : "guide short");
  box.append(make("p", "ask", told.ask));
  if (field.name === "preference") return box;
  const list = make("ol");
  told.scale.forEach((meaning, step) => {
    const one = make("li", valueOf(field) === step + 1 ? "chosen" : "");
    one.append(make("strong", "", String(step + 1)), ` ${meaning}`);
    list.append(one);
  });
  box.append(list);
  return box;
}

function scores(field, n, told, several) {
  const [low, high] = field.scale;
  const compares = field.name === "preference";
  const group = make("div", "scores");
  const side = several ? LETTERS[field.name.split(".")[0] - 1] : "";
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", [told.name, side && `${words.text} ${side}`].filter(Boolean).join(", "));
  group.classList.toggle("current", n === current);
  if (several) group.append(make("span", "side", side));
  for (let step = 0; step <= high - low; step++) {
    const value = compares ? high - step : low + step; // of a pair the first key says that text 1 is better
    const button = make("button", compares ? "wide" : "");
    if (compares) button.append(make("kbd", "", String(step + 1)), ` ${told.scale[step]}`);
    else button.textContent = String(value);
    button.type = "button";
    button.title = told.scale[step];
    button.dataset.field = field.name;
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", valueOf(field) === value);
    button.setAttribute("aria-label", compares ? told.scale[step] : `${value}: ${told.scale[step]}`);
    button.tabIndex = valueOf(field) === value || (valueOf(field) === undefined && step === 0) ? 0 : -1;
    button.addEventListener("click", () => inTurn(() => give(n, value)));
    group.append(button);
  }
  return group;
}

function take(said) {
  item = { ...item, ...said };
  done = said.done;
  trouble();
}

async function give(n, value) {
  if (!item || !fields[n]) return;
  take(await ask("answer", { place, field: fields[n].name, value }));
  const after = fields.findIndex((field, k) => k > n && valueOf(field) === undefined);
  current = after >= 0 ? after : firstOpen() >= 0 ? firstOpen() : n;
  update();
  document.querySelector(".scores.current")?.scrollIntoView({ block: "nearest" });
}

async function undo() {
  if (!item) return go(total - 1);
  if (item.skipped) take(await ask("answer", { place, field: "skip", value: null }));
  else {
    const last = Object.keys(item.values).pop();
    if (last === undefined) {
      if (place > 0) return go(place - 1);
      $("status").textContent = words.nothing_to_undo;
      return;
    }
    take(await ask("answer", { place, field: last, value: null }));
    current = fields.findIndex((field) => field.name === last);
  }
  update();
}

async function skip() {
  if (!item) return;
  take(await ask("answer", { place, field: "skip", value: "broken" }));
  update();
  await forward();
}

// On to the next item; at the end to the first that is still open, if there is one.
async function forward() {
  if (place + 1 < total || done === total) return go(place + 1);
  const state = await ask("state");
  return go(state.place);
}

async function confirm() {
  if (!item) return;
  if (item.complete || item.skipped) return forward();
  current = firstOpen();
  update();
  $("status").textContent = words.missing;
  $("status").className = "skipped";
}

async function look(step) {
  if (place + step < 0) $("status").textContent = words.first_item;
  else if (place < total) await go(Math.min(place + step, step > 0 && done < total ? total - 1 : total));
  else if (step < 0) await go(total - 1);
}

function mark(step) {
  if (!item) return;
  current = Math.min(Math.max(current + step, 0), fields.length - 1);
  update();
  document.querySelector(".scores.current")?.scrollIntoView({ block: "nearest" });
}

function digit(number) {
  const field = fields?.[current];
  if (!item || !field) return;
  const [low, high] = field.scale;
  const value = field.name === "preference" ? high - (number - 1) : number;
  if (value >= low && value <= high) return give(current, value);
}

function zoom(n) {
  const images = [...document.querySelectorAll("#pictures figure")].map((figure) => figure.querySelector("img"));
  while (n < images.length && n >= 0 && !images[n]) n++;
  zoomed = n >= 0 && n < images.length ? n : -1;
  $("zoom").hidden = zoomed < 0;
  if (zoomed < 0) return;
  $("zoom").firstElementChild.src = images[zoomed].src;
  $("zoom").firstElementChild.alt = images[zoomed].alt;
  $("zoom").setAttribute("aria-label", images[zoomed].alt);
  $("zoom").focus();
}

function help() {
  if ($("help").open) $("help").close();
  else $("help").showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !words) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "?") { event.preventDefault(); return help(); }
  if ($("help").open) return;
  if (!$("zoom").hidden) {
    if (key === "z") zoom(zoomed + 1);
    else if (key === "Escape") zoom(-1);
    return;
  }
  const onButton = event.target instanceof HTMLButtonElement && !event.target.dataset.field;
  if (key === "Enter" && onButton) return; // presses that button
  const meaning = {
    Enter: confirm, ArrowRight: () => look(1), ArrowLeft: () => look(-1), ArrowDown: () => mark(1), ArrowUp: () => mark(-1),
    u: undo, s: skip,
  }[key];
  if (key === "z") { event.preventDefault(); inTurn(() => zoom(0)); }
  else if (/^[1-5]$/.test(key)) { event.preventDefault(); inTurn(() => digit(Number(key))); }
  else if (meaning && !(event.repeat && key !== "ArrowDown" && key !== "ArrowUp")) { event.preventDefault(); inTurn(meaning); }
});
$("back").addEventListener("click", () => inTurn(() => look(-1)));
$("next").addEventListener("click", () => inTurn(() => (item && (item.complete || item.skipped) ? forward() : look(1))));
$("skip").addEventListener("click", () => inTurn(skip));
$("keys").addEventListener("click", help);
$("help-close").addEventListener("click", help);
$("zoom").addEventListener("click", () => zoom(-1));
inTurn(start);
