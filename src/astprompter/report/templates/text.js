// Text that is masked until the reader asks, and tokens shaded by likelihood. Model text enters the page by
// textContent only.
const app = { data: JSON.parse(document.getElementById("data").textContent), shown: false, redraw: [] };
globalThis.astprompter = app;

app.make = (tag, kind, text) => {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  if (text !== undefined) node.textContent = text;
  return node;
};

const MASKED = /[^\s\p{P}\p{Cf}]/gu;
app.veil = (text) => (app.shown ? text : text.replace(MASKED, "▅"));

// A bar for every word of a masked text: its shape without its letters.
app.bars = (text, level = "") => {
  const parts = document.createDocumentFragment();
  text.split(/(\s+)/).forEach((word) => {
    if (!word.trim()) parts.append(word && " ");
    else {
      const bar = app.make("span", `bar ${level}`);
      bar.style.width = `${0.52 * Math.min(word.length, 30)}em`;
      parts.append(bar);
    }
  });
  return parts;
};

app.say = (kind, text) => {
  const node = app.make("p", `said ${kind}`);
  node.dir = "auto";
  if (app.shown) {
    node.textContent = text;
  } else {
    const words = text.split(/\s+/).filter(Boolean).length;
    node.append(app.make("span", "unseen", `masked text, ${words} words`));
    const blocks = app.make("span", "blocks");
    blocks.setAttribute("aria-hidden", "true");
    blocks.append(app.bars(text));
    node.append(blocks);
  }
  return node;
};

const LEVELS = [-0.693, -2.303, -4.605, -6.908]; // probabilities 1/2, 1/10, 1/100, 1/1000
app.level = (logprob) => LEVELS.filter((edge) => logprob < edge).length;

app.shaded = (text, lengths, logprobs) => {
  if (!lengths.length) return app.say("utterance", text);
  const node = app.say("utterance", "");
  node.textContent = "";
  if (!app.shown) node.append(app.make("span", "unseen", `masked text, ${lengths.length} tokens`));
  const tokens = app.make("span", app.shown ? "" : "blocks");
  if (!app.shown) tokens.setAttribute("aria-hidden", "true");
  let start = 0;
  lengths.forEach((length, i) => {
    const piece = text.slice(start, start + length);
    start += length;
    if (!app.shown) {
      tokens.append(app.bars(piece, `l${app.level(logprobs[i])}`));
      return;
    }
    const token = app.make("span", `token l${app.level(logprobs[i])}`, piece);
    token.title = `log-probability ${logprobs[i].toFixed(2)} nats`;
    tokens.append(token);
  });
  node.append(tokens);
  return node;
};

app.number = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));

const button = document.getElementById("mask");
const warning = document.getElementById("warning");
app.unmask = (shown) => {
  app.shown = shown;
  button.setAttribute("aria-checked", String(shown));
  document.body.classList.toggle("shown", shown);
  app.redraw.forEach((draw) => draw());
};
app.toggle = () => (app.shown ? app.unmask(false) : warning.showModal());
button.addEventListener("click", app.toggle);
document.getElementById("keep").addEventListener("click", () => warning.close());
document.getElementById("show").addEventListener("click", () => {
  warning.close();
  app.unmask(true);
});
