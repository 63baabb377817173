// Names and units of the planner's fields, for those that this page knows and those it does not:
// a field of a newer server is shown under its own name.

import { exponent, short } from '../chart/scale';

const GIB = 2 ** 30;

/** `weights_bytes` as "weights". */
export function nameOf(key: string): string {
  return key.replace(/_(bytes|gib|secs|seconds|flops)$/, '').replace(/_/g, ' ');
}

/** A value with the unit that its key names. */
export function valueOf(key: string, value: unknown): string {
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (typeof value === 'string') return value;
  if (Array.isArray(value)) return value.map((one) => valueOf(key, one)).join(' to ');
  if (typeof value !== 'number') return '–';
  if (/bytes$/.test(key)) return `${(value / GIB).toFixed(value < GIB ? 2 : 1)} GiB`;
  if (/gib$/.test(key)) return `${value.toFixed(value < 1 ? 2 : 1)} GiB`;
  if (/flops$/.test(key)) return exponent(value);
  if (/(secs|seconds)$/.test(key)) return `${short(value)} s`;
  if (/^(loss|mfu)/.test(key)) return value.toFixed(3);
  return Number.isInteger(value) && Math.abs(value) < 1e5 ? String(value) : short(value);
}

/** The plain entries of a value, one level of objects within it written as "outer: inner". */
export function entriesOf(value: unknown): [name: string, text: string][] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]): [string, string][] => {
    if (inner === null || inner === undefined) return [];
    if (typeof inner === 'object' && !Array.isArray(inner)) {
      return Object.entries(inner).map(([deep, last]) => [
        `${nameOf(key)}: ${nameOf(deep)}`,
        valueOf(deep, last),
      ]);
    }
    return [[nameOf(key), valueOf(key, inner)]];
  });
}
