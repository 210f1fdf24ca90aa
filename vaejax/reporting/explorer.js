// The latent plane of each run: densities, codes and samples, and what the decoder makes of a point.
const root = document.getElementById("explorer");
const data = JSON.parse(document.getElementById("explorer-data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const state = { space: "z", at: data.start.z, layers: new Set() };

// The plane of a run in the chosen space; a run whose two spaces coincide has one.
const planeOf = (run) => run.spaces[state.space] || run.spaces.z;
const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
const palette = () => data.colors[dark.matches ? "dark" : "light"];

function shades(plane, context, side) {
  const n = plane.size, p = plane.log_p, q = plane.log_q, [pEdge, qEdge] = plane.edges;
  const put = (hex, opacity) => context.drawImage(tinted(n, hex, opacity), 0, 0, side, side);
  const peak = q.reduce((most, value) => (value > most ? value : most), -Infinity);
  if (state.layers.has("aggregate")) put(color("shade"), (k) => 0.75 * (1 + (q[k] - peak) / 9));
  if (!state.layers.has("pockets")) return;
  put(color("pocket"), (k) => (p[k] >= pEdge ? Math.min(0.85, (p[k] - q[k] - 0.7) / 4) : 0));
  put(color("leak"), (k) => (q[k] >= qEdge ? Math.min(0.85, (q[k] - p[k] - 0.7) / 4) : 0));
}

// All that does not move with the pointer.
function base(run) {
  const plane = planeOf(run), [left, right, bottom, top] = plane.extent, scale = devicePixelRatio || 1;
  const side = run.plane.clientWidth, layer = document.createElement("canvas");
  layer.width = layer.height = run.plane.width = run.plane.height = Math.round(side * scale);
  const context = layer.getContext("2d"), colors = palette();
  context.scale(scale, scale);
  run.place = ([x, y]) => [((x - left) / (right - left)) * side, side - ((y - bottom) / (top - bottom)) * side];
  shades(plane, context, side);
  if (state.layers.has("codes")) {
    context.globalAlpha = 0.7;
    const radius = Math.max(1, Math.min(3, (side / 220) * Math.sqrt(4000 / plane.codes.length)));
    for (let k = 0; 2 * k < plane.codes.length; k++) {
      context.fillStyle = plane.class_of ? colors[plane.class_of[k]] : colors[0];
      const [x, y] = run.place([plane.codes[2 * k], plane.codes[2 * k + 1]]);
      context.beginPath();
      context.arc(x, y, radius, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
  }
  if (state.layers.has("prior"))
    plane.contours.forEach((lines, level) => {
      context.setLineDash([[], [7, 4], [2, 3]][level]);
      context.strokeStyle = color("ink");
      context.lineWidth = 1.3;
      for (const line of lines) {
        context.beginPath();
        for (let k = 0; k < line.length; k += 2) context.lineTo(...run.place([line[k], line[k + 1]]));
        context.stroke();
      }
    });
  context.setLineDash([]);
  context.strokeStyle = color("paper");
  context.lineWidth = 0.8;
  context.fillStyle = color("low");
  if (state.layers.has("low")) marks(context, plane.low, run.place, star);
  context.fillStyle = color("high");
  if (state.layers.has("high")) marks(context, plane.high, run.place, triangle);
  if (state.layers.has("codes")) names(run, plane, context, colors);
  ticks(context, plane.extent, side, run.place, color("muted"));
  run.base = layer;
}

function names(run, plane, context, colors) {
  context.font = "bold 13px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineWidth = 4;
  context.strokeStyle = color("paper");
  for (const [index, x, y] of plane.centers || []) {
    const text = [String(run.classes[index]), ...run.place([x, y])];
    context.strokeText(...text);
    context.fillStyle = color("ink");
    context.fillText(...text);
  }
}

function image(run, plane) {
  const [height, width] = run.shape, context = run.decoded.getContext("2d");
  const within = plane.pixels && inside(state.at, plane.extent);
  run.decoded.classList.toggle("outside", !within);
  if (!within) return context.clearRect(0, 0, width, height);
  const result = context.createImageData(width, height), parts = corners(state.at, plane.extent, plane.nodes);
  const stride = plane.nodes * width;
  for (let row = 0; row < height; row++)
    for (let column = 0; column < 4 * width; column++) {
      let sum = 0;
      for (const [i, j, weight] of parts)
        sum += weight * plane.pixels[4 * ((i * height + row) * stride + j * width) + column];
      result.data[4 * row * width + column] = Math.round(sum);
    }
  context.putImageData(result, 0, 0);
}

function point(run, plane) {
  const side = run.decoded.clientWidth, scale = devicePixelRatio || 1, context = run.decoded.getContext("2d");
  run.decoded.width = run.decoded.height = Math.round(side * scale);
  context.scale(scale, scale);
  const [left, right, bottom, top] = data.frame;
  const place = ([x, y]) => [((x - left) / (right - left)) * side, side - ((y - bottom) / (top - bottom)) * side];
  context.fillStyle = color("muted");
  context.globalAlpha = 0.55;
  for (let k = 0; k < run.data.length; k += 2) {
    const [x, y] = place([run.data[k], run.data[k + 1]]);
    context.fillRect(x - 1, y - 1, 2, 2);
  }
  context.globalAlpha = 1;
  if (!inside(state.at, plane.extent)) return;
  const x = [0, 1].map((k) => blended(plane.decoded, state.at, plane.extent, plane.nodes, 2, k));
  run.where.textContent = `x = (${number(x[0])}, ${number(x[1])})`;
  context.fillStyle = color("accent");
  context.strokeStyle = color("paper");
  context.lineWidth = 2;
  context.beginPath();
  context.arc(...place(x), 7, 0, 7);
  context.fill();
  context.stroke();
}

// All that moves with the pointer.
function point_at(run) {
  const plane = planeOf(run), context = run.plane.getContext("2d"), scale = devicePixelRatio || 1;
  const within = inside(state.at, plane.extent), side = run.plane.clientWidth;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, run.plane.width, run.plane.height);
  context.drawImage(run.base, 0, 0);
  context.scale(scale, scale);
  if (within) {
    const [x, y] = run.place(state.at);
    for (const [style, width] of [[color("paper"), 4], [color("accent"), 2]]) {
      context.strokeStyle = style;
      context.lineWidth = width;
      context.beginPath();
      context.arc(x, y, 8, 0, 7);
      for (const [a, b] of [[0, 1], [0, -1], [1, 0], [-1, 0]]) {
        context.moveTo(x + 8 * a, y + 8 * b);
        context.lineTo(x + 14 * a, y + 14 * b);
      }
      context.stroke();
    }
  }
  const at = (grid) => (within ? blended(grid, state.at, plane.extent, plane.size) : NaN);
  const p = at(plane.log_p), q = at(plane.log_q), symbol = Object.keys(run.spaces).length > 1 ? state.space : "z";
  const values = { at: `(${number(state.at[0])}, ${number(state.at[1])})`, p: number(p), q: number(q), ratio: number(p - q) };
  for (const [name, text] of Object.entries(values)) run[name].textContent = text;
  run.symbols.forEach((each) => (each.textContent = symbol === "z0" ? "z\u2080" : "z"));
  run.verdict.textContent = verdict(p, q, plane.edges, within);
  if (run.kind === "image") image(run, plane);
  if (run.kind === "point") point(run, plane);
}

function verdict(p, q, [pEdge, qEdge], within) {
  if (!within) return "outside this plane";
  if (!Number.isFinite(p) || !Number.isFinite(q)) return "the flow overflows here";
  if (p < pEdge && q < qEdge) return "neither samples nor data come here";
  const times = Math.exp(Math.abs(p - q)), ratio = `${times < 9.5 ? times.toFixed(1) : times < 1e4 ? times.toFixed(0) : "over 10,000"}\u00d7`;
  if (p - q > data.pocket) return `pocket: sampled ${ratio} as often as data lie here`;
  if (q - p > data.pocket) return `leak: data lie here ${ratio} as often as samples`;
  if (times < 2) return "covered: samples come here about as often as data";
  return p > q ? `sampled ${ratio} as often as data lie here` : `data lie here ${ratio} as often as samples`;
}

function move(at) {
  state.at = at;
  runs.forEach(point_at);
}
function redraw() {
  runs.forEach(base);
  runs.forEach(point_at);
}

function choose(space) {
  if (space !== state.space) state.at = data.start[space] || state.at;
  state.space = space;
  redraw();
}

// #at=0.3,-1.2 and, if wanted, &space=z0: a link to a place.
function follow() {
  const given = new URLSearchParams(location.hash.slice(1)), at = (given.get("at") || "").split(",").map(Number);
  const radio = root.querySelector(`input[name=space][value="${CSS.escape(given.get("space") || "")}"]`);
  if (radio) {
    radio.checked = true;
    choose(radio.value);
  }
  if (at.length === 2 && at.every(Number.isFinite) && given.get("at")) move(at);
}

function listen(run) {
  const there = (event) => {
    const box = run.plane.getBoundingClientRect(), [left, right, bottom, top] = planeOf(run).extent;
    const u = (event.clientX - box.left) / box.width, v = (event.clientY - box.top) / box.height;
    move([left + u * (right - left), top - v * (top - bottom)]);
  };
  run.plane.addEventListener("pointermove", there);
  run.plane.addEventListener("pointerdown", there);
  run.plane.addEventListener("click", () => {
    const at = state.at.map((value) => value.toFixed(3)).join(",");
    location.replace(`#at=${at}&space=${state.space}`);
  });
  run.plane.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!way) return;
    event.preventDefault();
    const [left, right] = planeOf(run).extent, step = ((right - left) / 128) * (event.shiftKey ? 8 : 1);
    move(state.at.map((value, k) => value + way[k] * step));
  });
}

async function prepare(run, index) {
  const block = root.querySelectorAll(".run")[index];
  for (const part of block.querySelectorAll("[data-part]")) run[part.dataset.part] = part;
  run.symbols = block.querySelectorAll(".symbol");
  if (run.data) run.data = floats(run.data);
  for (const plane of Object.values(run.spaces)) {
    for (const name of ["log_p", "log_q", "codes", "low", "high"]) plane[name] = floats(plane[name]);
    if (plane.class_of) plane.class_of = bytes(plane.class_of);
    if (run.kind === "point") plane.decoded = floats(plane.decoded);
    if (run.kind === "image") {
      const picture = new Image();
      picture.src = plane.decoded;
      await picture.decode();
      const canvas = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(picture, 0, 0);
      plane.pixels = context.getImageData(0, 0, picture.width, picture.height).data;
    }
  }
  listen(run);
}

const runs = data.runs;
Promise.all(runs.map(prepare)).then(() => {
  const boxes = [...root.querySelectorAll("input[type=checkbox]")];
  const chosen = () => (state.layers = new Set(boxes.filter((box) => box.checked).map((box) => box.value)));
  boxes.forEach((box) => box.addEventListener("change", () => (chosen(), redraw())));
  root.querySelectorAll("input[name=space]").forEach((each) => each.addEventListener("change", () => choose(each.value)));
  chosen();
  choose(root.querySelector("input[name=space]:checked")?.value || "z");
  follow();
  addEventListener("hashchange", follow);
  addEventListener("resize", redraw);
  dark.addEventListener("change", redraw);
  root.dataset.ready = "yes";
});
