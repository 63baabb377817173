// Follows the server's runs: the list, and the new lines of those that are shown.

import { useEffect, useRef, useState } from 'preact/hooks';
import { explain, type Explanation } from '../api/client';
import { fetchMetrics, fetchRuns, type MetricsLine, type Run } from '../api/runs';
import { extend } from './series';

const EVERY_MS = 2000;

export interface Followed {
  runs: Run[];
  lines: Record<string, MetricsLine[]>;
  problem: Explanation | undefined;
  loaded: boolean;
}

/** Follows the runs for which `wanted` holds; a new `attempt` begins anew at once. */
export function useRuns(wanted: (run: Run, at: number) => boolean, attempt: number): Followed {
  const [state, setState] = useState<Followed>({ runs: [], lines: {}, problem: undefined, loaded: false });
  const known = useRef<Record<string, MetricsLine[]>>({});
  const filter = useRef(wanted);
  filter.current = wanted;
  useEffect(() => {
    const controller = new AbortController();
    let timer = 0;
    const round = async (): Promise<void> => {
      try {
        // A page that nobody sees asks for nothing.
        if (!document.hidden) {
          const runs = await fetchRuns(controller.signal);
          await Promise.all(
            runs.filter(filter.current).map((run) => update(known.current, run, controller.signal)),
          );
          setState({ runs, lines: { ...known.current }, problem: undefined, loaded: true });
        }
      } catch (error) {
        if (controller.signal.aborted) return;
        setState((before) => ({ ...before, problem: explain(error, 'runs'), loaded: true }));
      }
      timer = window.setTimeout(() => void round(), EVERY_MS);
    };
    void round();
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, [attempt]);
  return state;
}

async function update(known: Record<string, MetricsLine[]>, run: Run, signal: AbortSignal): Promise<void> {
  const before = known[run.name] ?? [];
  const last = before.at(-1)?.step ?? 0;
  // Fewer steps than are known: it was continued from an earlier checkpoint, or begun anew.
  const restarted = run.steps !== undefined && run.steps < last;
  // The last known step is asked for again: its validation is written after it.
  const news = await fetchMetrics(run.name, restarted ? 0 : Math.max(0, last - 1), signal);
  known[run.name] = restarted ? news : extend(before, news);
}
