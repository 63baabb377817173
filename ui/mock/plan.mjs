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
  const answer = {
    law: 'hoffmann-3',
    flops,
    params,
    tokens,
    tokens_per_param: tokens / params,
    loss: E + A / params ** ALPHA + B / tokens ** BETA,
    interval: {
      params: [params / spread, params * spread],
      tokens_per_param: [tokens / params / spread ** 2, (tokens / params) * spread ** 2],
    },
    shape: {
      num_layers: 24,
      hidden_size: 2048,
      num_heads: 16,
      num_kv_heads: 4,
      intermediate_size: 5632,
      vocab_size: 32000,
    },
    laws: [
      { law: 'hoffmann-3', params, tokens, loss: E + A / params ** ALPHA + B / tokens ** BETA },
      { law: 'epoch-2024', params: params * 0.79, tokens: tokens / 0.79, loss: 2.31 },
    ],
  };
  if (!query.get('gpu')) return answer;
  const gpus = given.gpus ?? 1;
  const hours = flops / (PEAK_FLOPS * UTILIZATION) / 3600;
  return {
    ...answer,
    gpu_hours: hours,
    days: hours / gpus / 24,
    memory: {
      weights_bytes: 2 * params,
      gradients_bytes: 2 * params,
      optimizer_bytes: 8 * params,
      activations_bytes: 40 * (given.seq ?? 2048) * 2048 * 24,
      fits: params < 5e9,
    },
  };
}
