// The frame around the three pages. Planner and training are chunks of their own.

import type { ComponentType, VNode } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { ChatPage } from './chat/page';
import { Header } from './shell/header';
import { hush, notice } from './shell/notice';
import { route } from './shell/route';
import { drawerOpen, newChat, Sidebar } from './shell/sidebar';

const NARROW = '(max-width: 48rem)';

export function App(): VNode {
  const narrow = useNarrow();
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (
        event.key.toLowerCase() !== 'k' ||
        !(event.ctrlKey || event.metaKey) ||
        event.altKey ||
        event.shiftKey
      )
        return;
      event.preventDefault();
      newChat();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
  const modal = narrow && drawerOpen.value;
  return (
    <div class="shell">
      <a class="skip" href="#main" onClick={skip}>
        Skip to the content
      </a>
      {(!narrow || modal) && <Sidebar modal={modal} />}
      <div class="page" inert={modal}>
        <CurrentPage />
      </div>
      <Foot />
    </div>
  );
}

/** The fragment is the route, so the link moves the focus by hand. */
function skip(event: Event): void {
  event.preventDefault();
  const target = document.querySelector<HTMLElement>('.composer textarea') ?? document.getElementById('main');
  target?.focus();
}

function CurrentPage(): VNode {
  switch (route.value.page) {
    case 'plan':
      return <Later key="plan" title="Plan a training run" load={loadPlan} />;
    case 'runs':
      return <Later key="runs" title="Training runs" load={loadRuns} />;
    default:
      return <ChatPage />;
  }
}

const loadPlan = (): Promise<ComponentType> => import('./plan/page').then((module) => module.PlanPage);
const loadRuns = (): Promise<ComponentType> => import('./runs/page').then((module) => module.RunsPage);

function Later({ title, load }: { title: string; load: () => Promise<ComponentType> }): VNode {
  const [Loaded, setLoaded] = useState<ComponentType>();
  const [failed, setFailed] = useState(false);
  useEffect(() => {
    load()
      .then((component) => setLoaded(() => component))
      .catch(() => setFailed(true));
  }, [load]);
  if (Loaded) return <Loaded />;
  return (
    <>
      <Header title={title} />
      <main id="main" class="sheet">
        {failed && (
          <p role="alert">A part of the page could not be loaded. Reload when the server runs again.</p>
        )}
      </main>
    </>
  );
}

function Foot(): VNode {
  const shown = notice.value;
  return (
    <div class="foot" role="status" aria-live="polite">
      {shown && (
        <div class="notice">
          <span>{shown.text}</span>
          {shown.action && (
            <button
              type="button"
              class="button"
              onClick={() => {
                shown.action?.act();
                hush();
              }}
            >
              {shown.action.label}
            </button>
          )}
        </div>
      )}
    </div>
  );
}

function useNarrow(): boolean {
  const [narrow, setNarrow] = useState(() => matchMedia(NARROW).matches);
  useEffect(() => {
    const query = matchMedia(NARROW);
    const follow = (): void => setNarrow(query.matches);
    query.addEventListener('change', follow);
    return () => query.removeEventListener('change', follow);
  }, []);
  return narrow;
}
