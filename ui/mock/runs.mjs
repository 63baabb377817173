// Runs of the mock, in the lines that puna-train writes: two finished ones and one that goes on.

const BEGAN = Date.now();
const LIVE_STEPS_PER_SEC = 8;

const RUNS = [
  { name: 'small-adamw', path: 'runs/small-adamw', total: 2000, rate: 3e-3, floor: 2.35, speed: 9200 },
  { name: 'small-muon', path: 'runs/small-muon', total: 2000, rate: 2e-2, floor: 2.22, speed: 8700 },
  {
    name: 'base-live',
    path: 'runs/base-live',
    total: 4000,
    rate: 1e-3,
    floor: 2.05,
    speed: 3100,
    live: true,
  },
];

function stepsOf(run) {
  return run.live
    ? Math.min(run.total, 300 + Math.floor(((Date.now() - BEGAN) / 1000) * LIVE_STEPS_PER_SEC))
    : run.total;
}

export function runs() {
  return RUNS.map((run) => {
    const steps = stepsOf(run);
    return { name: run.name, path: run.path, steps, state: steps < run.total ? 'running' : 'finished' };
  });
}

export function metrics(name, after) {
  const run = RUNS.find((one) => one.name === name);
  if (!run) return undefined;
  const lines = [];
  for (let step = after + 1; step <= stepsOf(run); step += 1) {
    const mean = run.floor + 6 * (step + 8) ** -0.42;
    const wobble = Math.sin(step * 12.9898 + run.floor * 78.233) * 43758.5453;
    const noise = wobble - Math.floor(wobble) - 0.5;
    const warm = Math.min(1, step / 100);
    const lr = run.rate * warm * (0.55 + 0.45 * Math.cos((Math.PI * step) / run.total));
    const loss = name === 'small-adamw' && step === 700 ? null : mean + 0.22 * noise;
    lines.push(
      JSON.stringify({
        step,
        tokens: step * 8192,
        loss,
        lr,
        grad_norm: 0.4 + 2 / Math.sqrt(step) + 0.1 * Math.abs(noise),
        tokens_per_second: run.speed * (1 + 0.06 * noise),
        rss_bytes: 1 << 30,
        seconds: 8192 / run.speed,
      }),
    );
    if (step % 100 === 0)
      lines.push(JSON.stringify({ step, tokens: step * 8192, validation_loss: mean + 0.04, seconds: 1.5 }));
  }
  return lines.map((line) => `${line}\n`).join('');
}
