"use strict";
(() => {
  const root = document.documentElement;
  const narrow = 640;
  const plots = new Map();

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // What follows the theme and the width; the data's own colours hold on both grounds.
  function looks(figure, width) {
    const layout = JSON.parse(JSON.stringify(figure.layout));
    layout.font.color = colour("--text");
    layout.hoverlabel = Object.assign({}, layout.hoverlabel, {
      bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text") },
    });
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) {
        layout[key].gridcolor = colour("--line");
        layout[key].linecolor = colour("--line");
      }
    }
    layout.autosize = true;
    const isLabel = (one) => (one.name || "").startsWith("end-label ");
    const labels = (layout.annotations || []).filter(isLabel);
    if (labels.length > 0) {
      // Lines may be middle tones; letters need the theme's own, which stand out more.
      const tones = { up: "--up", down: "--down" };
      for (const one of labels) one.font.color = colour(tones[one.name.split(" ")[1]] || "--same");
      const small = width < narrow;
      layout.annotations = layout.annotations.filter((one) => !small || !isLabel(one));
      layout.showlegend = small;
      layout.margin.r = small ? 16 : 175;
      if (small) layout.height += 16 * labels.length;
    }
    return layout;
  }

  function draw(id) {
    const { element, figure } = plots.get(id);
    const layout = looks(figure, element.clientWidth);
    element.style.minHeight = `${layout.height}px`;
    for (const trace of figure.data) {
      if (trace.type === "bar" && trace.error_y) trace.error_y.color = colour("--text");
    }
    Plotly.react(element, figure.data, layout, {
      displayModeBar: false, responsive: true, showTips: false, showSendToCloud: false, plotlyServerURL: "",
    });
  }

  function drawAll() {
    for (const id of plots.keys()) draw(id);
  }

  for (const source of document.querySelectorAll("script[data-chart]")) {
    const id = source.dataset.chart;
    plots.set(id, { element: document.getElementById(id), figure: JSON.parse(source.textContent) });
  }
  drawAll();

  // What is so long that it scrolls can be reached by the keyboard, and nothing else.
  window.curateReach = (within) => {
    for (const one of within.querySelectorAll(".long, .long > div")) {
      if (one.scrollHeight > one.clientHeight && getComputedStyle(one).overflowY === "auto") one.tabIndex = 0;
      else one.removeAttribute("tabindex");
    }
  };
  document.addEventListener("toggle", (event) => window.curateReach(event.target), true);

  let before = window.innerWidth;
  window.addEventListener("resize", () => {
    for (const open of document.querySelectorAll("details.chain[open]")) window.curateReach(open);
    if ((before < narrow) !== (window.innerWidth < narrow)) drawAll();
    before = window.innerWidth;
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

  const themes = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  const current = () => root.dataset.theme || "auto";
  function label() {
    button.textContent = `Theme: ${current()}`;
  }
  button.hidden = false;
  label();
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(current()) + 1) % themes.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    label();
    drawAll();
  });

  const filters = document.querySelector("#showcase .filters");
  if (filters) {
    filters.hidden = false;
    const chains = [...document.querySelectorAll("#showcase details.chain")];
    const choices = ["domain", "outcome", "role"].map((key) => [key, document.getElementById(`filter-${key}`)]);
    const shown = document.getElementById("shown");
    const expand = document.getElementById("expand");
    const visible = () => chains.filter((chain) => !chain.hidden);
    const apply = () => {
      for (const chain of chains) {
        chain.hidden = choices.some(([key, select]) => select.value && select.value !== chain.dataset[key]);
      }
      const count = visible().length;
      shown.textContent = `${count} ${count === 1 ? "chain" : "chains"}`;
    };
    for (const [, select] of choices) select.addEventListener("change", apply);
    expand.addEventListener("click", () => {
      const open = expand.textContent === "Open all";
      for (const chain of visible()) chain.open = open;
      expand.textContent = open ? "Close all" : "Open all";
    });
  }
  for (const open of document.querySelectorAll("details.chain[open]")) window.curateReach(open);
  document.body.dataset.ready = "true";
})();
