// Drawing and interpolation: functions of their arguments alone.

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);
const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const number = (value, digits = 2) =>
  Number.isFinite(value) ? value.toFixed(digits).replace("-", "\u2212") : "\u2013";
const inside = ([x, y], [left, right, bottom, top]) =>
  x >= left && x <= right && y >= bottom && y <= top;

// Of the point in a grid of n x n: row, column, and the weights of the four nodes around it.
function corners([x, y], [left, right, bottom, top], n) {
  const u = ((x - left) / (right - left)) * (n - 1), v = ((y - bottom) / (top - bottom)) * (n - 1);
  const j = Math.max(0, Math.min(n - 2, Math.floor(u))), i = Math.max(0, Math.min(n - 2, Math.floor(v)));
  const a = u - j, b = v - i;
  return [[i, j, (1 - a) * (1 - b)], [i, j + 1, a * (1 - b)], [i + 1, j, (1 - a) * b], [i + 1, j + 1, a * b]]
    .filter(([, , weight]) => weight > 1e-6);
}
const blended = (grid, at, extent, n, width = 1, k = 0) =>
  corners(at, extent, n).reduce((sum, [i, j, w]) => sum + w * grid[(i * n + j) * width + k], 0);

// A grid of n x n opacities as a picture of one color, its first row at the bottom.
function tinted(n, hex, opacity) {
  const canvas = Object.assign(document.createElement("canvas"), { width: n, height: n });
  const context = canvas.getContext("2d"), image = context.createImageData(n, n), tone = rgb(hex);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++)
      image.data.set([...tone, 255 * Math.max(0, Math.min(1, opacity(i * n + j) || 0))], 4 * ((n - 1 - i) * n + j));
  context.putImageData(image, 0, 0);
  return canvas;
}

function marks(context, points, place, shape) {
  for (let k = 0; k < points.length; k += 2) {
    const [x, y] = place([points[k], points[k + 1]]);
    context.beginPath();
    shape.forEach(([a, b], m) => context[m ? "lineTo" : "moveTo"](x + a, y + b));
    context.closePath();
    context.fill();
    context.stroke();
  }
}
const star = Array.from({ length: 10 }, (_, k) => {
  const r = k % 2 ? 2 : 5;
  return [r * Math.sin((k * Math.PI) / 5), -r * Math.cos((k * Math.PI) / 5)];
});
const triangle = [[0, -4.5], [4, 3], [-4, 3]];

// Numbers along the lower and the left edge.
function ticks(context, [left, right, bottom, top], side, place, color) {
  const raw = (right - left) / 5, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = context.strokeStyle = color;
  context.lineWidth = 1;
  for (const axis of [0, 1])
    for (let t = Math.ceil([left, bottom][axis] / step) * step; t < [right, top][axis]; t += step) {
      const [x, y] = axis ? [0, place([left, t])[1]] : [place([t, bottom])[0], side];
      if ((axis ? y : x) < 22 || (axis ? y : x) > side - 22) continue;
      context.textAlign = axis ? "left" : "center";
      context.textBaseline = axis ? "middle" : "alphabetic";
      context.fillText(String(+t.toPrecision(6)).replace("-", "\u2212"), axis ? 8 : x, axis ? y : side - 8);
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(axis ? 5 : x, axis ? y : side - 5);
      context.stroke();
    }
}
