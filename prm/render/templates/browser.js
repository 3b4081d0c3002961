"use strict";
(() => {
  const source = document.getElementById("browser-data");
  if (!source) return;
  const setup = JSON.parse(source.textContent);
  const byId = (id) => document.getElementById(`browse-${id}`);
  const PER_PAGE = 25;
  const KEPT = 12;
  const OUTCOMES = new Map([[true, "right"], [false, "wrong"], [null, "undecided"]]);

  // An element with attributes and children; texts become text nodes, never markup.
  function make(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key === "value") made.style.setProperty("--value", value);
      else if (value !== null) made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  // --- files: a script calls `curateData` with its name, the stamp of its report, and its value -----------------
  const waiting = new Map();
  window.curateData = (name, stamp, value) => {
    const entry = waiting.get(name);
    if (!entry) return;
    waiting.delete(name);
    if (stamp === setup.stamp) entry.resolve(value);
    else entry.reject(new Error("It belongs to another report."));
  };
  function fetchFile(name) {
    return new Promise((resolve, reject) => {
      waiting.set(name, { resolve, reject });
      const script = document.createElement("script");
      script.src = `${setup.folder}/${name}`;
      script.charset = "utf-8";
      const fail = () => {
        script.remove();
        if (waiting.delete(name)) reject(new Error("It cannot be read."));
      };
      script.addEventListener("load", fail);
      script.addEventListener("error", fail);
      document.head.append(script);
    });
  }
  const kept = new Map();
  function load(name) {
    let found = kept.get(name);
    kept.delete(name);
    if (!found) {
      found = fetchFile(name);
      found.catch(() => kept.delete(name));
    }
    kept.set(name, found);
    // The oldest goes: what is read stays a few files, however many chains were opened.
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    return found;
  }

  let index = null;
  let texts = null;
  let matches = [];
  let page = 0;
  let turn = 0;

  // --- filters --------------------------------------------------------------------------------------------------
  function chosen() {
    const drop = byId("drop").valueAsNumber;
    return {
      domain: byId("domain").value, role: byId("role").value, outcome: byId("outcome").value,
      drop: Number.isNaN(drop) ? null : drop, order: byId("order").value,
      text: byId("text").value.trim().toLowerCase(),
    };
  }

  async function readTexts() {
    if (texts) return;
    const files = Math.ceil(index.count / index.group);
    const read = [];
    for (let place = 0; place < files; place += 1) {
      say(`Reading texts: ${place + 1} of ${files} files`);
      const part = await fetchFile(`search-${String(place).padStart(3, "0")}.js`);
      for (const text of part) read.push(text.toLowerCase());
    }
    texts = read;
  }

  function filtered(want) {
    const found = [];
    for (let place = 0; place < index.count; place += 1) {
      if (want.domain !== "" && index.domain[place] !== Number(want.domain)) continue;
      if (want.role !== "" && index.role[place] !== Number(want.role)) continue;
      if (want.outcome !== "" && OUTCOMES.get(index.outcome[place]) !== want.outcome) continue;
      if (want.drop !== null && !(index.drop[place] !== null && index.drop[place] >= want.drop)) continue;
      if (want.text !== "" && !texts[place].includes(want.text)) continue;
      found.push(place);
    }
    if (want.order !== "") {
      const key = index[want.order];
      const size = (place) => (key[place] === null ? -1 : key[place]);
      found.sort((one, other) => size(other) - size(one) || one - other);
    }
    return found;
  }

  const say = (text) => { byId("status").textContent = text; };

  async function apply() {
    const want = chosen();
    turn += 1;
    const mine = turn;
    try {
      if (want.text !== "") await readTexts();
    } catch (error) {
      say(`Texts cannot be searched. ${error.message}`);
      return;
    }
    // Somebody went on typing while texts were read.
    if (mine !== turn) return;
    matches = filtered(want);
    show(0);
  }

  // --- the list -------------------------------------------------------------------------------------------------
  function show(to) {
    const pages = Math.max(1, Math.ceil(matches.length / PER_PAGE));
    page = Math.min(Math.max(to, 0), pages - 1);
    const part = matches.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
    byId("list").replaceChildren(...part.map(row));
    const count = matches.length.toLocaleString("en");
    say(matches.length === index.count ? `${count} chains` : `${count} of ${index.count.toLocaleString("en")} chains`);
    document.querySelector("#browse .pages").hidden = pages === 1;
    byId("page").max = pages;
    byId("page").value = page + 1;
    byId("pages").textContent = `of ${pages.toLocaleString("en")}`;
    byId("before").disabled = page === 0;
    byId("after").disabled = page === pages - 1;
  }

  function outcome(right) {
    const name = OUTCOMES.get(right);
    return make("span", { class: `outcome ${name}` }, name);
  }

  function row(place) {
    const strip = make("span", { class: "strip", "aria-hidden": "true" });
    for (const mark of index.strip[place]) {
      const digit = "0123456789".indexOf(mark);
      const letter = "abcdefghij".indexOf(mark);
      if (digit >= 0) strip.append(make("i", { value: digit / 9 }));
      else if (letter >= 0) strip.append(make("i", { class: "score", value: letter / 9 }));
      else strip.append(make("i", { class: "none" }));
    }
    const drop = index.drop[place];
    const summary = make("summary", null,
      outcome(index.outcome[place]),
      make("span", { class: "name" }, make("bdi", null, index.domains[index.domain[place]]),
        make("small", { class: "muted" }, ` ${index.roles[index.role[place]]}`)),
      make("bdi", { class: "question" }, index.question[place]),
      make("span", { class: "fall muted" }, drop ? `drop ${drop.toFixed(2)}` : ""), strip);
    const details = make("details", { class: "chain browsed", "data-id": index.id[place] }, summary);
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) fill(details, place);
    });
    return details;
  }

  async function fill(details, place) {
    const body = make("div", { class: "body" }, make("p", { class: "muted" }, "Reading…"));
    details.append(body);
    const chunk = String(Math.floor(place / index.chunk)).padStart(4, "0");
    try {
      const chain = (await load(`chains-${chunk}.js`))[place % index.chunk];
      if (!chain) throw new Error("It is not in the tables any more.");
      body.replaceChildren(problem(chain, index.outcome[place], index.role[place]), steps(chain, chunk));
      window.curateReach(body);
    } catch (error) {
      body.replaceChildren(make("p", { class: "note" }, `This chain cannot be shown. ${error.message}`));
      details.addEventListener("toggle", () => body.remove(), { once: true });
    }
  }

  const figure = (value) => (value === null ? "–" : value.toFixed(2));
  const long = (text) => make("p", { class: "long", dir: "auto" }, text);

  function problem(chain, right, role) {
    const facts = make("dl", { class: "facts" });
    const fact = (name, ...children) => facts.append(make("dt", null, name), make("dd", null, ...children));
    fact("Answer", make("bdi", null, chain.answer === null ? "none" : chain.answer), " ", outcome(right));
    fact("Gold", make("bdi", null, chain.gold === null ? "none" : chain.gold));
    fact("Role", index.roles[role]);
    if (chain.finish !== null && chain.finish !== "stop") fact("Finish", chain.finish);
    if (chain.tokens !== null) fact("Tokens", chain.tokens.toLocaleString("en"));
    fact("Id", make("code", null, chain.id));
    const choices = make("ol", { class: "choices", type: "A" });
    for (const choice of chain.choices) choices.append(make("li", { dir: "auto" }, choice));
    return make("div", { class: "problem" }, ...chain.images.map(image), long(chain.question),
      chain.choices.length > 0 ? choices : null, facts);
  }

  function image(hash, place) {
    if (!/^[0-9A-Za-z_-]+$/.test(hash)) return make("p", { class: "muted" }, "The image has no name that can be shown.");
    const image = make("img", { src: `${setup.folder}/images/${hash}`, alt: `Image ${place + 1} of the problem` });
    image.addEventListener("load", () => { if (image.naturalWidth <= 200) image.className = "small"; });
    image.addEventListener("error", () => {
      image.replaceWith(make("p", { class: "muted" }, "The image is not in the workspace."));
    });
    return image;
  }

  function meter(value, kind) {
    return value === null ? null : make("span", { class: `meter ${kind}`, value, "aria-hidden": "true" });
  }

  function labelCell([, value, k, m, error]) {
    if (value === null) return make("td", null, make("span", { class: "muted" }, "–"));
    const counts = m === null ? "given" : m === 0 ? "outcome" : `${k}/${m}${error === null ? "" : ` ± ${figure(error)}`}`;
    return make("td", null, meter(value, ""), figure(value), make("small", null, counts));
  }

  function steps(chain, chunk) {
    const scored = index.runs.filter((run, place) => chain.steps.some((step) => step[5][place] !== null));
    const places = scored.map((run) => index.runs.indexOf(run));
    const head = make("tr", null, make("th", { scope: "col", class: "text" }, "step"),
      make("th", { scope: "col" }, "label"),
      ...scored.map((run) => make("th", { scope: "col" }, "score ", make("bdi", null, run))));
    const rows = chain.steps.map((step) => {
      const valued = step[1] === null ? "" : " valued";
      const text = make("td", { class: `text long${valued}`, value: step[1] === null ? 0 : step[1] },
        make("div", { dir: "auto" }, step[0].trim()));
      return make("tr", null, text, labelCell(step),
        ...places.map((run) => make("td", null, meter(step[5][run], "score"), figure(step[5][run]))));
    });
    const table = make("table", { class: scored.length > 2 ? "steps many" : "steps" },
      make("caption", { class: "hidden" }, `Steps of rollout ${chain.id}`),
      make("thead", null, head), make("tbody", null, ...rows));
    const scroll = make("div", {
      class: "scroll", role: "region", tabindex: "0", "aria-label": `Steps of rollout ${chain.id}`,
    }, table);
    const button = make("button", { type: "button", class: "quiet", "aria-expanded": "false" }, "Show completions");
    const labelled = chain.steps.some((step) => step[3] !== null && step[3] > 0);
    button.addEventListener("click", () => completions(chain, chunk, rows, button));
    return make("div", { class: "told" }, scroll, labelled && index.completions > 0 ? button : null);
  }

  // --- completions, under the step whose prefix they go on from ---------------------------------------------------
  async function completions(chain, chunk, rows, button) {
    const open = button.getAttribute("aria-expanded") === "true";
    for (const tr of rows) tr.querySelector(".completions")?.remove();
    button.setAttribute("aria-expanded", String(!open));
    button.textContent = open ? "Show completions" : "Hide completions";
    if (open) return;
    let found;
    try {
      found = (await load(`completions-${chunk}.js`))[chain.id] || [];
    } catch (error) {
      button.textContent = `Completions cannot be shown. ${error.message}`;
      return;
    }
    if (found.length === 0) button.textContent = "There are no completions of it";
    for (const [step, right, finish, answer, text] of found) {
      const cell = rows[step]?.firstChild;
      if (!cell) continue;
      let list = cell.querySelector(".completions");
      if (!list) {
        list = make("ol", { class: "completions", "aria-label": `Completions after step ${step + 1}` });
        cell.append(list);
      }
      list.append(make("li", null, outcome(right), ` ${finish === "stop" ? "" : `${finish}, `}answer `,
        make("bdi", null, answer === null ? "none" : answer),
        make("div", { class: "long muted", dir: "auto" }, text.trim())));
    }
    for (const tr of rows) window.curateReach(tr);
    const all = chain.steps.every((step) => step[3] === null || step[3] <= index.completions);
    if (!all) button.textContent = `Hide completions (the first ${index.completions} of a step)`;
  }

  // --- start ----------------------------------------------------------------------------------------------------
  function begin(value) {
    index = value;
    index.domains.forEach((name, place) => byId("domain").append(make("option", { }, name)));
    [...byId("domain").options].slice(1).forEach((option, place) => { option.value = String(place); });
    index.roles.forEach((name, place) => {
      if (!index.role.includes(place)) return;
      const option = make("option", null, name);
      option.value = String(place);
      byId("role").append(option);
    });
    let timer = 0;
    const soon = () => { clearTimeout(timer); timer = setTimeout(apply, 150); };
    const form = byId("filters");
    form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
    form.addEventListener("reset", () => setTimeout(apply, 0));
    for (const id of ["domain", "role", "outcome", "order"]) byId(id).addEventListener("change", apply);
    for (const id of ["drop", "text"]) byId(id).addEventListener("input", soon);
    byId("before").addEventListener("click", () => show(page - 1));
    byId("after").addEventListener("click", () => show(page + 1));
    byId("page").addEventListener("change", () => show((byId("page").valueAsNumber || 1) - 1));
    matches = filtered(chosen());
    show(0);
    document.getElementById("showcase").hidden = true;
    document.getElementById("browse").hidden = false;
    document.body.dataset.browse = "ready";
  }
  // After the charts: what the page says comes first.
  setTimeout(() => {
    fetchFile("index.js").then(begin, (error) => {
      const note = document.getElementById("no-browse");
      note.textContent = `${note.textContent} ${error.message}`;
      note.hidden = false;
      document.body.dataset.browse = "missing";
    });
  }, 0);
})();
