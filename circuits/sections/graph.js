"use strict";
// A circuit, drawn: one row per place in the forward pass, top to bottom. Hover or focus a node to read about it.
// Everything a run named enters through textContent or setAttribute of inert attributes, never as markup.
window.sparsetrain.widgets["circuit-graph"] = (function () {
  const SVG = "http://www.w3.org/2000/svg";
  const PLACES = ["attention reads", "q · k · v", "attention writes", "MLP reads", "neurons", "MLP writes"];
  const LINKS = { residual: "same residual channel", score: "multiplied in the attention score", pattern: "decides where it attends" };
  const SHOWN = 300; // edges drawn at first; the slider shows the rest
  const LABELLED = 26; // up to this many visible edges carry their weight
  let count = 0;

  function make(parent, name, attributes, text) {
    const svg = parent.namespaceURI === SVG || name === "svg";
    const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const key in attributes || {}) element.setAttribute(key, attributes[key]);
    if (text !== undefined) element.textContent = text;
    parent.appendChild(element);
    return element;
  }

  function fixed(value, sign) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    const digits = size !== 0 && (size < 0.001 || size >= 1e5) ? size.toExponential(1) : String(Number(size.toPrecision(3)));
    return (value < 0 ? "−" : sign ? "+" : "") + digits;
  }

  const clip = (text, n) => (Array.from(text).length > n ? Array.from(text).slice(0, n - 1).join("") + "…" : text);

  // Rows in forward order; within a row, nodes are moved towards the mean of their neighbours and kept apart.
  function layout(data, width) {
    const keys = [...new Set(data.nodes.map((node) => node.layer * 6 + node.stage))].sort((a, b) => a - b);
    const rows = keys.map((key) => ({ layer: Math.floor(key / 6), stage: key % 6, members: [] }));
    data.nodes.forEach((node, i) => rows[keys.indexOf(node.layer * 6 + node.stage)].members.push(i));
    const widest = Math.max(...rows.map((row) => row.members.length));
    const small = widest * 50 > 1.35 * Math.max(width, 560); // dots instead of labelled boxes
    const across = Math.max(width, widest * (small ? 12 : 50) + 24);
    const gap = Math.min(small ? 20 : 150, (across - 24) / widest);
    const near = data.nodes.map(() => []);
    data.edges.forEach(([s, t, w]) => { near[s].push([t, 1 + Math.abs(w)]); near[t].push([s, 1 + Math.abs(w)]); });
    data.links.forEach(([s, t, type]) => { const pull = type === "residual" ? 6 : 0.5; near[s].push([t, pull]); near[t].push([s, pull]); });
    const rank = { attn_q: 0, attn_k: 1, attn_v: 2 };
    const kind = (member) => rank[data.nodes[member].kind] || 0;
    let x = new Array(data.nodes.length).fill(0);
    const room = (n) => (small ? gap : Math.max(gap, Math.min(96, (across - 24) / n))); // a short row is set wider
    function spread(members, wish) {
      const place = wish.slice(), gap = room(members.length);
      for (let i = 1; i < place.length; i++) place[i] = Math.max(place[i], place[i - 1] + gap);
      const over = place.reduce((sum, value, i) => sum + value - wish[i], 0) / place.length;
      for (let i = 0; i < place.length; i++) place[i] -= over;
      const low = gap / 2, high = across - gap / 2;
      if (place[0] < low) { place[0] = low; for (let i = 1; i < place.length; i++) place[i] = Math.max(place[i], place[i - 1] + gap); }
      const last = place.length - 1;
      if (place[last] > high) { place[last] = high; for (let i = last - 1; i >= 0; i--) place[i] = Math.min(place[i], place[i + 1] - gap); }
      members.forEach((member, i) => { x[member] = place[i]; });
    }
    function sweep(downward) {
      (downward ? rows : rows.slice().reverse()).forEach((row) => {
        const wish = new Map(row.members.map((member) => {
          const total = near[member].reduce((sum, [, pull]) => sum + pull, 0);
          return [member, total ? near[member].reduce((sum, [other, pull]) => sum + pull * x[other], 0) / total : across / 2];
        }));
        row.members.sort((a, b) => kind(a) - kind(b) || wish.get(a) - wish.get(b) || a - b);
        spread(row.members, row.members.map((member) => wish.get(member)));
      });
    }
    // Several starts; the one with the fewest crossings stays (for large graphs: one start).
    const at = new Map();
    rows.forEach((row, i) => row.members.forEach((member) => at.set(member, i)));
    const lines = data.edges.concat(data.links).filter(([s, t]) => at.get(s) !== at.get(t));
    function crossings() {
      let crossed = 0;
      for (let i = 0; i < lines.length; i++) {
        for (let j = 0; j < i; j++) {
          const [a, b] = lines[i], [c, d] = lines[j];
          if (at.get(a) === at.get(c) && at.get(b) === at.get(d) && (x[a] - x[c]) * (x[b] - x[d]) < 0) crossed += 1;
        }
      }
      return crossed + lines.reduce((sum, [s, t]) => sum + Math.abs(x[s] - x[t]), 0) / (1e-9 + lines.length * across);
    }
    let best = null, seed = 1;
    for (let start = 0; start < (lines.length > 150 ? 1 : 12); start++) {
      const order = data.nodes.map((node) => (start ? (seed = (seed * 48271) % 2147483647) : node.channel));
      rows.forEach((row) => {
        row.members.sort((a, b) => kind(a) - kind(b) || order[a] - order[b]);
        spread(row.members, row.members.map((_, i) => across * (i + 1) / (row.members.length + 1)));
      });
      for (let i = 0; i < 12; i++) sweep((i + start) % 2 === 0);
      const cost = lines.length > 150 ? 0 : crossings();
      if (!best || cost < best.cost) best = { cost, x: x.slice(), members: rows.map((row) => row.members.slice()) };
    }
    x = best.x;
    rows.forEach((row, i) => { row.members = best.members[i]; });
    let y = 0;
    rows.forEach((row, i) => {
      const tokens = !small && room(row.members.length) >= 68 && row.stage !== 1 && row.stage !== 4;
      const reads = row.stage === 0 || row.stage === 3;
      row.above = (i && rows[i - 1].layer !== row.layer ? 14 : 0) + (tokens && reads ? 18 : 0);
      row.tokens = tokens;
      y += (i ? (small ? 96 : 74) : 38) + row.above;
      if (i && rows[i - 1].tokens && (rows[i - 1].stage === 2 || rows[i - 1].stage === 5)) y += 12;
      row.y = y;
    });
    return { rows, x, small, across, height: y + 44 };
  }

  return function draw(root, data) {
    const id = "graph" + (count += 1);
    const top = Math.max(1e-12, ...data.edges.map((edge) => Math.abs(edge[2])));
    const order = data.edges.map((_, i) => i).sort((a, b) => Math.abs(data.edges[b][2]) - Math.abs(data.edges[a][2]));
    const total = data.edges.reduce((sum, edge) => sum + Math.abs(edge[2]), 0);
    const bar = make(root, "div", { class: "cg-bar" });
    const wrap = make(root, "div", { class: "cg-wrap" });
    const view = make(wrap, "div", { class: "cg-view" });
    const gutter = make(view, "div", { class: "cg-gutter", "aria-hidden": "true" });
    const canvas = make(view, "div", { class: "cg-canvas" });
    const panel = make(wrap, "div", { class: "cg-panel", "aria-live": "polite" });
    const plan = layout(data, Math.max(240, canvas.clientWidth || 600));
    const { rows, x, small } = plan;
    const y = new Array(data.nodes.length), told = new Array(data.nodes.length);
    rows.forEach((row) => row.members.forEach((member) => { y[member] = row.y; told[member] = row.tokens; }));
    const half = small ? 5 : 13;

    const svg = make(canvas, "svg", {
      width: plan.across, height: plan.height, viewBox: "0 0 " + plan.across + " " + plan.height, class: small ? "small" : "",
      role: "group", "aria-label": "Circuit with " + data.nodes.length + " nodes and " + data.edges.length + " edges. Arrow keys move between nodes.",
    });
    const defs = make(svg, "defs");
    for (const side of ["pos", "neg", "link"]) {
      const marker = make(defs, "marker", { id: id + side, class: "head " + side, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" });
      make(marker, "path", { d: "M0,0.8 L8,4 L0,7.2 z" });
    }
    rows.forEach((row, i) => {
      const first = !i || rows[i - 1].layer !== row.layer;
      if (first && i) {
        const line = row.y - row.above - (small ? 34 : 26);
        make(svg, "line", { class: "band", x1: 0, x2: plan.across, y1: line, y2: line });
      }
      const label = make(gutter, "div", { class: "cg-row" });
      label.style.top = row.y + "px";
      if (first) make(label, "b", {}, "Layer " + row.layer);
      make(label, "span", {}, PLACES[row.stage]);
    });
    gutter.style.height = plan.height + "px";

    const linkLayer = make(svg, "g"), edgeLayer = make(svg, "g"), labelLayer = make(svg, "g"), nodeLayer = make(svg, "g");
    const touching = data.nodes.map(() => []);
    // The four points of a Bezier curve from node s to node t.
    function curve(s, t) {
      if (y[s] === y[t]) {
        const side = x[t] > x[s] ? 1 : -1, wide = small ? 5 : 22;
        const a = x[s] + side * wide, b = x[t] - side * (wide + 2), low = y[s] + Math.min(30, 8 + Math.abs(b - a) / 6);
        return [[a, y[s]], [a, low], [b, low], [b, y[s]]];
      }
      const a = y[s] + half, b = y[t] - half - 1, bend = (b - a) * 0.5;
      const far = b - a > (small ? 150 : 130) && Math.abs(x[s] - x[t]) < 30 ? 42 : 0; // around the nodes in between
      return [[x[s], a], [x[s] + far, a + bend], [x[t] + far, b - bend], [x[t], b]];
    }
    const path = (points) => "M" + points[0].map((v) => v.toFixed(1)) + " C" + points.slice(1).map((point) => point.map((v) => v.toFixed(1)).join()).join(" ");
    function along(points, t) {
      const u = 1 - t, mix = (k) => u * u * u * points[0][k] + 3 * u * u * t * points[1][k] + 3 * u * t * t * points[2][k] + t * t * t * points[3][k];
      return { x: mix(0), y: mix(1) };
    }
    const links = data.links.map(([s, t, type]) => {
      const line = make(linkLayer, "path", { class: "link " + type, d: path(curve(s, t)) });
      if (!small) line.setAttribute("marker-end", "url(#" + id + "link)");
      touching[s].push(line); touching[t].push(line);
      return line;
    });
    const edges = [], labels = [];
    order.slice().reverse().forEach((i) => {
      const [s, t, w] = data.edges[i], side = w < 0 ? "neg" : "pos";
      const line = make(edgeLayer, "path", { class: "edge " + side, d: path(curve(s, t)), "stroke-width": (0.6 + (small ? 2.4 : 3.4) * Math.abs(w) / top).toFixed(2) });
      if (data.edges.length <= 400) line.setAttribute("marker-end", "url(#" + id + side + ")");
      edges[i] = line;
      touching[s].push(line); touching[t].push(line);
    });

    // Weights on the edges: all of them in a small circuit, else those of the selected node. Places where labels
    // would cover each other are avoided by sliding along the edge.
    const taken = [];
    function label(i) {
      if (labels[i]) return labels[i];
      const points = curve(data.edges[i][0], data.edges[i][1]);
      let best = null;
      for (const t of [0.5, 0.4, 0.6, 0.32, 0.68, 0.25, 0.75]) {
        const point = along(points, t);
        const clear = Math.min(99, ...taken.map((other) => Math.max(Math.abs(other.x - point.x) / 2.6, Math.abs(other.y - point.y))));
        if (!best || clear > best.clear + 1) best = { x: point.x, y: point.y, clear };
        if (clear > 13) break;
      }
      taken.push(best);
      labels[i] = make(labelLayer, "text", { class: "weight " + (data.edges[i][2] < 0 ? "neg" : "pos"), x: best.x.toFixed(1), y: (best.y + 3.5).toFixed(1) }, fixed(data.edges[i][2], true));
      touching[data.edges[i][0]].push(labels[i]); touching[data.edges[i][1]].push(labels[i]);
      return labels[i];
    }

    const nodes = data.nodes.map((node, i) => {
      const group = make(nodeLayer, "g", {
        class: "node " + node.kind, transform: "translate(" + x[i].toFixed(1) + "," + y[i] + ")", tabindex: "-1", role: "button", "aria-pressed": "false",
        "data-node": String(i),
        "aria-label": node.name + (node.delta === null ? "" : "; without it the loss changes by " + fixed(node.delta, true)),
      });
      if (small) {
        make(group, "circle", { r: half });
      } else {
        const wide = Math.max(38, 16 + 7.4 * node.label.length);
        make(group, "rect", { x: -wide / 2, y: -half, width: wide, height: 2 * half, rx: /attn_[qkv]/.test(node.kind) ? 2 : 13 });
        make(group, "text", { class: "cg-name", y: 4.3 }, node.label);
        const reads = node.stage === 0 || node.stage === 3, list = reads ? node.reads : node.stage === 2 || node.stage === 5 ? node.writes : [];
        if (list.length && told[i]) make(group, "text", { class: "tokens", y: reads ? -half - 6 : half + 13 }, clip((reads ? "" : "→ ") + list.slice(0, 2).map((entry) => entry[0]).join("  "), 11));
      }
      return group;
    });

    // Only the strongest edges are drawn; what is hidden is said.
    let shown = Math.min(SHOWN, data.edges.length);
    const state = document.createElement("span");
    function filter() {
      let hidden = 0;
      const busy = new Set();
      order.forEach((i, place) => {
        const off = place >= shown;
        edges[i].classList.toggle("off", off);
        if (labels[i]) labels[i].classList.toggle("off", off);
        if (off) hidden += Math.abs(data.edges[i][2]);
        else { busy.add(data.edges[i][0]); busy.add(data.edges[i][1]); }
      });
      nodes.forEach((node, i) => node.classList.toggle("idle", shown < data.edges.length && !busy.has(i)));
      const rest = data.edges.length - shown;
      state.textContent = rest ? shown.toLocaleString("en") + " of " + data.edges.length.toLocaleString("en") + " edges shown, the strongest by |weight|; the " + rest.toLocaleString("en") + " hidden ones hold " + (100 * hidden / total).toFixed(0) + "% of the summed |weight|" : "all " + data.edges.length.toLocaleString("en") + " edges shown";
    }
    if (data.edges.length > 40) {
      const slider = make(make(bar, "label", {}, "Edges "), "input", { type: "range", min: 1, max: data.edges.length, value: shown, "aria-label": "number of edges shown" });
      slider.addEventListener("input", () => { shown = Number(slider.value); filter(); });
      state.setAttribute("role", "status");
      bar.appendChild(state);
    }
    const key = make(bar, "span", { class: "cg-key" });
    for (const [name, words] of [["pos", "positive weight"], ["neg", "negative weight"], ["link", "same channel or head, no weight"]]) {
      const item = make(key, "span", {});
      const icon = make(item, "svg", { width: 30, height: 10, "aria-hidden": "true" });
      make(icon, "path", { class: name === "link" ? "link" : "edge " + name, d: "M1,5 H29", "stroke-width": name === "link" ? 1.3 : 2.4 });
      make(item, "span", {}, words);
    }
    filter();
    if (data.edges.length <= LABELLED) order.forEach((i) => label(i));

    let pinned = -1, current = -1;
    function list(title, entries) {
      if (!entries.length) return;
      make(panel, "h5", {}, title);
      const items = make(panel, "ul");
      const scale = Math.max(1e-12, ...entries.map((entry) => Math.abs(entry.weight || 0)));
      entries.slice(0, 12).forEach((entry) => {
        const item = make(items, "li");
        const name = entry.node === undefined ? make(item, "code", {}, entry.text) : make(item, "button", { type: "button", title: data.nodes[entry.node].name }, data.nodes[entry.node].label);
        if (entry.node !== undefined) name.addEventListener("click", () => { pin(entry.node); nodes[entry.node].focus(); });
        if (entry.weight === null) { make(item, "span", { class: "why" }, entry.text); return; }
        const meter = make(item, "i", { class: entry.weight < 0 ? "neg" : "pos" });
        meter.style.width = (46 * Math.abs(entry.weight) / scale).toFixed(1) + "px";
        make(item, "span", { class: "w" }, fixed(entry.weight, true));
      });
      if (entries.length > 12) make(panel, "p", {}, "and " + (entries.length - 12) + " weaker ones");
    }
    function clear() {
      svg.classList.remove("focus");
      svg.querySelectorAll(".on, .at").forEach((element) => element.classList.remove("on", "at"));
      if (data.edges.length > LABELLED) { labels.forEach((element) => element.remove()); labels.length = 0; taken.length = 0; }
      current = -1;
    }
    function select(i) {
      if (i === current) return;
      clear();
      current = i;
      const node = data.nodes[i];
      const inward = [], outward = [], beside = [];
      order.forEach((e) => {
        const [s, t, w] = data.edges[e];
        if (s === i) outward.push({ node: t, weight: w, edge: e });
        if (t === i) inward.push({ node: s, weight: w, edge: e });
      });
      data.links.forEach(([s, t, type]) => { if (s === i || t === i) beside.push({ node: s === i ? t : s, weight: null, text: LINKS[type] }); });
      inward.concat(outward).filter((entry) => !edges[entry.edge].classList.contains("off")).slice(0, 60).forEach((entry) => label(entry.edge));
      svg.classList.add("focus");
      touching[i].forEach((element) => element.classList.add("on"));
      inward.concat(outward, beside).forEach((entry) => nodes[entry.node].classList.add("on"));
      nodes[i].classList.add("on", "at");
      nodes.forEach((element, j) => element.setAttribute("tabindex", j === i ? "0" : "-1"));

      panel.replaceChildren();
      make(panel, "h4", {}, node.name);
      make(panel, "code", { class: "id" }, node.id);
      const facts = make(panel, "dl");
      for (const [name, value] of [["mean", fixed(node.mean)], ["loss without it", fixed(node.delta, true)]]) {
        const fact = make(facts, "div");
        make(fact, "dt", {}, name);
        make(fact, "dd", {}, value);
      }
      list("Reads", inward);
      list(inward.length ? "Reads tokens" : "Reads", node.reads.map(([text, weight]) => ({ text, weight })));
      list("Writes", outward);
      list(outward.length ? "Writes tokens" : "Writes", node.writes.map(([text, weight]) => ({ text, weight })));
      list("Linked without a weight", beside);
    }
    function pin(i) {
      if (pinned >= 0) nodes[pinned].setAttribute("aria-pressed", "false");
      pinned = i;
      if (i >= 0) { nodes[i].setAttribute("aria-pressed", "true"); select(i); } else rest();
    }
    function rest() {
      clear();
      panel.replaceChildren();
      make(panel, "p", { class: "hint" }, "Point at a node, or move to one with Tab and the arrow keys, to see what it reads and writes. Enter keeps it, Escape lets it go.");
    }
    function near(i, step) {
      const row = rows.findIndex((candidate) => candidate.members.includes(i)), other = rows[row + step];
      if (!other) return i;
      return other.members.reduce((best, member) => (Math.abs(x[member] - x[i]) < Math.abs(x[best] - x[i]) ? member : best), other.members[0]);
    }
    function beside(i, step) {
      const row = rows.find((candidate) => candidate.members.includes(i));
      return row.members[Math.min(row.members.length - 1, Math.max(0, row.members.indexOf(i) + step))];
    }
    const moves = {
      ArrowLeft: (i) => beside(i, -1), ArrowRight: (i) => beside(i, 1), ArrowUp: (i) => near(i, -1), ArrowDown: (i) => near(i, 1),
      Home: (i) => beside(i, -1e9), End: (i) => beside(i, 1e9),
    };
    const indexOf = (event) => { const group = event.target.closest(".node"); return group ? Number(group.dataset.node) : -1; };
    svg.addEventListener("pointerover", (event) => { const i = indexOf(event); if (i >= 0 && pinned < 0) select(i); });
    svg.addEventListener("pointerleave", () => { if (pinned < 0 && !svg.contains(document.activeElement)) rest(); });
    svg.addEventListener("focusin", (event) => { const i = indexOf(event); if (i >= 0) { if (pinned >= 0 && pinned !== i) pin(-1); select(i); } });
    svg.addEventListener("focusout", (event) => { if (pinned < 0 && !svg.contains(event.relatedTarget) && !panel.contains(event.relatedTarget)) rest(); });
    svg.addEventListener("click", (event) => { const i = indexOf(event); pin(i < 0 || i === pinned ? -1 : i); });
    svg.addEventListener("keydown", (event) => {
      const i = indexOf(event);
      if (i < 0) return;
      if (moves[event.key]) nodes[moves[event.key](i)].focus();
      else if (event.key === "Enter" || event.key === " ") pin(i === pinned ? -1 : i);
      else if (event.key === "Escape") { pin(-1); select(i); }
      else return;
      event.preventDefault();
    });
    rest();
    canvas.scrollLeft = (plan.across - canvas.clientWidth) / 2;
    nodes[rows[0].members[0]].setAttribute("tabindex", "0");
  };
})();
