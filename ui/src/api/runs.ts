// GET /v1/runs and the lines of a run's metrics.jsonl (puna-train writes them).

import { request } from './client';
import { lines } from './lines';

export interface Run {
  name: string;
  path?: string;
  steps?: number;
  state?: string;
}

/** A line of the record: of a step, or of a validation. Numbers that JSON lacks are null. */
export interface MetricsLine {
  step: number;
  tokens?: number;
  loss?: number | null;
  validation_loss?: number | null;
  lr?: number;
  grad_norm?: number | null;
  tokens_per_second?: number;
  seconds?: number;
}

export async function fetchRuns(signal: AbortSignal): Promise<Run[]> {
  const body: unknown = await (await request('v1/runs', { signal })).json();
  const list = Array.isArray(body)
    ? body
    : ((body as { data?: unknown; runs?: unknown }).runs ?? (body as { data?: unknown }).data);
  return (Array.isArray(list) ? list : []) as Run[];
}

/** Lines of later steps than `after`. A torn last line is left out: it comes whole next time. */
export async function fetchMetrics(name: string, after: number, signal: AbortSignal): Promise<MetricsLine[]> {
  const address = `v1/runs/${encodeURIComponent(name)}/metrics${after > 0 ? `?after=${after}` : ''}`;
  const response = await request(address, { signal });
  const out: MetricsLine[] = [];
  if (!response.body) return out;
  for await (const line of lines(response.body)) {
    const parsed = parseLine(line);
    if (parsed) out.push(parsed);
  }
  return out;
}

export function parseLine(line: string): MetricsLine | undefined {
  try {
    const value = JSON.parse(line) as MetricsLine;
    return typeof value?.step === 'number' ? value : undefined;
  } catch {
    return undefined;
  }
}
