// The drawings: constellations on canvas, the curve as SVG. Colours come from the style sheet, so that they follow light and dark.

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const SVG = "http://www.w3.org/2000/svg";

/** Draws symbols [I, Q, I, Q, ...] on axes to +-`reach`. */
export function constellation(canvas, symbols, reach, ink) {
  const size = 240, ratio = Math.min(window.devicePixelRatio || 1, 2);
  if (canvas.width !== size * ratio) canvas.width = canvas.height = size * ratio;
  // A few hundred dots: quicker on the processor than by way of a GPU, above all where that is emulated.
  const g = canvas.getContext("2d", { willReadFrequently: true });
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.fillStyle = colour("--card");
  g.fillRect(0, 0, size, size);
  g.strokeStyle = colour("--grid");
  g.beginPath();
  for (let i = -Math.floor(reach); i <= reach; i++) {
    const at = Math.round(size / 2 * (1 + i / reach)) + .5;
    g.moveTo(at, 0); g.lineTo(at, size); g.moveTo(0, at); g.lineTo(size, at);
  }
  g.stroke();
  g.strokeStyle = colour("--line");
  g.strokeRect(size / 2, 0, 0, size);
  g.strokeRect(0, size / 2, size, 0);
  g.fillStyle = colour(ink);
  g.globalAlpha = .8;
  for (let i = 0; i + 1 < symbols.length; i += 2) {
    const x = size / 2 * (1 + symbols[i] / reach), y = size / 2 * (1 - symbols[i + 1] / reach);
    g.beginPath();
    // What lies beyond is seen at the edge.
    g.arc(Math.min(Math.max(x, 3), size - 3), Math.min(Math.max(y, 3), size - 3), 2.6, 0, 7);
    g.fill();
  }
  g.globalAlpha = 1;
}

/** How far the axes must go for most symbols: a power of two, so that they seldom change. */
export function reach(...all) {
  const sizes = all.flat().map(Math.abs).sort((a, b) => a - b);
  const most = sizes[Math.floor(sizes.length * .97)] ?? 1;
  return Math.min(16, Math.max(2, 2 ** Math.ceil(Math.log2(most || 1))));
}

function node(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/**
 * Draws accuracy over SNR.
 * @param series [{name, ink, dash, points: [{x, y, low, high}]}]; y, low and high as fractions
 * @param lines [{name, ink, points: [[x, y]]}], dashed
 * @param now SNR of the channel as it is, or null
 */
export function curve(box, series, lines, now) {
  const width = Math.max(300, Math.min(680, box.clientWidth || 480)), height = 300;
  const left = 44, right = width - 10, top = 10, bottom = height - 40 - 18 * (series.length + lines.length);
  const tall = Math.max(170, bottom - top), foot = top + tall;
  const xs = series.flatMap(s => s.points.map(p => p.x)).concat(now === null ? [] : [now]);
  const low = Math.floor(Math.min(-10, ...xs) / 5) * 5, high = Math.ceil(Math.max(20, ...xs) / 5) * 5;
  const x = v => left + (right - left) * (v - low) / (high - low), y = v => foot - tall * Math.min(1, Math.max(0, v));
  const full = foot + 38 + 18 * (series.length + lines.length);
  const svg = node("svg", { viewBox: `0 0 ${width} ${full}`, role: "img", "aria-label": "Accuracy over SNR; the table below has the figures" });
  for (let percent = 0; percent <= 100; percent += 20) {
    svg.append(node("line", { x1: left, x2: right, y1: y(percent / 100), y2: y(percent / 100), stroke: "var(--grid)" }));
    svg.append(node("text", { x: left - 6, y: y(percent / 100) + 4, "text-anchor": "end" }, percent));
  }
  const step = high - low > 60 ? 20 : high - low > 30 ? 10 : 5;
  for (let db = low; db <= high; db += step) {
    svg.append(node("line", { x1: x(db), x2: x(db), y1: top, y2: foot, stroke: "var(--grid)" }));
    svg.append(node("text", { x: x(db), y: foot + 15, "text-anchor": "middle" }, db));
  }
  svg.append(node("text", { x: right, y: foot + 30, "text-anchor": "end" }, "Es/N0 in dB"));
  svg.append(node("text", { x: left, y: foot + 30 }, "accuracy in %"));
  if (now !== null) {
    svg.append(node("line", { x1: x(now), x2: x(now), y1: top, y2: foot, stroke: "var(--faint)", "stroke-dasharray": "2 4" }));
  }
  let key = foot + 48;
  const legend = (ink, name, dash) => {
    svg.append(node("line", { x1: left, x2: left + 22, y1: key - 4, y2: key - 4, stroke: ink, "stroke-width": 2, "stroke-dasharray": dash }));
    svg.append(node("text", { x: left + 30, y: key }, name));
    key += 18;
  };
  for (const line of lines) {
    const d = line.points.filter(p => p[0] >= low && p[0] <= high).map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
    svg.append(node("path", { class: "limit", d, fill: "none", stroke: line.ink, "stroke-dasharray": "6 4" }));
    legend(line.ink, line.name, "6 4");
  }
  for (const s of series) {
    const points = [...s.points].sort((a, b) => a.x - b.x);
    for (const p of points) {
      svg.append(node("path", { class: "interval", d: `M${x(p.x)} ${y(p.low)}V${y(p.high)}M${x(p.x) - 3} ${y(p.low)}h6M${x(p.x) - 3} ${y(p.high)}h6`, stroke: s.ink, fill: "none" }));
    }
    if (s.dash !== "none") {
      const d = points.map((p, i) => `${i ? "L" : "M"}${x(p.x).toFixed(1)} ${y(p.y).toFixed(1)}`).join("");
      svg.append(node("path", { class: "line", d, fill: "none", stroke: s.ink, "stroke-width": 2 }));
    }
    for (const p of points) {
      const mark = node(s.dash === "none" ? "circle" : "rect", s.dash === "none"
        ? { cx: x(p.x), cy: y(p.y), r: 3.5, fill: "var(--card)", stroke: s.ink, "stroke-width": 2 }
        : { x: x(p.x) - 3, y: y(p.y) - 3, width: 6, height: 6, fill: s.ink });
      mark.append(node("title", {}, `${p.x} dB: ${(100 * p.y).toFixed(1)} % (${(100 * p.low).toFixed(1)} to ${(100 * p.high).toFixed(1)})`));
      svg.append(mark);
    }
    legend(s.ink, s.name, s.dash === "none" ? "2 3" : "none");
  }
  box.replaceChildren(svg);
}
