"use strict";
// Draws the charts of a report as SVG. All charts share the visible steps and the hidden runs.
const data = JSON.parse(document.getElementById("data").textContent);
const view = { steps: null, hidden: new Set(), logX: false, logY: false };
const drawn = [];

function element(name, attributes = {}, text = "") {
  const isSvg = ["svg", "path", "line", "circle", "rect", "text", "g", "clipPath"].includes(name);
  const node = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== "") node.textContent = text;
  return node;
}

class Chart {
  constructor(chart, parent) {
    this.chart = chart;
    this.clip = `clip-${drawn.length}`;
    this.box = element("div", { class: `chart${chart.main ? " main" : ""}` });
    const title = element("h2", {}, chart.title);
    if (chart.unit) title.append(" ", element("small", {}, chart.unit));
    this.box.append(title);
    const named = chart.curves.filter((curve) => curve.label);
    if (chart.main || data.runs.length > 1) this.box.append(this.legend(named));
    this.svg = element("svg", { role: "img", "aria-label": `${chart.title} by step` });
    this.tip = element("div", { class: "tip" });
    this.box.append(this.svg, this.tip);
    parent.append(this.box);
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerleave", () => this.leave());
    this.svg.addEventListener("pointerdown", (event) => this.press(event));
    this.svg.addEventListener("pointerup", (event) => this.release(event));
    this.svg.addEventListener("pointercancel", () => this.leave());
    this.svg.addEventListener("dblclick", () => zoom(null));
  }

  legend(curves) {
    const legend = element("div", { class: "legend" });
    for (const curve of curves) {
      const button = element("button", { type: "button", title: "hide or show" });
      button.append(element("i", { class: `key ${curve.kind} c${curve.colour % 8}` }), curve.label);
      button.addEventListener("click", () => {
        if (data.runs.length > 1) {
          if (!view.hidden.delete(curve.run)) view.hidden.add(curve.run);
        } else {
          curve.off = !curve.off;
          for (const other of this.chart.curves)
            if (other.kind === "raw" && curve.kind === "line" && other.colour === curve.colour) other.off = curve.off;
        }
        draw();
      });
      button.curve = curve;
      legend.append(button);
    }
    this.buttons = legend.children;
    return legend;
  }

  visible() {
    return this.chart.curves.filter((curve) => !curve.off && !view.hidden.has(curve.run));
  }

  ranges(curves) {
    let [first, last] = [Infinity, -Infinity];
    for (const curve of curves) {
      if (curve.kind === "law" && curves.length > 1) continue;
      first = Math.min(first, curve.x[0]);
      last = Math.max(last, curve.x[curve.x.length - 1]);
    }
    if (view.logX) first = Math.max(first, 1);
    let [from, to] = view.steps || [first, last];
    if (!(to > from)) [from, to] = [from - 0.5, to + 0.5];
    const values = [];
    for (const curve of curves)
      curve.x.forEach((step, index) => {
        const value = curve.y[index];
        if (value !== null && step >= from && step <= to && !(view.logY && value <= 0)) values.push(value);
      });
    if (!values.length) return null;
    values.sort((a, b) => a - b);
    let low = values[0];
    let high = values[values.length - 1];
    // A few values far above the others would flatten the rest: they are drawn at the upper edge.
    if (values.length > 60) high = quantile(values, 0.985);
    else if (values.length >= 8 && low >= 0 && high > 4 * quantile(values, 0.5)) high = quantile(values, 0.85);
    if (this.chart.title === "learning rate" && !view.logY) low = 0;
    if (view.logY) {
      const margin = (high / low || 1) ** 0.06;
      return { from, to, low: low / margin, high: Math.max(high * margin, low * 1.01) };
    }
    const margin = 0.07 * (high - low) || Math.abs(high) * 0.05 || 1;
    return { from, to, low: low === 0 ? 0 : low - margin, high: high + margin };
  }

  draw() {
    this.svg.replaceChildren();
    for (const button of this.buttons || []) {
      const off = button.curve.off || view.hidden.has(button.curve.run);
      button.classList.toggle("off", Boolean(off));
    }
    const width = Math.max(this.box.clientWidth - 24, 200);
    const height = this.chart.main ? Math.max(280, Math.min(400, width * 0.55)) : 190;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    const curves = this.visible();
    const range = curves.length ? this.ranges(curves) : null;
    this.plot = null;
    if (!range) {
      this.svg.append(element("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing to show here"));
      return;
    }
    const [left, right, top, bottom] = [48, width - 8, 14, height - 24];
    const x = scale(range.from, range.to, left, right, view.logX && range.from > 0);
    const y = scale(range.low, range.high, bottom, top, view.logY && range.low > 0);
    this.plot = { x, y, left, right, top, bottom, range, curves };
    const xTicks = (view.logX && range.from > 0 ? logTicks : linearTicks)(range.from, range.to, width / 75);
    const yTicks = (view.logY && range.low > 0 ? logTicks : linearTicks)(range.low, range.high, height / 45);
    for (const tick of yTicks) {
      const place = y.there(tick);
      this.svg.append(element("line", { class: "grid", x1: left, x2: right, y1: place, y2: place }));
      this.svg.append(element("text", { x: left - 6, y: place + 4, "text-anchor": "end" }, shown(tick)));
    }
    for (const tick of xTicks) {
      const place = x.there(tick);
      this.svg.append(element("line", { class: "axis", x1: place, x2: place, y1: bottom, y2: bottom + 4 }));
      const anchor = place > right - 16 ? "end" : "middle";
      this.svg.append(element("text", { x: place, y: bottom + 17, "text-anchor": anchor }, shown(tick)));
    }
    this.svg.append(element("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
    const clip = element("clipPath", { id: this.clip });
    clip.append(element("rect", { x: left, y: 0, width: right - left + 1, height: bottom + 1 }));
    this.svg.append(clip);
    for (const curve of curves) this.drawCurve(curve);
    this.drawMarks();
    this.over = element("g");
    this.svg.append(this.over);
  }

  drawCurve(curve) {
    const { x, y, top, bottom, range } = this.plot;
    const group = element("g", { class: `c${curve.colour % 8}` });
    const dots = [];
    let path = "";
    let isGap = true;
    curve.x.forEach((step, index) => {
      const value = curve.y[index];
      const next = index + 1 < curve.x.length ? curve.x[index + 1] : step;
      const before = index > 0 ? curve.x[index - 1] : step;
      const outside = next < range.from || before > range.to || (view.logX && step <= 0);
      if (value === null || outside || (view.logY && value <= 0)) {
        isGap = true;
        return;
      }
      const isAlone = isGap && (index + 1 >= curve.x.length || curve.y[index + 1] === null);
      const [px, py] = [x.there(step), Math.max(top - 8, Math.min(bottom, y.there(value)))];
      path += `${isGap ? "M" : "L"}${px.toFixed(1)} ${py.toFixed(1)}`;
      isGap = false;
      if ((isAlone || (curve.kind === "points" && curve.x.length <= 120)) && step >= range.from && step <= range.to)
        dots.push(element("circle", { class: "dot", cx: px, cy: py, r: 3.2 }));
    });
    group.append(element("path", { class: curve.kind, d: path, "clip-path": `url(#${this.clip})` }), ...dots);
    this.svg.append(group);
  }

  drawMarks() {
    const { x, y, left, right, top, bottom, range } = this.plot;
    const taken = [];
    for (const mark of this.chart.marks) {
      if (view.hidden.has(mark.run) || mark.x < range.from || mark.x > range.to) continue;
      const px = x.there(mark.x);
      const py = Math.max(top, Math.min(bottom, view.logY && mark.y <= 0 ? bottom : y.there(mark.y)));
      this.svg.append(element("circle", { class: `mark ${mark.kind}`, cx: px, cy: py, r: 5 }));
      if (!mark.text) continue;
      const size = mark.text.length * 6.6;
      const isLeft = px + 10 + size > right;
      const from = isLeft ? Math.max(px - 10 - size, left) : px + 10;
      let at = mark.kind === "best" ? py - 12 : py + 4;
      const meets = () => taken.some((box) => from < box.to && from + size > box.from && Math.abs(at - box.at) < 14);
      for (let tries = 0; tries < 12 && meets(); tries++) at += mark.kind === "best" ? -15 : 15;
      taken.push({ from, to: from + size, at });
      this.svg.append(element("text", { class: `mark ${mark.kind}`, x: from, y: Math.max(at, 11) }, mark.text));
    }
  }

  place(event) {
    const box = this.svg.getBoundingClientRect();
    return { px: event.clientX - box.left, py: event.clientY - box.top };
  }

  press(event) {
    if (!this.plot || event.button > 0) return;
    this.start = this.place(event).px;
    if (event.pointerType !== "touch") this.svg.setPointerCapture(event.pointerId);
  }

  release(event) {
    if (this.start === undefined || !this.plot) return;
    const [a, b] = [this.start, this.place(event).px].sort((p, q) => p - q);
    this.start = undefined;
    const { x, left, right } = this.plot;
    if (b - a > 6) zoom([x.back(Math.max(a, left)), x.back(Math.min(b, right))]);
  }

  leave() {
    this.start = undefined;
    this.tip.style.display = "none";
    if (this.over) this.over.replaceChildren();
  }

  hover(event) {
    if (!this.plot) return;
    const { x, y, left, right, top, bottom, curves } = this.plot;
    const { px, py } = this.place(event);
    this.over.replaceChildren();
    if (this.start !== undefined) {
      const [a, b] = [this.start, px].sort((p, q) => p - q);
      this.over.append(element("rect", { class: "band", x: a, y: top, width: b - a, height: bottom - top }));
    }
    if (px < left - 4 || px > right + 4) return this.leave();
    const step = x.back(px);
    const main = curves.find((curve) => curve.kind !== "points") || curves[0];
    const at = main.x[nearest(main.x, step)];
    const rows = [element("div", { class: "quiet" }, `step ${at.toLocaleString("en")}`)];
    for (const curve of curves) {
      if (curve.kind === "law") continue;
      const index = nearest(curve.x, at);
      const value = curve.y[index];
      const far = Math.abs(x.there(curve.x[index]) - x.there(at)) > 24;
      if (value === null || far) continue;
      const row = element("div", { class: `c${curve.colour % 8}` });
      const label = curve.kind === "raw" ? "as logged" : curve.kind === "line" && this.chart.main ? `${curve.label} (smoothed)` : curve.label;
      row.append(element("b", {}, value.toPrecision(5)), ` ${label}`);
      rows.push(row);
      const cy = Math.max(top, Math.min(bottom, y.there(value)));
      const group = element("g", { class: `c${curve.colour % 8}` });
      group.append(element("circle", { class: "dot", cx: x.there(curve.x[index]), cy, r: 4 }));
      this.over.append(group);
    }
    const line = x.there(at);
    this.over.prepend(element("line", { class: "cross", x1: line, x2: line, y1: top, y2: bottom }));
    this.tip.replaceChildren(...rows.slice(0, 14));
    this.tip.style.display = "block";
    const isRight = line > (left + right) / 2;
    this.tip.style.left = isRight ? "auto" : `${line + 26}px`;
    this.tip.style.right = isRight ? `${this.box.clientWidth - line}px` : "auto";
    this.tip.style.top = `${Math.min(Math.max(py, 30), bottom - 20)}px`;
  }
}

function zoom(steps) {
  view.steps = steps;
  document.getElementById("reset").disabled = steps === null;
  draw();
}

function draw() {
  for (const chart of drawn) chart.draw();
}

const parent = document.getElementById("charts");
for (const chart of data.charts) drawn.push(new Chart(chart, parent));
for (const [id, name] of [["log-x", "logX"], ["log-y", "logY"]])
  document.getElementById(id).addEventListener("change", (event) => {
    view[name] = event.target.checked;
    draw();
  });
document.getElementById("reset").addEventListener("click", () => zoom(null));
let width = 0;
new ResizeObserver(() => {
  if (document.body.clientWidth === width) return;
  width = document.body.clientWidth;
  draw();
}).observe(document.body);
draw();
