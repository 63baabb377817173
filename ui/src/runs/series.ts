// Curves out of a record: which values, against what, how smooth, and how many points a chart can show.

import type { MetricsLine } from '../api/runs';

export type Quantity = 'loss' | 'validation_loss' | 'lr' | 'tokens_per_second' | 'grad_norm';
export type Axis = 'step' | 'tokens';
export type Point = [x: number, y: number];

/** The points of a quantity; a null (NaN in training) stays as a gap. */
export function pointsOf(lines: MetricsLine[], quantity: Quantity, axis: Axis): Point[] {
  const out: Point[] = [];
  for (const line of lines) {
    const x = axis === 'step' ? line.step : line.tokens;
    const y = line[quantity];
    if (x !== undefined && y !== undefined) out.push([x, y ?? NaN]);
  }
  return out;
}

/**
 * Exponential moving average with its bias taken out (Adam's correction), so that the beginning is
 * not pulled to the first value. `weight` is that of the past, 0 to below 1.
 */
export function smooth(points: Point[], weight: number): Point[] {
  if (weight <= 0) return points;
  let mean = 0;
  let mass = 0;
  return points.map(([x, y]): Point => {
    if (!Number.isFinite(y)) return [x, y];
    mean = weight * mean + (1 - weight) * y;
    mass = weight * mass + (1 - weight);
    return [x, mean / mass];
  });
}

/** At most about `2 · buckets` points: of each bucket the lowest and the highest, so that no spike is lost. */
export function thin(points: Point[], buckets: number): Point[] {
  if (points.length <= 2 * buckets) return points;
  const out: Point[] = [];
  for (let bucket = 0; bucket < buckets; bucket += 1) {
    const from = Math.floor((bucket * points.length) / buckets);
    const to = Math.floor(((bucket + 1) * points.length) / buckets);
    const [low, high] = extremes(points, from, to);
    if (low >= 0) out.push(points[Math.min(low, high)] as Point);
    if (high !== low) out.push(points[Math.max(low, high)] as Point);
  }
  return out;
}

function extremes(points: Point[], from: number, to: number): [low: number, high: number] {
  let [low, high] = [from, from];
  for (let at = from + 1; at < to; at += 1) {
    const value = (points[at] as Point)[1];
    if (value < (points[low] as Point)[1]) low = at;
    if (value > (points[high] as Point)[1]) high = at;
  }
  return [low, high];
}

/** The point closest to `x`; points are in order. */
export function nearest(points: Point[], x: number): Point | undefined {
  let [low, high] = [0, points.length - 1];
  if (high < 0) return undefined;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((points[middle] as Point)[0] < x) low = middle;
    else high = middle;
  }
  const [a, b] = [points[low] as Point, points[high] as Point];
  return Math.abs(a[0] - x) <= Math.abs(b[0] - x) ? a : b;
}

/** Adds new lines to a record, in place of those from their first step on. */
export function extend(known: MetricsLine[], news: MetricsLine[]): MetricsLine[] {
  const first = news[0];
  return first ? [...known.filter((line) => line.step < first.step), ...news] : known;
}
