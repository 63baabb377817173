// Names and units of the planner's fields, for those that this page knows and those it does not:
// a field of a newer server is shown under its own name.

import { exponent, short } from '../chart/scale';

const GIB = 2 ** 30;

const NAMES: Record<string, string> = {
  gib: 'GiB',
  gpu_gib: 'GPU memory',
  seq: 'sequence, tokens',
  items: 'on each GPU',
  on_one_device: 'on one device, by other methods',
  gpu: 'GPU',
  gpus: 'GPUs',
  kwh: 'kWh',
  mfu: 'MFU',
  kv_heads: 'KV heads',
  tp: 'tensor parallel',
  cp: 'context parallel',
  pp: 'pipeline parallel',
  dp: 'data parallel',
};

/** `weights_bytes` as "weights". */
export function nameOf(key: string): string {
  return NAMES[key] ?? key.replace(/_(bytes|gib|secs|seconds|flops)$/, '').replace(/_/g, ' ');
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

type Fields = Record<string, unknown>;

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A number, a text, a range: what one cell can show. */
function isPlain(value: unknown): boolean {
  if (value === null || value === undefined) return false;
  return Array.isArray(value) ? value.length > 0 && !value.some(isFields) : !isFields(value);
}

/** The plain entries of a value, one level of objects within it written as "outer: inner". */
export function entriesOf(value: unknown): [name: string, text: string][] {
  if (!isFields(value)) return [];
  return Object.entries(value).flatMap(([key, inner]): [string, string][] => {
    if (isPlain(inner)) return [[nameOf(key), valueOf(key, inner)]];
    if (!isFields(inner)) return [];
    const deep = Object.entries(inner).filter(([, last]) => isPlain(last));
    return deep.map(([name, last]) => [`${nameOf(key)}: ${nameOf(name)}`, valueOf(name, last)]);
  });
}

export interface Table {
  columns: string[];
  rows: string[][];
}

/** A list of objects under the columns that any of them has. */
export function tableOf(value: unknown): Table | undefined {
  const rows = Array.isArray(value) ? value.filter(isFields) : [];
  if (rows.length === 0) return undefined;
  const keys = [...new Set(rows.flatMap((row) => Object.keys(row).filter((key) => isPlain(row[key]))))];
  const cells = rows.map((row) => keys.map((key) => (isPlain(row[key]) ? valueOf(key, row[key]) : '')));
  return { columns: keys.map(nameOf), rows: cells };
}

/** The lists of objects among a value's fields. */
export function tablesOf(value: unknown): [name: string, table: Table][] {
  if (!isFields(value)) return [];
  return Object.entries(value).flatMap(([key, inner]): [string, Table][] => {
    const table = tableOf(inner);
    return table ? [[nameOf(key), table]] : [];
  });
}
