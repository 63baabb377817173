// GET /v1/models: what the server can answer with. Adapters name the base they sit on as `parent`.

import { signal } from '@preact/signals';
import { explain, request, type Explanation } from './client';

export interface Model {
  id: string;
  /** The base, where this is an adapter. */
  parent?: string;
  /** Longest sequence in tokens, where the server tells. */
  context?: number;
}

export const models = signal<Model[]>([]);
export const modelsProblem = signal<Explanation | null>(null);

export async function loadModels(): Promise<void> {
  try {
    const response = await request('v1/models');
    models.value = parseModels(await response.json());
    modelsProblem.value = null;
  } catch (error) {
    modelsProblem.value = explain(error);
  }
}

export function parseModels(body: unknown): Model[] {
  const data = (body as { data?: Record<string, unknown>[] }).data ?? [];
  return data.map((raw) => {
    const model: Model = { id: String(raw['id']) };
    if (typeof raw['parent'] === 'string' && raw['parent'] !== raw['id']) model.parent = raw['parent'];
    const context = [raw['context_length'], raw['max_model_len'], raw['max_seq_len']].find(Number.isFinite);
    if (context !== undefined) model.context = context as number;
    return model;
  });
}
