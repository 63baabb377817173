// The planner: what a budget buys. The form is in the address, so a plan can be kept and sent.

import type { VNode } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { explain, type Explanation } from '../api/client';
import { fetchFrontier, fetchPlan, isNumber, type Plan, type PlanQuery } from '../api/plan';
import { exponent, short } from '../chart/scale';
import { Problem } from '../chat/problem';
import { Header } from '../shell/header';
import { route, setQuery } from '../shell/route';
import { entriesOf, tableOf, tablesOf, type Table } from './facts';
import { FrontierFigure } from './figure';
import '../style/sheet.css';

const ASK_DELAY_MS = 250;
const FIRST: PlanQuery = { flops: '1e21' };

interface Field {
  key: keyof PlanQuery;
  label: string;
  hint: string;
}

const FIELDS: Field[] = [
  { key: 'flops', label: 'Compute, FLOPs', hint: 'such as 5.76e23' },
  { key: 'params', label: 'Parameters', hint: 'such as 7b' },
  { key: 'tokens', label: 'Tokens', hint: 'such as 1.4t' },
  { key: 'gpu', label: 'GPU', hint: 'such as h100' },
  { key: 'gpus', label: 'GPUs', hint: 'such as 8' },
  { key: 'seq', label: 'Sequence, tokens', hint: 'such as 4096' },
];

function queryOf(search: URLSearchParams): PlanQuery {
  const found = FIELDS.flatMap(({ key }) => (search.get(key) ? [[key, search.get(key)]] : []));
  return found.length ? (Object.fromEntries(found) as PlanQuery) : FIRST;
}

export function PlanPage(): VNode {
  const [query, setAsked] = useState<PlanQuery>(() => queryOf(route.value.query));
  const [plan, setPlan] = useState<Plan>();
  const [problem, setProblem] = useState<Explanation>();
  const [again, setAgain] = useState(0);
  const frontier = useFrontier(plan?.flops);

  useEffect(() => {
    setQuery(new URLSearchParams(Object.entries(query) as [string, string][]));
    const controller = new AbortController();
    const timer = setTimeout(() => {
      fetchPlan(query, controller.signal)
        .then((value) => {
          setPlan(value);
          setProblem(undefined);
        })
        .catch((error: unknown) => !controller.signal.aborted && setProblem(explain(error, 'plan')));
    }, ASK_DELAY_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [query, again]);

  const change = (key: keyof PlanQuery, value: string): void => {
    const { [key]: _old, ...others } = query;
    setAsked(value.trim() ? { ...others, [key]: value.trim() } : others);
  };
  return (
    <>
      <Header title="Plan a training run" />
      <main id="main" class="sheet" tabIndex={-1}>
        <form class="plan-form" aria-label="What is given" onSubmit={(event) => event.preventDefault()}>
          {FIELDS.map(({ key, label, hint }) => (
            <label key={key} class="stack">
              <span>{label}</span>
              <input
                value={query[key] ?? ''}
                placeholder={hint}
                autoComplete="off"
                spellcheck={false}
                onInput={(event) => change(key, event.currentTarget.value)}
              />
            </label>
          ))}
        </form>
        <p class="hint">
          Give a budget (compute, or tokens, or parameters); the scaling law fills in the rest. A GPU adds
          time and memory.
        </p>
        {problem && <Problem problem={problem} onRetry={() => setAgain(again + 1)} />}
        {plan && !problem && <Answer plan={plan} frontier={frontier} />}
      </main>
    </>
  );
}

function useFrontier(flops: number | undefined): Plan[] {
  const [frontier, setFrontier] = useState<Plan[]>([]);
  const decade = isNumber(flops) && flops > 0 ? Math.round(Math.log10(flops)) : undefined;
  useEffect(() => {
    if (decade === undefined) return setFrontier([]);
    const controller = new AbortController();
    fetchFrontier(10 ** decade, controller.signal).then(setFrontier, () => undefined);
    return () => controller.abort();
  }, [decade]);
  return frontier;
}

function Answer({ plan, frontier }: { plan: Plan; frontier: Plan[] }): VNode {
  return (
    <div class="answer" aria-live="polite">
      <Warnings warnings={plan.warnings} />
      <dl class="figures">
        <Figure name="Parameters" value={plan.params} range={plan.interval?.params} />
        <Figure name="Tokens" value={plan.tokens} range={plan.interval?.tokens} />
        <Figure
          name="Tokens a parameter"
          value={plan.tokens_per_param}
          range={plan.interval?.tokens_per_param}
        />
        <Figure name="Loss, nats a token" value={plan.loss} range={plan.interval?.loss} />
        <Figure name="Compute, FLOPs" value={plan.flops} format={exponent} />
        <Figure name="GPU hours" value={plan.gpu_hours} />
        <Figure name="Days" value={plan.days} />
        <Figure name="Days with stops" value={plan.days_with_stops} />
        <Figure name="Energy, kWh" value={plan.kwh} />
        <Figure name="Cost, dollars" value={plan.dollars} />
      </dl>
      {frontier.length > 1 && (
        <section class="card">
          <h2>Best size for the compute</h2>
          <FrontierFigure frontier={frontier} plan={plan} />
          <p class="hint">
            <span class="key-line" /> {plan.law ? `Law: ${plan.law}.` : 'The law’s line.'}
            {frontier.some((one) => one.interval?.params) && (
              <>
                {' '}
                <span class="key-band" /> 80 % of refits lie in the band.
              </>
            )}
          </p>
        </section>
      )}
      <Facts title="Memory" value={plan.memory} />
      <div class="cards">
        <Facts title="Shape" value={plan.shape} />
        <Facts title="Training and serving together" value={plan.serving} />
        <Facts title="Repeated data" value={plan.repeated} />
      </div>
      <Laws laws={plan.laws} />
    </div>
  );
}

function Figure({
  name,
  value,
  range,
  format = short,
}: {
  name: string;
  value: unknown;
  range?: unknown;
  format?: (value: number) => string;
}): VNode | null {
  if (!isNumber(value)) return null;
  const [low, high] = Array.isArray(range) ? range : [];
  return (
    <div>
      <dt>{name}</dt>
      <dd>{format(value)}</dd>
      {isNumber(low) && isNumber(high) && (
        <dd class="range">
          80 %: {format(low)} to {format(high)}
        </dd>
      )}
    </div>
  );
}

function Facts({ title, value }: { title: string; value: unknown }): VNode | null {
  const entries = entriesOf(value);
  const tables = tablesOf(value);
  if (entries.length + tables.length === 0) return null;
  return (
    <section class="card">
      <h2>{title}</h2>
      {tables.map(([name, table]) => (
        <Rows key={name} caption={name} table={table} />
      ))}
      <dl class="facts">
        {entries.map(([name, text]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

function Rows({
  caption,
  label = caption,
  table,
}: {
  caption?: string;
  label?: string | undefined;
  table: Table;
}): VNode {
  return (
    <div class="wide" tabIndex={0} role="group" aria-label={`Table: ${label}`}>
      <table>
        {caption && <caption>{caption}</caption>}
        <thead>
          <tr>
            {table.columns.map((name) => (
              <th key={name} scope="col">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {table.rows.map((row, at) => (
            <tr key={at}>
              {row.map((text, column) => (
                <td key={column}>{text}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Every law's answer in a row. */
function Laws({ laws }: { laws: unknown }): VNode | null {
  const table = tableOf(laws);
  if (!table) return null;
  return (
    <section class="card">
      <h2>What each law says</h2>
      <Rows label="laws" table={table} />
    </section>
  );
}

function Warnings({ warnings }: { warnings: unknown }): VNode | null {
  const texts = Array.isArray(warnings) ? warnings.filter((one) => typeof one === 'string') : [];
  if (texts.length === 0) return null;
  return (
    <ul class="problem" aria-label="Warnings">
      {texts.map((text) => (
        <li key={text}>{text}</li>
      ))}
    </ul>
  );
}
