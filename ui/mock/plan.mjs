// The mock's planner: the parametric fit of Hoffmann et al. (2022), approach 3, in closed form. The
// intervals are invented widths, since only `puna plan` has the refits that give real ones.

const [E, A, B, ALPHA, BETA] = [1.69, 406.4, 410.7, 0.34, 0.28];
const PEAK_FLOPS = 989e12;
const UTILIZATION = 0.4;

function number(text) {
  const found = /^([0-9.]+(?:e[+-]?\d+)?)\s*([kmbt]?)$/i.exec(text.trim());
  return found ? Number(found[1]) * { '': 1, k: 1e3, m: 1e6, b: 1e9, t: 1e12 }[found[2].toLowerCase()] : NaN;
}

export function plan(query) {
  const given = {};
  for (const name of ['flops', 'params', 'tokens', 'gpus', 'seq']) {
    if (!query.has(name)) continue;
    given[name] = number(query.get(name));
    if (!(given[name] > 0))
      return { error: `${name}: “${query.get(name)}” is no positive number, such as 5.76e23 or 7b` };
  }
  const best = (flops) => {
    const g = ((ALPHA * A) / (BETA * B)) ** (1 / (ALPHA + BETA));
    return g * (flops / 6) ** (BETA / (ALPHA + BETA));
  };
  let { flops, params, tokens } = given;
  if (flops && params && tokens)
    return { error: 'compute, parameters and tokens together leave nothing to plan: leave one out' };
  if (flops) params ??= tokens ? flops / (6 * tokens) : best(flops);
  if (params && !flops) flops = 6 * params * (tokens ?? 20 * params);
  if (tokens && !params) params = tokens / 20;
  if (!params) return { error: 'give compute, parameters or tokens' };
  flops ??= 6 * params * tokens;
  tokens ??= flops / (6 * params);
  const spread = 1.25 + 0.04 * Math.abs(Math.log10(flops / 1e21));
  const loss = E + A / params ** ALPHA + B / tokens ** BETA;
  const gpus = given.gpus ?? 8;
  const hours = flops / (PEAK_FLOPS * UTILIZATION) / 3600;
  return {
    law: 'hoffmann-3',
    flops,
    params,
    tokens,
    tokens_per_param: tokens / params,
    loss,
    interval: {
      level: 0.8,
      params: [params / spread, params * spread],
      tokens_per_param: [tokens / params / spread ** 2, (tokens / params) * spread ** 2],
      loss: [loss - 0.02, loss + 0.03],
    },
    laws: [
      { law: 'hoffmann-3', who: 'Hoffmann et al. 2022', flops, params, tokens, loss },
      {
        law: 'besiroglu',
        who: 'Besiroglu et al. 2024',
        flops,
        params: params * 0.79,
        tokens: tokens / 0.79,
        loss: 2.31,
      },
    ],
    warnings: flops > 1e27 ? ['compute beyond every run that the law was fitted to'] : [],
    shape: {
      name: null,
      params,
      layers: 24,
      hidden_size: 2048,
      heads: 16,
      kv_heads: 4,
      head_dim: 128,
      ffn_size: 5632,
      vocab_size: 32000,
      tied_head: false,
    },
    memory: memory(params, query.get('gpu') ?? 'H100-SXM5-80GB', gpus, given.seq ?? 4096),
    gpu_hours: hours,
    days: hours / gpus / 24,
    days_with_stops: (hours / gpus / 24) * 1.1,
    kwh: hours * 0.9,
    dollars: null,
    mfu: UTILIZATION,
  };
}

function memory(params, gpu, gpus, seq) {
  const gib = (bytes) => bytes / 2 ** 30 / gpus;
  const items = [
    { what: 'weights', gib: gib(2 * params), rule: '2 bytes a parameter' },
    { what: 'gradients', gib: gib(4 * params), rule: '4 bytes a parameter' },
    { what: 'optimizer', gib: gib(12 * params), rule: 'float32 weights and two moments' },
    { what: 'activations', gib: (40 * seq * 2048 * 24) / 2 ** 30, rule: 'attention recomputed' },
  ];
  const total = items.reduce((sum, item) => sum + item.gib, 0);
  return {
    gpu,
    gpus,
    gpu_gib: 79.65,
    method: 'full',
    format: 'bf16',
    seq,
    missing: null,
    layout: { tp: 1, cp: 1, pp: 1, dp: gpus, zero: 3, micro_batch: 1, recompute: 'selective', bubble: 0 },
    items,
    total_gib: total,
    fits: total < 79,
    on_one_device: [
      { method: 'full', format: 'bf16', total_gib: total * gpus, items, smallest_card: null },
      { method: 'qlora', format: 'nf4', total_gib: (total * gpus) / 8, items, smallest_card: 'RTX-4090' },
    ],
  };
}
