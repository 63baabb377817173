// Training runs as they go: curves of loss, learning rate, speed and gradient, several runs overlaid.

import type { VNode } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import type { MetricsLine, Run } from '../api/runs';
import { short, type ScaleKind } from '../chart/scale';
import { Problem } from '../chat/problem';
import { Header } from '../shell/header';
import { RunChart, type Line } from './chart';
import { useRuns } from './follow';
import { pointsOf, smooth, type Axis, type Quantity } from './series';
import '../style/sheet.css';

/** Colors of the style sheet; further runs begin again, and keep their letters. */
const COLORS = 8;

/** Runs shown without being asked for. */
const SHOWN_AT_FIRST = 4;

interface View {
  axis: Axis;
  xKind: ScaleKind;
  yKind: ScaleKind;
  smoothing: number;
}

export function letterOf(at: number): string {
  const letter = String.fromCharCode(65 + (at % 26));
  return at < 26 ? letter : `${letter}${Math.floor(at / 26)}`;
}

export function RunsPage(): VNode {
  const [choice, setChoice] = useState<Record<string, boolean>>({});
  const [attempt, setAttempt] = useState(0);
  const [view, setView] = useState<View>({ axis: 'step', xKind: 'linear', yKind: 'linear', smoothing: 0.9 });
  const shown = (run: Run, at: number): boolean => choice[run.name] ?? at < SHOWN_AT_FIRST;
  const { runs, lines, problem, loaded } = useRuns(shown, attempt);
  return (
    <>
      <Header title="Training runs" />
      <main id="main" class="sheet" tabIndex={-1}>
        {problem && <Problem problem={problem} onRetry={() => setAttempt(attempt + 1)} />}
        {loaded && !problem && runs.length === 0 && (
          <p class="none">The server knows no runs. Start it with the folder that `puna train` writes to.</p>
        )}
        {runs.length > 0 && (
          <>
            <RunTable
              runs={runs}
              lines={lines}
              shown={shown}
              onToggle={(name, on) => setChoice({ ...choice, [name]: on })}
            />
            <Controls view={view} onChange={setView} />
            <Charts runs={runs} lines={lines} shown={shown} view={view} />
          </>
        )}
      </main>
    </>
  );
}

interface Shown {
  runs: Run[];
  lines: Record<string, MetricsLine[]>;
  shown: (run: Run, at: number) => boolean;
}

function Charts({ runs, lines, shown, view }: Shown & { view: View }): VNode {
  const visible = runs.flatMap((run, at) => (shown(run, at) ? [{ at, record: lines[run.name] ?? [] }] : []));
  const key = visible.map(({ at, record }) => `${at}:${record.length}`).join();
  const draw = useMemo(() => {
    const curve = (quantity: Quantity, smoothing: number): Line[] =>
      visible.map(({ at, record }) => ({
        letter: letterOf(at),
        color: at % COLORS,
        points: smooth(pointsOf(record, quantity, view.axis), smoothing),
        ...(smoothing > 0 ? { raw: pointsOf(record, quantity, view.axis) } : {}),
        ...(quantity === 'validation_loss' ? { marked: true } : {}),
      }));
    return {
      loss: [...curve('loss', view.smoothing), ...curve('validation_loss', 0)],
      lr: curve('lr', 0),
      speed: curve('tokens_per_second', view.smoothing),
      grad: curve('grad_norm', view.smoothing),
    };
  }, [key, view.axis, view.smoothing]);
  const common = { axis: view.axis, xKind: view.xKind };
  return (
    <div class="cards charts">
      <RunChart
        title="Loss and validation (dots), nats a token"
        lines={draw.loss}
        yKind={view.yKind}
        {...common}
      />
      <RunChart title="Learning rate" lines={draw.lr} yKind="linear" {...common} />
      <RunChart title="Tokens a second" lines={draw.speed} yKind="linear" {...common} />
      <RunChart title="Gradient norm" lines={draw.grad} yKind={view.yKind} {...common} />
    </div>
  );
}

function RunTable({
  runs,
  lines,
  shown,
  onToggle,
}: Shown & { onToggle: (name: string, on: boolean) => void }): VNode {
  const last = (name: string, quantity: Quantity): string => {
    const value = lines[name]?.findLast((line) => line[quantity] !== undefined)?.[quantity];
    return value === undefined ? '' : short(value ?? NaN, 4);
  };
  return (
    <div class="wide" tabIndex={0} role="group" aria-label="Runs">
      <table class="runs">
        <thead>
          <tr>
            <th scope="col">Run</th>
            <th scope="col">State</th>
            <th scope="col">Steps</th>
            <th scope="col">Loss</th>
            <th scope="col">Validation</th>
            <th scope="col">Tokens/s</th>
          </tr>
        </thead>
        <tbody>
          {runs.map((run, at) => (
            <tr key={run.name}>
              <th scope="row">
                <label class="check">
                  <input
                    type="checkbox"
                    checked={shown(run, at)}
                    onChange={(event) => onToggle(run.name, event.currentTarget.checked)}
                  />
                  <i class={`dot color-${at % COLORS}`} />
                  <span class="letter">{letterOf(at)}</span>
                  <span title={run.path}>{run.name}</span>
                </label>
              </th>
              <td>{run.state ?? ''}</td>
              <td>{run.steps ?? lines[run.name]?.at(-1)?.step ?? ''}</td>
              <td>{last(run.name, 'loss')}</td>
              <td>{last(run.name, 'validation_loss')}</td>
              <td>{last(run.name, 'tokens_per_second')}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Controls({ view, onChange }: { view: View; onChange: (view: View) => void }): VNode {
  return (
    <div class="controls" role="group" aria-label="How the curves are drawn">
      <label class="inline">
        <span>Against</span>
        <select
          value={view.axis}
          onChange={(event) => onChange({ ...view, axis: event.currentTarget.value as Axis })}
        >
          <option value="step">steps</option>
          <option value="tokens">tokens</option>
        </select>
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={view.xKind === 'log'}
          onChange={(event) => onChange({ ...view, xKind: event.currentTarget.checked ? 'log' : 'linear' })}
        />
        <span>Log across</span>
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={view.yKind === 'log'}
          onChange={(event) => onChange({ ...view, yKind: event.currentTarget.checked ? 'log' : 'linear' })}
        />
        <span>Log loss</span>
      </label>
      <label class="inline">
        <span>Smoothing {view.smoothing.toFixed(2)}</span>
        <input
          type="range"
          min="0"
          max="0.99"
          step="0.01"
          value={view.smoothing}
          onInput={(event) => onChange({ ...view, smoothing: Number(event.currentTarget.value) })}
        />
      </label>
    </div>
  );
}
