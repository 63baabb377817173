// From values to pixels, linear or logarithmic, and the places where an axis is marked.

/** Share of a roomy axis left free on either side. */
const ROOM = 0.05;

export type ScaleKind = 'linear' | 'log';

export interface Scale {
  kind: ScaleKind;
  from: number;
  to: number;
  at: (value: number) => number;
  /** The value at a pixel. */
  back: (pixel: number) => number;
}

export interface Tick {
  value: number;
  label: string;
}

/** A scale over the values given, which it leaves out where it cannot show them (log of 0). */
export function scaleOver(kind: ScaleKind, values: number[], start: number, end: number): Scale {
  const shown = values.filter((value) => Number.isFinite(value) && (kind === 'linear' || value > 0));
  let from = shown.reduce((a, b) => Math.min(a, b), Infinity);
  let to = shown.reduce((a, b) => Math.max(a, b), -Infinity);
  if (shown.length === 0) [from, to] = kind === 'log' ? [1, 10] : [0, 1];
  if (from === to) {
    const around = kind === 'log' ? 2 : Math.abs(from) * 0.1 || 1;
    [from, to] = kind === 'log' ? [from / around, to * around] : [from - around, to + around];
  }
  return scale(kind, from, to, start, end);
}

/** The same with some room on both sides, so that lines do not run along the frame. */
export function roomyScale(kind: ScaleKind, values: number[], start: number, end: number): Scale {
  const tight = scaleOver(kind, values, start, end);
  const room = ROOM * (end - start);
  return scale(kind, tight.back(start - room), tight.back(end + room), start, end);
}

export function scale(kind: ScaleKind, from: number, to: number, start: number, end: number): Scale {
  const f = kind === 'log' ? Math.log10 : (value: number): number => value;
  const inverse = kind === 'log' ? (value: number): number => 10 ** value : (value: number): number => value;
  const low = f(from);
  const span = f(to) - low;
  return {
    kind,
    from,
    to,
    at: (value) => start + ((f(value) - low) / span) * (end - start),
    back: (pixel) => inverse(low + ((pixel - start) / (end - start)) * span),
  };
}

/** About `wanted` marks at round values. */
export function ticks(of: Scale, wanted: number): Tick[] {
  return of.kind === 'log' ? logTicks(of, wanted) : linearTicks(of, wanted);
}

function linearTicks({ from, to }: Scale, wanted: number): Tick[] {
  const rough = (to - from) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((m) => m * power >= rough) ?? 10);
  const out: Tick[] = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + step * 1e-9; i += 1) {
    out.push({ value: i * step, label: short(Number((i * step).toPrecision(12))) });
  }
  return out;
}

function logTicks(of: Scale, wanted: number): Tick[] {
  const low = Math.floor(Math.log10(of.from));
  const high = Math.ceil(Math.log10(of.to));
  const decades = Math.log10(of.to / of.from);
  const inside = (value: number): boolean => value >= of.from * (1 - 1e-9) && value <= of.to * (1 + 1e-9);
  const every = Math.max(1, Math.ceil(decades / wanted));
  const mantissas = decades < 1 ? [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9] : decades < 2.5 ? [1, 2, 5] : [1];
  const out: Tick[] = [];
  for (let power = low; power <= high; power += 1) {
    if (power % every !== 0 && mantissas.length === 1) continue;
    for (const mantissa of mantissas) {
      const value = mantissa * 10 ** power;
      if (inside(value)) out.push({ value, label: short(value) });
    }
  }
  return out.length >= 2 ? out : linearTicks(of, wanted);
}

const SUFFIXES: [number, string][] = [
  [1e12, ' T'],
  [1e9, ' B'],
  [1e6, ' M'],
  [1e3, ' k'],
];

/** A number as briefly as it stays readable: 12.3 k, 2.5 M, 70 B, 5.76e23, 3e-4. */
export function short(value: number, digits = 3): string {
  const size = Math.abs(value);
  if (!Number.isFinite(value)) return '–';
  if (size === 0) return '0';
  if (size >= 1e15 || size < 1e-3) return exponent(value, digits);
  const [unit, name] = SUFFIXES.find(([least]) => size >= least) ?? [1, ''];
  return `${Number((value / unit).toPrecision(digits))}${name}`;
}

/** 5.76e23, as the field writes compute. */
export function exponent(value: number, digits = 3): string {
  return Number(value.toPrecision(digits)).toExponential().replace('e+', 'e');
}
