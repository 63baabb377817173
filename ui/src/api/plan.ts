// GET /v1/plan: the JSON of `puna plan --json`. Every field may be missing; what is there is shown.

import { request } from './client';

export type Interval = [low: number, high: number];

export interface Plan {
  law?: string;
  flops?: number;
  params?: number;
  tokens?: number;
  tokens_per_param?: number;
  /** Nats per token. */
  loss?: number;
  interval?: { params?: Interval; tokens?: Interval; tokens_per_param?: Interval; loss?: Interval };
  memory?: unknown;
  gpu_hours?: number;
  days?: number;
  days_with_stops?: number;
  kwh?: number;
  dollars?: number;
  laws?: unknown[];
  shape?: unknown;
  serving?: unknown;
  repeated?: unknown;
  warnings?: unknown;
  [other: string]: unknown;
}

/** What the form asks; texts as the reader wrote them, since the server reads `70b` and `5.76e23`. */
export interface PlanQuery {
  flops?: string;
  params?: string;
  tokens?: string;
  gpu?: string;
  gpus?: string;
  seq?: string;
}

export async function fetchPlan(query: PlanQuery, signal: AbortSignal): Promise<Plan> {
  const asked = Object.entries(query).filter(([, value]) => value) as [string, string][];
  const response = await request(`v1/plan?${new URLSearchParams(asked)}`, { signal });
  return (await response.json()) as Plan;
}

/** Decades of compute on either side of the plan, and points in a decade. */
const DECADES = 3;
const PER_DECADE = 1;

/** Plans for compute around the one given: the frontier that the figure draws. */
export async function fetchFrontier(flops: number, signal: AbortSignal): Promise<Plan[]> {
  const middle = Math.round(Math.log10(flops));
  const powers = Array.from(
    { length: 2 * DECADES * PER_DECADE + 1 },
    (_, i) => middle - DECADES + i / PER_DECADE,
  );
  const asked = powers.map((power) => fetchPlan({ flops: `1e${power}` }, signal));
  const settled = await Promise.allSettled(asked);
  const plans = settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  return plans.filter((plan) => isNumber(plan.flops) && isNumber(plan.params));
}

export function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}
