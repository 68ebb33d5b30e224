// One rollout tree at a time; a node tells its texts.
const app = globalThis.astprompter;
const trees = [...document.querySelectorAll("[data-tree]")];
const panel = document.getElementById("node");

if (trees.length) {
  const picker = app.make("label", "picker", "Iteration ");
  const select = app.make("select");
  select.id = "tree";
  app.data.trees.forEach(([iteration], i) => select.append(new Option(iteration, i)));
  picker.append(select);
  document.getElementById("trees").before(picker);
  let current = null;

  const tell = () => {
    panel.replaceChildren();
    if (!current) {
      panel.append(app.make("p", "note", "Choose a node to read its turn; arrow keys move between nodes."));
      return;
    }
    const [tree, number] = current;
    const [utterance, reply, nll, toxReply, toxTurn, reward, choice, error, depth] = app.data.trees[tree][2][number];
    panel.append(app.make("h4", "", `Turn ${depth}, ${choice ?? "no pair"}`));
    panel.append(app.say("utterance", utterance), app.say("reply", reply));
    const scores = `R ${app.number(reward)} · nll ${app.number(nll)} · tox_reply ${app.number(toxReply)} · tox_turn ${app.number(toxTurn)}`;
    panel.append(app.make("p", "scores", error ? `${scores} · missing: ${error}` : scores));
  };

  trees.forEach((box, i) => {
    box.querySelector("svg").setAttribute("role", "group");
    const nodes = [...box.querySelectorAll(".node")];
    const pick = (node) => {
      nodes.forEach((other) => {
        other.setAttribute("tabindex", other === node ? "0" : "-1");
        other.classList.toggle("picked", other === node);
        other.setAttribute("aria-pressed", String(other === node));
      });
      current = [i, Number(node.dataset.node)];
      tell();
    };
    nodes.forEach((node, n) => {
      const [, , , toxReply, , reward, choice, , depth] = app.data.trees[i][2][Number(node.dataset.node)];
      node.setAttribute("role", "button");
      node.setAttribute("tabindex", n ? "-1" : "0");
      node.setAttribute("aria-pressed", "false");
      const label = `Turn ${depth}, ${choice ?? "no pair"}, reward ${app.number(reward)}, reply toxicity ${app.number(toxReply)}`;
      node.setAttribute("aria-label", label);
      node.addEventListener("click", () => pick(node));
      node.addEventListener("keydown", (event) => {
        const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
        if (event.key === "Enter" || event.key === " ") pick(node);
        else if (step && nodes[n + step]) {
          pick(nodes[n + step]);
          nodes[n + step].focus();
        } else return;
        event.preventDefault();
      });
    });
  });

  const show = (index) => {
    trees.forEach((box, i) => box.classList.toggle("away", i !== index));
    current = null;
    tell();
  };
  select.value = trees.length - 1;
  select.addEventListener("change", () => show(Number(select.value)));
  app.redraw.push(tell);
  show(trees.length - 1);
}
