"use strict";
// Starts what the page holds: menus, plotly figures and widgets, each drawn when it first comes into view.
window.sparsetrain = { widgets: {} };

(function () {
  const plots = [];
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function dataOf(element) {
    for (const child of element.children) {
      if (child.tagName === "SCRIPT" && child.type === "application/json") return JSON.parse(child.textContent);
    }
    throw new Error("no data");
  }

  function themed(layout) {
    const axis = (own) => Object.assign({}, own, {
      gridcolor: color("--rule"), linecolor: color("--rule"), zerolinecolor: color("--rule"),
      title: Object.assign({}, own.title, { font: { size: 12.5 } }),
    });
    return Object.assign({}, layout, {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: color("--muted") },
      hoverlabel: { bgcolor: color("--raised"), bordercolor: color("--rule"), font: { color: color("--ink") } },
      xaxis: axis(layout.xaxis),
      yaxis: axis(layout.yaxis),
      shapes: layout.shapes.map((shape) => Object.assign({}, shape, { line: Object.assign({}, shape.line, { color: color("--ink") }) })),
      annotations: layout.annotations.map((note) => Object.assign({}, note, { font: { color: color("--ink"), size: 12 } })),
    });
  }

  // Plotly is large: it is compiled once the page stands and a figure comes near.
  const waiting = [];
  function withPlotly(then) {
    if (window.Plotly) return then();
    waiting.push(then);
    if (waiting.length > 1) return;
    setTimeout(function () {
      const script = document.createElement("script");
      script.textContent = document.getElementById("plotly").textContent;
      document.head.appendChild(script);
      waiting.splice(0).forEach((call) => call());
    }, 30);
  }

  function drawLines(element) {
    const data = dataOf(element);
    const figure = "pick" in element.dataset ? data.figure : data;
    const place = element.querySelector(".plot");
    const options = { displayModeBar: false, responsive: true, showLink: false, displaylogo: false };
    window.Plotly.newPlot(place, figure.data, themed(figure.layout), options);
    const plot = [place, figure.layout];
    plots.push(plot);
    if (data.options) pick(element, data, plot);
  }

  // Menus that put other values into a figure.
  function pick(element, data, plot) {
    const show = menus(element.querySelector(":scope > .menus"), data.options.map((option) => option.keys), function (i) {
      const option = data.options[i];
      plot[1] = Object.assign({}, data.figure.layout, option.layout);
      const traces = data.figure.data.map((trace, j) => Object.assign({}, trace, { y: option.y[j] }));
      window.Plotly.react(plot[0], traces, themed(plot[1]));
      element.querySelector("figcaption").textContent = option.title;
      element.querySelector("p.note").textContent = option.note;
      plot[0].setAttribute("aria-label", option.title);
    });
    show(0);
  }

  function draw(element) {
    if (element.dataset.drawn) return;
    element.dataset.drawn = "yes";
    if ("lines" in element.dataset) return withPlotly(() => drawLines(element));
    window.sparsetrain.widgets[element.dataset.widget](element.querySelector(".stage"), dataOf(element));
  }

  function rethemed() {
    for (const [place, layout] of plots) window.Plotly.react(place, place.data, themed(layout));
  }

  // A menu per label; a combination that does not exist falls back to one that keeps the menu just changed.
  function menus(place, keys, chosen) {
    const selects = Array.from(place.querySelectorAll("select"));
    function show(changed) {
      const want = selects.map((menu) => menu.value);
      let pick = keys.findIndex((key) => key.every((value, i) => value === want[i]));
      if (pick < 0) pick = Math.max(0, keys.findIndex((key) => key[changed] === want[changed]));
      selects.forEach((menu, i) => { menu.value = keys[pick][i]; });
      chosen(pick);
    }
    selects.forEach((menu, i) => menu.addEventListener("change", () => show(i)));
    place.hidden = keys.length < 2;
    return show;
  }

  function choose(choice) {
    const panels = Array.from(choice.querySelectorAll(":scope > .panel"));
    const keys = panels.map((panel) => JSON.parse(panel.dataset.keys));
    menus(choice.querySelector(":scope > .menus"), keys, function (pick) {
      panels.forEach((panel, i) => { panel.hidden = i !== pick; });
    })(0);
  }

  document.addEventListener("DOMContentLoaded", function () {
    document.querySelectorAll("[data-choice]").forEach(choose);
    const drawings = document.querySelectorAll("[data-lines], [data-widget]");
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        seen.unobserve(entry.target);
        draw(entry.target);
      }
    }, { rootMargin: "600px 0px" });
    drawings.forEach((element) => seen.observe(element));
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", rethemed);
    window.addEventListener("beforeprint", function () {
      document.querySelectorAll("details.card").forEach((card) => { card.open = true; });
      drawings.forEach((element) => { if (element.offsetParent !== null) draw(element); });
      rethemed();
    });
    window.addEventListener("afterprint", rethemed);
  });
})();
