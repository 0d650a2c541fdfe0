"use strict";
// A circuit, drawn: one row per place in the forward pass, top to bottom, and a panel about the node or path in hand.
// Hover or focus tells about a node, Enter or a click keeps it, arrows walk along edges, Escape lets everything go.
// Everything a run named enters through textContent or setAttribute of inert attributes, never as markup.
window.sparsetrain.widgets["circuit-graph"] = (function () {
  const SVG = "http://www.w3.org/2000/svg";
  const PLACES = ["attention reads", "q · k · v", "attention writes", "MLP reads", "neurons", "MLP writes"];
  const KINDS = { attn_in: "reads", attn_q: "query", attn_k: "key", attn_v: "value", mlp_neuron: "neuron", attn_out: "writes" };
  const LINKS = { residual: "same residual channel", score: "multiplied in the attention score", pattern: "decides where it attends" };
  const SHOWN = 300; // edges drawn at first; the slider shows the rest
  const LISTED = 12; // entries of a list in the panel
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
    return (value < 0 ? "−" : sign && value > 0 ? "+" : "") + digits;
  }

  const clip = (text, n) => (Array.from(text).length > n ? Array.from(text).slice(0, n - 1).join("") + "…" : text);

  const percent = (share) => (100 * share).toFixed(share !== 0 && share < 0.1 ? 1 : 0) + "%";
  const spaced = (text) => text.replaceAll(" ", "␣");
  const quoted = (text) => "\u2018" + spaced(text) + "\u2019";

  const answered = (text) => (text === null ? "any other token" : quoted(text));

  // The outline of a node: reads are funnels, writes spread out, q k v are a square, a diamond and a pentagon (boxes when
  // they carry their letter), neurons are round.
  function outline(kind, wide, half, small) {
    const x = wide / 2, lean = small ? x * 0.9 : 7, round = Math.min(half, x);
    if (kind === "attn_in" || kind === "mlp_in") return `M${-x},${-half} H${x} L${x - lean},${half} H${lean - x} z`;
    if (kind === "attn_out" || kind === "mlp_out") return `M${lean - x},${-half} H${x - lean} L${x},${half} H${-x} z`;
    if (kind === "mlp_neuron") return `M${round - x},${-half} H${x - round} a${round},${half} 0 0 1 0,${2 * half} H${round - x} a${round},${half} 0 0 1 0,${-2 * half} z`;
    if (small && kind === "attn_k") return `M0,${-half} L${x},0 L0,${half} L${-x},0 z`;
    if (small && kind === "attn_v") return `M0,${-half} L${x},${-half * 0.2} L${x * 0.62},${half} H${-x * 0.62} L${-x},${-half * 0.2} z`;
    return `M${-x},${-half} H${x} V${half} H${-x} z`;
  }

  // Tokens with a signed value each: depth of shade and thickness of the underline say how far a value lies from the
  // mean, a solid line above it, a dashed one below it; the largest is set in bold.
  function heat(parent, tokens, values, mean, scale, words) {
    const far = values.map((value) => value - mean);
    const peak = far.reduce((best, value, i) => (Math.abs(value) > Math.abs(far[best]) ? i : best), 0);
    const line = make(parent, "div", {
      class: "cg-heat", role: "img",
      "aria-label": `${words}: ${tokens.join("")}; furthest from the mean at ${quoted(tokens[peak])}, ${fixed(values[peak], true)}`,
    });
    tokens.forEach((token, i) => {
      const size = scale > 0 ? Math.min(1, Math.abs(far[i]) / scale) : 0;
      const cell = make(line, "span", { class: (far[i] < 0 ? "neg" : "pos") + (i === peak && size > 0 ? " peak" : ""), "data-say": `${quoted(token)} ${fixed(values[i], true)}, ${fixed(far[i], true)} from the mean` }, token);
      cell.style.setProperty("--size", size.toFixed(3));
      if (size < 0.02) cell.classList.add("still");
    });
    return line;
  }

  // Attention of one head on one prompt: a square per query and key, its area the share; the sink stands apart.
  function attention(parent, head, prompt) {
    const n = head.weights.length, cell = Math.max(7, Math.min(15, 250 / (n + 2))), left = 64, above = 50;
    const last = head.weights[n - 1], keys = last.slice(0, n);
    const best = keys.indexOf(Math.max(...keys));
    const sums = `The last token gives ${percent(last[n])} to the sink and ${percent(last[best])} to ${quoted(prompt.tokens[best])}`;
    const svg = make(parent, "svg", {
      class: "cg-attention", width: left + (n + 2) * cell + 4, height: above + n * cell + 4, role: "img",
      "aria-label": `Attention of head ${head.head} of layer ${head.layer}. ${sums}.`,
    });
    make(svg, "rect", { class: "row", x: left, y: above + (n - 1) * cell, width: (n + 2) * cell, height: cell });
    prompt.tokens.forEach((token, i) => {
      const small = { "font-size": Math.min(10, cell + 1) };
      make(svg, "text", { ...small, x: left - 5, y: above + i * cell + cell * 0.75, "text-anchor": "end" }, clip(token, 9));
      make(svg, "text", { ...small, transform: `translate(${left + i * cell + cell * 0.7},${above - 4}) rotate(-60)` }, clip(token, 7));
    });
    make(svg, "text", { class: "sink", "font-size": Math.min(10, cell + 1), transform: `translate(${left + (n + 0.7) * cell + cell * 0.7},${above - 4}) rotate(-60)` }, "sink");
    head.weights.forEach((row, i) => row.forEach((share, j) => {
      const isSink = j === row.length - 1, x = left + (isSink ? n + 0.7 : j) * cell, y = above + i * cell;
      const side = Math.sqrt(share) * (cell - 1);
      const key = isSink ? "the sink" : quoted(prompt.tokens[j]);
      const place = make(svg, "g", { "data-say": `${quoted(prompt.tokens[i])} gives ${percent(share)} to ${key}` });
      make(place, "rect", { class: "cell", x, y, width: cell, height: cell });
      make(place, "rect", { class: isSink ? "share sink" : "share", x: x + (cell - side) / 2, y: y + (cell - side) / 2, width: side, height: side });
    }));
    make(parent, "p", { class: "why" }, sums + ".");
  }

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
    const id = "graph" + (count += 1), viewer = data.viewer;
    const top = Math.max(1e-12, ...data.edges.map((edge) => Math.abs(edge[2])));
    const matters = data.importance.edges;
    const order = data.edges.map((_, i) => i).sort((a, b) => matters[b] - matters[a] || Math.abs(data.edges[b][2]) - Math.abs(data.edges[a][2]));
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    const totals = { edges: sum(matters), nodes: sum(data.importance.nodes) };
    const bar = make(root, "div", { class: "cg-bar" });
    const wrap = make(root, "div", { class: "cg-wrap" });
    const view = make(wrap, "div", { class: "cg-view" });
    const gutter = make(view, "div", { class: "cg-gutter", "aria-hidden": "true" });
    const canvas = make(view, "div", { class: "cg-canvas" });
    const panel = make(wrap, "div", { class: "cg-panel", role: "region", "aria-label": "About the selected node" });
    const plan = layout(data, Math.max(240, canvas.clientWidth || 600));
    const { rows, x, small } = plan;
    const y = new Array(data.nodes.length), told = new Array(data.nodes.length);
    rows.forEach((row) => row.members.forEach((member) => { y[member] = row.y; told[member] = row.tokens; }));
    const half = small ? 5 : 13;

    const svg = make(canvas, "svg", {
      width: plan.across, height: plan.height, viewBox: "0 0 " + plan.across + " " + plan.height, class: small ? "small" : "",
      role: "group", "aria-label": "Circuit with " + data.nodes.length + " nodes and " + data.edges.length + " edges. Arrow keys walk along edges and rows, Enter selects, Escape clears.",
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
    panel.style.setProperty("--tall", plan.height + "px");

    const linkLayer = make(svg, "g"), edgeLayer = make(svg, "g"), pathLayer = make(svg, "g"), labelLayer = make(svg, "g"), nodeLayer = make(svg, "g");
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
    const between = new Map(); // "source target" -> the line drawn for it
    const links = data.links.map(([s, t, type]) => {
      const line = make(linkLayer, "path", { class: "link " + type, d: path(curve(s, t)) });
      if (!small) line.setAttribute("marker-end", "url(#" + id + "link)");
      touching[s].push(line); touching[t].push(line);
      between.set(s + " " + t, line);
      return line;
    });
    const edges = [], labels = [];
    order.slice().reverse().forEach((i) => {
      const [s, t, w] = data.edges[i], side = w < 0 ? "neg" : "pos";
      const line = make(edgeLayer, "path", { class: "edge " + side, d: path(curve(s, t)), "stroke-width": (0.6 + (small ? 2.4 : 3.4) * Math.abs(w) / top).toFixed(2) });
      if (data.edges.length <= 400) line.setAttribute("marker-end", "url(#" + id + side + ")");
      edges[i] = line;
      touching[s].push(line); touching[t].push(line);
      between.set(s + " " + t, line);
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
      const wide = small ? 2 * half : Math.max(40, 18 + 7.4 * node.label.length);
      make(group, "path", { class: "ring", d: outline(node.kind, wide + 8, half + 4, small) });
      make(group, "path", { class: "shape " + node.kind, d: outline(node.kind, wide, half, small) });
      if (!small) {
        make(group, "text", { class: "cg-name", y: 4.3 }, node.label);
        const reads = node.stage === 0 || node.stage === 3, list = reads ? node.reads : node.stage === 2 || node.stage === 5 ? node.writes : [];
        if (list.length && told[i]) make(group, "text", { class: "tokens", y: reads ? -half - 6 : half + 13 }, clip((reads ? "" : "→ ") + list.slice(0, 2).map((entry) => entry[0]).join("  "), 11));
      }
      return group;
    });

    // Only the most important edges are drawn, and the nodes that they join; what is hidden is said.
    let shown = Math.min(SHOWN, data.edges.length);
    const hidden = new Set();
    const busiest = data.nodes.map((_, i) => i).sort((a, b) => data.importance.nodes[b] - data.importance.nodes[a]);
    const joined = new Set(data.edges.flatMap(([s, t]) => [s, t]));
    const state = document.createElement("span");
    const many = (n, word) => n.toLocaleString("en") + " " + word + (n === 1 ? "" : "s");
    function filter() {
      const whole = shown >= data.edges.length, busy = new Set();
      let lostEdges = 0, lostNodes = 0;
      order.forEach((i, place) => {
        const off = place >= shown;
        edges[i].classList.toggle("off", off);
        if (labels[i]) labels[i].classList.toggle("off", off);
        if (off) lostEdges += matters[i];
        else { busy.add(data.edges[i][0]); busy.add(data.edges[i][1]); }
      });
      hidden.clear();
      busiest.forEach((i, place) => {
        const off = !whole && !busy.has(i) && (joined.has(i) || place >= Math.ceil(data.nodes.length * shown / data.edges.length));
        nodes[i].classList.toggle("off", off);
        if (off) { hidden.add(i); lostNodes += data.importance.nodes[i]; }
      });
      data.links.forEach(([s, t], i) => links[i].classList.toggle("off", hidden.has(s) || hidden.has(t)));
      const rest = data.edges.length - shown, share = (part, total) => percent(total > 0 ? part / total : 0);
      state.textContent = whole
        ? "all " + many(data.edges.length, "edge") + " and " + many(data.nodes.length, "node") + " shown"
        : `${shown.toLocaleString("en")} of ${many(data.edges.length, "edge")} and ${(data.nodes.length - hidden.size).toLocaleString("en")} of ${many(data.nodes.length, "node")} shown; ` +
          `hidden: ${many(rest, "edge")} with ${share(lostEdges, totals.edges)} of the edges\u2019 importance, ${many(hidden.size, "node")} with ${share(lostNodes, totals.nodes)} of the nodes\u2019`;
    }
    if (data.edges.length > 1) {
      const control = make(bar, "label", { title: data.importance.words }, "Most important edges ");
      const slider = make(control, "input", { type: "range", min: 1, max: data.edges.length, value: shown, "aria-label": "number of edges shown, by importance" });
      slider.addEventListener("input", () => {
        shown = Number(slider.value);
        filter();
        if (hidden.has(pinned) || hidden.has(current)) release();
        slider.setAttribute("aria-valuetext", state.textContent);
      });
      state.setAttribute("role", "status");
      bar.appendChild(state);
    }
    make(bar, "span", { class: "cg-what" }, "Importance: " + data.importance.words + ".");
    const key = make(bar, "span", { class: "cg-key" });
    for (const kind in KINDS) {
      if (!data.nodes.some((node) => node.kind.replace("mlp_in", "attn_in").replace("mlp_out", "attn_out") === kind)) continue;
      const item = make(key, "span", {});
      const icon = make(item, "svg", { width: 26, height: 16, "aria-hidden": "true" });
      const group = make(icon, "g", { transform: "translate(13,8)" });
      make(group, "path", { class: "shape " + kind, d: outline(kind, small ? 12 : 24, small ? 6 : 7, small) });
      if (!small) make(group, "text", { class: "cg-name", y: 3.6, "font-size": 10 }, { attn_in: "r", attn_out: "w", mlp_neuron: "n" }[kind] || kind.slice(-1));
      make(item, "span", {}, KINDS[kind]);
    }
    for (const [name, words] of [["pos", "positive weight"], ["neg", "negative weight"], ["link", "same channel or head, no weight"]]) {
      const item = make(key, "span", {});
      const icon = make(item, "svg", { width: 30, height: 10, "aria-hidden": "true" });
      make(icon, "path", { class: name === "link" ? "link" : "edge " + name, d: "M1,5 H29", "stroke-width": name === "link" ? 1.3 : 2.4 });
      make(item, "span", {}, words);
    }

    let pinned = -1, current = -1, chosen = -1, prompt = 0, readout = null;
    filter();
    if (data.edges.length <= LABELLED) order.forEach((i) => label(i));

    function jump(parent, i, text) {
      const button = make(parent, "button", { type: "button", title: data.nodes[i].name }, text || data.nodes[i].label);
      button.addEventListener("click", () => { pin(i); nodes[i].focus(); });
      return button;
    }
    function list(title, entries) {
      if (!entries.length) return;
      make(panel, "h5", {}, title);
      const items = make(panel, "ul");
      const scale = Math.max(1e-12, ...entries.map((entry) => Math.abs(entry.weight || 0)));
      entries.slice(0, LISTED).forEach((entry) => {
        const item = make(items, "li");
        if (entry.node === undefined) make(item, "code", {}, spaced(entry.text));
        else jump(item, entry.node, data.nodes[entry.node].label + (data.nodes[entry.node].layer === data.nodes[current].layer ? "" : ", layer " + data.nodes[entry.node].layer));
        if (entry.weight === null) { make(item, "span", { class: "why" }, entry.text); return; }
        const meter = make(item, "i", { class: entry.weight < 0 ? "neg" : "pos" });
        meter.style.width = (46 * Math.abs(entry.weight) / scale).toFixed(1) + "px";
        make(item, "span", { class: "w" }, fixed(entry.weight, true));
      });
      if (entries.length > LISTED) make(panel, "p", {}, "and " + (entries.length - LISTED) + " more");
    }
    function clear() {
      svg.classList.remove("focus");
      svg.querySelectorAll(".on, .at").forEach((element) => element.classList.remove("on", "at"));
      if (data.edges.length > LABELLED) { labels.forEach((element) => element.remove()); labels.length = 0; taken.length = 0; }
      pathLayer.replaceChildren();
      panel.replaceChildren();
      readout = null;
      current = -1;
    }
    function choose(i) {
      chosen = i;
      steps.forEach((button, j) => button.setAttribute("aria-pressed", String(j === i)));
    }
    function select(i) {
      if (i === current) return;
      clear();
      choose(-1);
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

      make(panel, "h4", {}, node.name);
      make(panel, "code", { class: "id" }, node.id);
      const facts = make(panel, "dl");
      const values = [["mean", fixed(node.mean)], ["loss without it", fixed(node.delta, true)]];
      if (node.seen) values.push(["importance", percent(node.seen.importance)]);
      for (const [name, value] of values) {
        const fact = make(facts, "div");
        make(fact, "dt", {}, name);
        make(fact, "dd", {}, value);
      }
      const byWeight = (a, b) => Math.abs(b.weight) - Math.abs(a.weight);
      list("Reads", inward.sort(byWeight));
      list(inward.length ? "Reads tokens" : "Reads", node.reads.map(([text, weight]) => ({ text, weight })));
      list("Writes", outward.sort(byWeight));
      list(outward.length ? "Writes tokens" : "Writes", node.writes.map(([text, weight]) => ({ text, weight })));
      list("Linked without a weight", beside);
      if (node.seen) { logits(node.seen); active(node); }
      panel.scrollTop = 0;
    }
    // What the node does to the answers' logits, direct and by its removal.
    function logits(seen) {
      make(panel, "h5", {}, "Effect on the logits");
      const table = make(panel, "table", { class: "cg-logits" });
      const head = make(make(table, "thead"), "tr");
      for (const text of ["", "right answer", "wrong answer"]) make(head, "th", { scope: "col" }, text);
      const body = make(table, "tbody");
      viewer.sides.forEach((side, s) => {
        for (const [name, effect] of [["direct", seen.direct], ["in all", seen.removal]]) {
          if (!effect) continue;
          const row = make(body, "tr");
          make(row, "th", { scope: "row" }, side + ", " + name);
          make(row, "td", {}, fixed(effect[s][s], true));
          make(row, "td", {}, fixed(effect[s][1 - s], true));
        }
      });
      make(panel, "p", { class: "why" }, `Mean over ${viewer.n_pairs} held-out pairs. ` + (seen.direct ? "Direct: through the unembedding alone, norm frozen. " : "It writes no residual channel, so it has no direct effect. ") + "In all: how much lower the logit is when the node is removed.");
    }
    // Task prompts, held-out text, attention.
    function active(node) {
      const scaleOf = (entries) => Math.max(0, ...entries.flatMap((entry) => entry.values.map((value) => Math.abs(value - (node.mean || 0)))));
      const maps = (title, entries, tokens, words, note) => {
        if (!entries.length) return;
        make(panel, "h5", {}, title);
        const scale = scaleOf(entries);
        entries.forEach((entry) => {
          const said = words(entry);
          if (said) make(panel, "p", { class: "what" }, said);
          heat(panel, tokens(entry), entry.values, node.mean || 0, scale, said || title);
        });
        make(panel, "p", { class: "why" }, `${note} Thickest line: ${fixed(scale)} from the mean of ${fixed(node.mean)}; solid above it, dashed below.`);
      };
      maps("On task prompts, in the circuit", node.seen.prompts, (entry) => viewer.prompts[entry.prompt].tokens,
        (entry) => { const shown = viewer.prompts[entry.prompt]; return `pair ${shown.pair + 1}, ${shown.side}: then ${answered(shown.right)}`; },
        "The first pair, and the one where it departs most from its mean.");
      maps("On held-out text, in the full model", node.seen.text, (entry) => entry.tokens, () => "",
        `The windows of ${viewer.text.n_tokens.toLocaleString("en")} tokens where it departs most from its mean.`);
      if (!node.seen.text.length) make(panel, "p", { class: "why" }, "On held-out text it never departs from its mean.");
      const heads = node.heads || [];
      if (heads.length) {
        make(panel, "h5", {}, heads.length > 1 ? "Attention of its heads" : "Attention of its head");
        const switches = make(panel, "div", { class: "cg-switch", role: "group", "aria-label": "prompt" });
        const place = make(panel, "div");
        const show = () => {
          place.replaceChildren();
          buttons.forEach((button, side) => button.setAttribute("aria-pressed", String(side === prompt)));
          heads.slice(0, 3).forEach((pair) => {
            const head = viewer.heads[pair[prompt]];
            make(place, "p", { class: "what" }, `layer ${head.layer}, head ${head.head}`);
            attention(place, head, viewer.prompts[head.prompt]);
          });
          if (heads.length > 3) make(place, "p", { class: "why" }, many(heads.length - 3, "more head") + " in report.json.");
        };
        const buttons = viewer.sides.map((side, s) => {
          const button = make(switches, "button", { type: "button" }, side + " prompt");
          button.addEventListener("click", () => { prompt = s; show(); });
          return button;
        });
        show();
      }
    }
    function pin(i) {
      if (pinned >= 0) nodes[pinned].setAttribute("aria-pressed", "false");
      pinned = i;
      if (i >= 0) { nodes[i].setAttribute("aria-pressed", "true"); select(i); } else rest();
    }
    function rest() {
      clear();
      choose(-1);
      make(panel, "p", { class: "hint" }, "Point at a node, or move to one with Tab and the arrow keys: up and down walk along its strongest edge, left and right along its row. Enter keeps it, Escape lets it go.");
      if (viewer && viewer.paths.length) make(panel, "p", { class: "hint" }, "Below the drawing stand the strongest paths from a token to the answer; each can be picked.");
      if (!viewer) make(panel, "p", { class: "hint" }, "Activations, effects and paths are recorded for the best circuit of a task only, and only up to 500 nodes.");
    }
    function release() { if (pinned >= 0) pin(-1); else rest(); }

    // Paths from token to answer: a list below the drawing; picking one lights it up.
    const steps = [];
    function follow(p) {
      if (p === chosen) { release(); return; }
      if (pinned >= 0) { nodes[pinned].setAttribute("aria-pressed", "false"); pinned = -1; }
      clear();
      choose(p);
      const way = viewer.paths[p], told = viewer.prompts[way.prompt];
      svg.classList.add("focus");
      way.nodes.forEach((node, i) => {
        nodes[node].classList.add("on");
        if (!i) return;
        const line = between.get(way.nodes[i - 1] + " " + node);
        if (line) line.classList.add("on");
        else make(pathLayer, "path", { class: "link step on", d: path(curve(way.nodes[i - 1], node)) });
      });
      make(panel, "h4", {}, "Path " + (p + 1) + ", " + told.side + " prompt");
      const facts = make(panel, "dl");
      for (const [name, value] of [["influence", percent(way.share)], ["effect, right − wrong", fixed(way.effect, true) + " logits"]]) {
        const fact = make(facts, "div");
        make(fact, "dt", {}, name);
        make(fact, "dd", {}, value);
      }
      make(panel, "h5", {}, "Begins at");
      const begins = new Array(told.tokens.length).fill(0);
      way.tokens.forEach(([at, share]) => { begins[at] = share; });
      heat(panel, told.tokens, begins, 0, Math.max(...begins), "where the path begins");
      make(panel, "h5", {}, "Runs through");
      const items = make(panel, "ol");
      way.nodes.forEach((node) => { const item = make(items, "li"); jump(item, node); make(item, "span", { class: "why" }, data.nodes[node].name); });
      make(make(items, "li"), "span", {}, "answer " + answered(told.right) + " over " + answered(told.wrong));
      make(panel, "p", { class: "why" }, "First-order effects in the circuit, norms frozen. Influence: the share of what reaches the answer that runs along this path.");
    }
    if (viewer && viewer.paths.length) {
      const block = make(root, "div", { class: "cg-paths" });
      make(block, "h4", {}, "Strongest paths from token to answer");
      const columns = make(block, "div", { class: "cg-columns" });
      [0, 1].forEach((side) => {
        const own = viewer.paths.map((way, p) => p).filter((p) => viewer.prompts[viewer.paths[p].prompt].side === viewer.sides[side]);
        if (!own.length) return;
        const column = make(columns, "div"), told = viewer.prompts[viewer.paths[own[0]].prompt];
        make(column, "p", { class: "what" }, `${told.side} prompt, ${answered(told.right)} over ${answered(told.wrong)}`);
        make(column, "div", { class: "cg-prompt" }, told.tokens.join(""));
        const items = make(column, "ol");
        own.forEach((p) => {
          const way = viewer.paths[p], first = way.tokens[0];
          const button = make(make(items, "li"), "button", { type: "button", "aria-pressed": "false", class: "cg-path" });
          make(button, "code", {}, spaced(told.tokens[first[0]]));
          way.nodes.forEach((node) => make(button, "span", {}, " → " + data.nodes[node].label));
          make(button, "span", {}, " → answer");
          make(button, "b", {}, percent(way.share));
          make(button, "span", { class: "w" }, fixed(way.effect, true));
          button.addEventListener("click", () => follow(p));
          steps[p] = button;
        });
        const listed = sum(own.map((p) => viewer.paths[p].share)), tokens = viewer.token_share[side];
        make(column, "p", { class: "why" }, `These carry ${percent(listed)} of the influence on the answer; ${percent(Math.max(0, tokens - listed))} runs along weaker paths, ${percent(Math.max(0, 1 - tokens))} begins at no token (biases, silenced channels). ` +
          `Besides, the last token itself adds ${fixed(viewer.token_effect[side], true)} logits through embedding and bigram table.`);
      });
    }

    function near(i, step) {
      const row = rows.findIndex((candidate) => candidate.members.includes(i));
      for (let at = row + step; rows[at]; at += step) {
        const open = rows[at].members.filter((member) => !hidden.has(member));
        if (open.length) return open.reduce((best, member) => (Math.abs(x[member] - x[i]) < Math.abs(x[best] - x[i]) ? member : best), open[0]);
      }
      return i;
    }
    // Along the most important edge that leads on, else along a link, else to the nearest node of the next row.
    function walk(i, step) {
      const other = ([s, t]) => (s === i ? t : t === i ? s : -1);
      const leads = (line) => { const j = other(line); return j >= 0 && !hidden.has(j) && (y[j] - y[i]) * step > 0; };
      const e = order.slice(0, shown).find((edge) => leads(data.edges[edge]));
      if (e !== undefined) return other(data.edges[e]);
      const link = data.links.find(leads);
      return link ? other(link) : near(i, step);
    }
    function beside(i, step) {
      const row = rows.find((candidate) => candidate.members.includes(i)).members.filter((member) => !hidden.has(member));
      return row[Math.min(row.length - 1, Math.max(0, row.indexOf(i) + step))];
    }
    const moves = {
      ArrowLeft: (i) => beside(i, -1), ArrowRight: (i) => beside(i, 1), ArrowUp: (i) => walk(i, -1), ArrowDown: (i) => walk(i, 1),
      PageUp: (i) => near(i, -1), PageDown: (i) => near(i, 1), Home: (i) => beside(i, -1e9), End: (i) => beside(i, 1e9),
    };
    const indexOf = (event) => { const group = event.target.closest("[data-node]"); return group ? Number(group.dataset.node) : -1; };
    svg.addEventListener("pointerover", (event) => { const i = indexOf(event); if (i >= 0 && pinned < 0 && chosen < 0) select(i); });
    svg.addEventListener("pointerleave", () => { if (pinned < 0 && chosen < 0 && !svg.contains(document.activeElement)) rest(); });
    // on the box around it: an svg that listens to focus is a tab stop of its own in Chromium
    canvas.addEventListener("focusin", (event) => { const i = indexOf(event); if (i >= 0) { if (pinned >= 0 && pinned !== i) pin(-1); select(i); } });
    canvas.addEventListener("focusout", (event) => { if (pinned < 0 && chosen < 0 && !root.contains(event.relatedTarget)) rest(); });
    svg.addEventListener("click", (event) => { const i = indexOf(event); if (i < 0 || i === pinned) release(); else pin(i); });
    root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { release(); return; }
      const i = indexOf(event);
      if (i < 0) return;
      if (moves[event.key]) nodes[moves[event.key](i)].focus();
      else if ((event.key === "Enter" || event.key === " ") && i !== pinned) pin(i);
      else if (event.key === "Enter" || event.key === " ") release();
      else return;
      event.preventDefault();
    });
    // Numbers of the maps, as one points at them.
    panel.addEventListener("pointerover", (event) => {
      const cell = event.target.closest("[data-say]");
      if (!cell) return;
      if (!readout) readout = make(panel, "output", { class: "cg-say" });
      readout.textContent = cell.dataset.say;
    });
    panel.addEventListener("pointerleave", () => { if (readout) { readout.remove(); readout = null; } });
    rest();
    canvas.scrollLeft = (plan.across - canvas.clientWidth) / 2;
    nodes[rows[0].members.find((member) => !hidden.has(member)) ?? 0].setAttribute("tabindex", "0");
  };
})();
