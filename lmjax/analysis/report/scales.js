// Numbers as text, ticks of axes, scales from numbers to places, and what is found in sorted numbers.

function shown(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e4) {
    const [unit, factor] = size >= 1e9 ? ["G", 1e9] : size >= 1e6 ? ["M", 1e6] : ["k", 1e3];
    return `${+(value / factor).toPrecision(3)}${unit}`;
  }
  return size < 1e-3 ? value.toExponential(1).replace(".0e", "e") : `${+value.toPrecision(4)}`;
}

function linearTicks(low, high, count) {
  const raw = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw) || raw;
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) ticks.push(+tick.toPrecision(12));
  return ticks;
}

function logTicks(low, high, count) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const factor of [1, 2, 5]) ticks.push(factor * 10 ** power);
  const inside = ticks.filter((tick) => tick >= low && tick <= high);
  const decades = inside.filter((tick) => Math.abs(Math.log10(tick) % 1) < 1e-9);
  if (inside.length < 2) return linearTicks(low, high, count);
  return inside.length > 1.5 * count && decades.length > 1 ? decades : inside;
}

function scale(low, high, from, to, isLog) {
  const f = isLog ? Math.log : (value) => value;
  const span = f(high) - f(low) || 1;
  const there = (value) => from + ((f(value) - f(low)) / span) * (to - from);
  const back = (place) => {
    const value = f(low) + ((place - from) / (to - from)) * span;
    return isLog ? Math.exp(value) : value;
  };
  return { there, back };
}

function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

function nearest(xs, step) {
  let low = 0;
  let high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low > 0 && step - xs[low - 1] < xs[low] - step ? low - 1 : low;
}
