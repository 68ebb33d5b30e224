// The list of failures: filtered, sorted, drawn only where it is seen; a trajectory opens beside the untuned one.
const app = globalThis.astprompter;
const { data, make } = app;
const [ADVERSARY, TURN, NLL, TOX, STRATEGY, OWN, BASE, UTTERANCE, REPLY, GROUPS, PLACE, NUMBER, CONFIRMED] = Array(13).keys();
const byId = (id) => document.getElementById(id);
const browser = byId("browser");

if (browser) {
  const list = byId("list");
  const detail = byId("detail");
  const fields = Object.fromEntries(["adversary", "turn", "strategy", "score", "text", "sort"].map((n) => [n, byId(`f-${n}`)]));
  const ORDERS = {
    likely: (a, b) => a - b, // the payload's own order: confirmed ones first
    unlikely: (a, b) => b - a,
    toxic: (a, b) => data.failures[b][TOX] - data.failures[a][TOX] || a - b,
    turn: (a, b) => data.failures[a][TURN] - data.failures[b][TURN] || a - b,
  };
  let found = [];
  let chosen = 0;
  let row = 76;
  const sizer = make("div", "sizer");
  sizer.setAttribute("role", "presentation");
  list.append(sizer);

  const options = (select, all, values) => {
    select.append(new Option(all, ""));
    values.forEach(([label, value]) => select.append(new Option(label, value)));
  };
  const present = (index) => new Set(data.failures.map((failure) => failure[index]));
  const some = present(ADVERSARY);
  options(fields.adversary, "all", data.adversaries.map(([label], i) => [label, i]).filter(([, i]) => some.has(i)));
  options(fields.turn, "any turn", [...present(TURN)].sort((a, b) => a - b).map((turn) => [`turn ${turn}`, turn]));
  options(fields.strategy, "any", data.strategies.map((name, i) => [name, i]));
  if (some.has(0)) fields.adversary.value = "0";

  const said = (failure) => {
    const path = data.trajectories[failure[OWN]];
    const texts = path ? [data.prefixes[path[0]], ...path[1].flatMap((turn) => [turn[0], turn[1]])] : [];
    return [failure[UTTERANCE], failure[REPLY], ...texts].join("\n").toLowerCase();
  };

  const refresh = () => {
    const wanted = fields.text.value.trim().toLowerCase();
    const keep = (failure) =>
      (fields.adversary.value === "" || failure[ADVERSARY] === Number(fields.adversary.value)) &&
      (fields.turn.value === "" || failure[TURN] === Number(fields.turn.value)) &&
      (fields.strategy.value === "" || failure[STRATEGY] === Number(fields.strategy.value)) &&
      failure[TOX] >= Number(fields.score.value) &&
      (!wanted || said(failure).includes(wanted));
    found = [];
    data.failures.forEach((failure, i) => keep(failure) && found.push(i));
    found.sort(ORDERS[fields.sort.value]);
    byId("f-score-value").textContent = Number(fields.score.value).toFixed(2);
    byId("count").textContent = `${found.length} of ${data.failures.length} failures`;
    chosen = 0;
    list.scrollTop = 0;
    draw();
    open();
  };

  const option = (place) => {
    const failure = data.failures[found[place]];
    const node = make("div", "row");
    node.id = `row-${place}`;
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", String(place === chosen));
    node.setAttribute("aria-setsize", found.length);
    node.setAttribute("aria-posinset", place + 1);
    node.style.transform = `translateY(${place * row}px)`;
    const head = make("div", "head");
    head.append(make("b", "", `#${found[place] + 1}`), make("span", `key s${data.adversaries[failure[ADVERSARY]][1]}`));
    head.append(make("span", "", data.adversaries[failure[ADVERSARY]][0]), make("span", "", `turn ${failure[TURN]}`));
    if (failure[STRATEGY] >= 0) head.append(make("span", "chip", data.strategies[failure[STRATEGY]]));
    if (failure[CONFIRMED]) head.append(make("span", "chip", "confirmed"));
    head.append(make("span", "figures", `nll ${app.number(failure[NLL])} · φ ${app.number(failure[TOX])}`));
    const texts = make("div", "snippet");
    texts.dir = "auto";
    const snippet = `${failure[UTTERANCE].trim().slice(0, 90)} → ${failure[REPLY].trim().slice(0, 90)}`;
    if (app.shown) texts.textContent = snippet;
    else {
      texts.setAttribute("aria-hidden", "true");
      texts.append(app.bars(snippet));
    }
    node.append(head, texts);
    node.addEventListener("click", () => choose(place, true));
    return node;
  };

  const draw = () => {
    sizer.style.height = `${found.length * row}px`;
    const first = Math.max(0, Math.floor(list.scrollTop / row) - 4);
    const last = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / row) + 4);
    const rows = [];
    for (let place = first; place < last; place += 1) rows.push(option(place));
    sizer.replaceChildren(...rows);
    if (byId(`row-${chosen}`)) list.setAttribute("aria-activedescendant", `row-${chosen}`);
    else list.removeAttribute("aria-activedescendant");
  };

  const choose = (place, reveal) => {
    if (!found.length) return;
    chosen = Math.min(found.length - 1, Math.max(0, place));
    const top = chosen * row;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + row > list.scrollTop + list.clientHeight) list.scrollTop = top + row - list.clientHeight;
    draw();
    open();
    if (reveal && matchMedia("(max-width: 60rem)").matches) detail.scrollIntoView({ block: "start" });
  };

  const meter = (name, value, threshold) => {
    const node = make("span", value > threshold ? "meter high" : "meter");
    const bar = make("i");
    bar.style.width = `${100 * (value ?? 0)}%`;
    const track = make("span", "track");
    track.append(bar);
    node.append(make("span", "", `${name} ${app.number(value)}`), track);
    return node;
  };

  const column = (title, slot, threshold, path, failing) => {
    const node = make("section", "path");
    const head = make("h4");
    head.append(make("span", `key s${slot}`), title);
    node.append(head);
    const anew = path[2]; // every attempt begins at the opening: the others are no part of this conversation
    path[1].forEach(([utterance, reply, lengths, logprobs, scores, error], i) => {
      if (anew && failing && i + 1 !== failing) return;
      const [nll, , toxReply, toxTurn] = scores;
      const turn = make("div", i + 1 === failing ? "turn failing" : "turn");
      turn.append(make("h5", "", `${anew ? "From the opening anew, attempt" : "Turn"} ${i + 1}${i + 1 === failing ? ": the failure" : ""}`));
      turn.append(make("span", "who", `adversary · nll ${app.number(nll)}`), app.shaded(utterance, lengths, logprobs));
      turn.append(make("span", "who", "defender"), app.say("reply", reply));
      const row = make("div", "meters");
      if (toxReply !== null) row.append(meter("reply", toxReply, threshold));
      if (toxTurn !== null) row.append(meter("whole turn", toxTurn, threshold));
      if (error) row.append(make("span", "", `missing: ${error}`));
      turn.append(row);
      node.append(turn);
    });
    return node;
  };

  const open = () => {
    detail.replaceChildren();
    if (!found.length) {
      detail.append(make("p", "absent", "No failure passes these filters."));
      return;
    }
    const failure = data.failures[found[chosen]];
    const [label, slot, threshold] = data.adversaries[failure[ADVERSARY]];
    const head = make("div", "title");
    head.append(make("h3", "", `Failure ${found[chosen] + 1}`));
    const known = failure[NLL] !== null;
    const perplexity = known ? `nll up to here ${app.number(failure[NLL])} (perplexity ${app.number(Math.exp(failure[NLL]), 1)})` : "nll not known";
    head.append(make("p", "", `${label}, turn ${failure[TURN]}, toxicity ${app.number(failure[TOX])}, ${perplexity}`));
    if (failure[CONFIRMED] !== null) {
      const told = failure[CONFIRMED] ? "Every scorer calls the reply toxic." : "Not every scorer calls the reply toxic.";
      head.append(make("p", "", told));
    }
    if (failure[GROUPS]) {
      const caution = `The reply names a group of people (${failure[GROUPS]}), and the scorer’s card says that such replies score too high: read it before you count it.`;
      head.append(make("p", "absent", caution));
    }
    const again = make("p", "again", "Once more, with 20 fresh replies: ");
    again.append(make("code", "", `astprompter replay ${data.places[failure[PLACE]]} ${failure[NUMBER]} -n 20`));
    head.append(again);
    detail.append(head);
    const own = data.trajectories[failure[OWN]];
    if (!own) {
      detail.append(app.say("utterance", failure[UTTERANCE]), app.say("reply", failure[REPLY]));
      detail.append(make("p", "absent", "The whole trajectory is not in the folder (trajectories.jsonl)."));
      return;
    }
    detail.append(make("span", "who", "opening, written by a person"), app.say("prefix", data.prefixes[own[0]]));
    const legend = make("p", "legend", "Each token’s probability under the defender: ");
    ["over 50 %", "10–50 %", "1–10 %", "0.1–1 %", "less"].forEach((name, i) => legend.append(make("span", `token l${i}`, name)));
    if (own[1].some((turn) => turn[2].length)) detail.append(legend);
    const paths = make("div", "paths");
    paths.append(column(label, slot, threshold, own, failure[TURN]));
    const base = data.trajectories[failure[BASE]];
    if (base) {
      const failing = base[1].findIndex((turn) => turn[4][2] > threshold) + 1;
      paths.append(column("untuned, same opening", 1, threshold, base, failing));
    }
    detail.append(paths);
  };

  const guard = (value) => {
    const text = String(value ?? "");
    return `"${(/^[\s]*[=+\-@\t\r]/.test(text) && typeof value === "string" ? `'${text}` : text).replaceAll('"', '""')}"`;
  };
  app.csv = () => {
    const head = ["rank", "adversary", "turn", "path_nll", "tox_reply", "strategy", "utterance", "reply", "confirmed"];
    const rows = found.map((i) => {
      const f = data.failures[i];
      const strategy = f[STRATEGY] < 0 ? "" : data.strategies[f[STRATEGY]];
      return [i + 1, data.adversaries[f[ADVERSARY]][0], f[TURN], f[NLL], f[TOX], strategy, app.veil(f[UTTERANCE]), app.veil(f[REPLY]), f[CONFIRMED] ?? ""];
    });
    return [head, ...rows].map((cells) => cells.map(guard).join(",")).join("\r\n") + "\r\n";
  };
  byId("csv").addEventListener("click", () => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([app.csv()], { type: "text/csv" }));
    link.download = "failures.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });

  const moves = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: 6, PageUp: -6, Home: -Infinity, End: Infinity };
  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) choose(chosen + moves[event.key]);
    else if (event.key === "Enter") {
      detail.scrollIntoView({ block: "nearest" });
      detail.focus();
    } else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("warning").open) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "range";
    if (event.key === "Escape" && (detail.contains(event.target) || typing)) list.focus();
    else if (typing) return;
    else if (event.key === "/") fields.text.focus();
    else if (event.key === "m") app.toggle();
    else return;
    event.preventDefault();
  });
  Object.values(fields).forEach((field) => field.addEventListener("input", refresh));
  browser.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  list.addEventListener("scroll", draw, { passive: true });
  new ResizeObserver(draw).observe(list);
  app.redraw.push(() => {
    draw();
    open();
  });
  browser.hidden = false;
  refresh();
}

// The first failure of each of the largest clusters, masked like every text.
const examples = [...document.querySelectorAll("[data-example]")].map((item) => [item, app.make("div", "example")]);
const drawExamples = () => {
  examples.forEach(([item, box]) => {
    const failure = app.data.failures[Number(item.dataset.example)];
    box.replaceChildren(app.say("utterance", failure[7]), app.say("reply", failure[8]));
    item.append(box);
  });
};
app.redraw.push(drawExamples);
drawExamples();
