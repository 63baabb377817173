// An answer as its tokens: each with its probability as color, and on hover or focus the number and
// the likeliest alternatives. One stop for the Tab key; arrows move between tokens.

import type { VNode } from 'preact';
import { memo } from 'preact/compat';
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import type { TokenChoice } from '../api/completions';

/** Upper ends of the first four of five classes of probability. */
const LEVELS = [0.05, 0.2, 0.5, 0.8];

export function probability(logprob: number): number {
  return Math.min(1, Math.exp(logprob));
}

/** 0 (surprising) to 4 (near certain). */
export function level(logprob: number): number {
  const value = probability(logprob);
  const found = LEVELS.findIndex((end) => value < end);
  return found < 0 ? LEVELS.length : found;
}

export function percent(value: number): string {
  if (value >= 0.9995) return '100 %';
  if (value < 0.0001) return '< 0.01 %';
  return `${(100 * value).toFixed(value < 0.01 ? 2 : 1)} %`;
}

/** A token that is part of a character comes as `bytes:\xe2`; its bytes are what there is to show. */
function plain(text: string): string {
  return text.startsWith('bytes:\\x') ? text.slice('bytes:'.length) : text;
}

/** Spaces and line breaks made visible, for the list of alternatives. */
export function visible(text: string): string {
  return text === '' ? '(nothing)' : plain(text).replace(/\n/g, '↵').replace(/\t/g, '⇥').replace(/ /g, '␣');
}

export function Tokens({ tokens }: { tokens: TokenChoice[] }): VNode {
  const place = useRef<HTMLDivElement>(null);
  const [stop, setStop] = useState(0);
  const [shown, setShown] = useState(NONE);
  // The card of a token with the focus stays while the mouse passes over others.
  const stay = useRef(false);
  const groups = useMemo(() => groupsOf(tokens), [tokens]);
  const onEnter = useCallback((at: number) => {
    if (!stay.current) setShown(at);
  }, []);
  const onFocus = useCallback((at: number) => {
    setStop(at);
    setShown(at);
    stay.current = true;
  }, []);
  const onBlur = useCallback(() => {
    setShown(NONE);
    stay.current = false;
  }, []);

  const move = (event: KeyboardEvent): void => {
    if (event.key === 'Escape' && shown !== NONE) {
      event.stopPropagation();
      setShown(NONE);
    }
    const to = targetOf(event.key, stop, tokens.length);
    if (to === undefined) return;
    event.preventDefault();
    place.current?.querySelectorAll<HTMLElement>('.token')[to]?.focus();
  };
  const inside = (at: number, group: Group): number =>
    at >= group.from && at < group.from + group.tokens.length ? at : NONE;

  return (
    <div class="tokens-view">
      <Legend />
      <div
        ref={place}
        class="tokens"
        role="group"
        aria-label="Tokens with their probabilities; arrow keys move"
        onKeyDown={move}
        onMouseLeave={() => !stay.current && setShown(NONE)}
      >
        {groups.map((group) => (
          <TokenGroup
            key={group.from}
            group={group}
            stop={inside(stop, group)}
            shown={inside(shown, group)}
            onEnter={onEnter}
            onFocus={onFocus}
            onBlur={onBlur}
          />
        ))}
        {tokens[shown] && <Card token={tokens[shown]} at={shown} within={place.current} />}
      </div>
    </div>
  );
}

const NONE = -1;

/** Tokens drawn together: hovering draws one group again, not thousands of tokens. */
const GROUP = 64;

interface Group {
  from: number;
  tokens: TokenChoice[];
}

function groupsOf(tokens: TokenChoice[]): Group[] {
  const count = Math.ceil(tokens.length / GROUP);
  return Array.from({ length: count }, (_, at) => ({
    from: at * GROUP,
    tokens: tokens.slice(at * GROUP, (at + 1) * GROUP),
  }));
}

/** The token that a key moves to from the one at `at`. */
function targetOf(key: string, at: number, count: number): number | undefined {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[key];
  const to = key === 'Home' ? 0 : key === 'End' ? count - 1 : at + (step ?? NaN);
  return to >= 0 && to < count ? to : undefined;
}

interface GroupProps {
  group: Group;
  /** The token of this group that Tab reaches, and the one whose card is shown; −1 for none. */
  stop: number;
  shown: number;
  onEnter: (at: number) => void;
  onFocus: (at: number) => void;
  onBlur: () => void;
}

const TokenGroup = memo(function TokenGroup(props: GroupProps): VNode {
  const { group, stop, shown, onEnter, onFocus, onBlur } = props;
  return (
    <>
      {group.tokens.map((token, index) => {
        const at = group.from + index;
        return (
          <span
            key={at}
            class={`token level-${level(token.logprob)}`}
            role="button"
            tabIndex={at === stop ? 0 : -1}
            aria-label={`${visible(token.text)}, ${percent(probability(token.logprob))}`}
            aria-describedby={at === shown ? 'token-card' : undefined}
            onMouseEnter={() => onEnter(at)}
            onFocus={() => onFocus(at)}
            onBlur={onBlur}
          >
            {plain(token.text).replace(/\n/g, '↵\n')}
          </span>
        );
      })}
    </>
  );
});

function Legend(): VNode {
  return (
    <p class="legend" aria-hidden="true">
      {['below 5 %', '5–20 %', '20–50 %', '50–80 %', 'above 80 %'].map((text, at) => (
        <span key={text}>
          <i class={`swatch level-${at}`} />
          {text}
        </span>
      ))}
    </p>
  );
}

/** The number and the alternatives, below the token and inside the view. */
function Card({ token, at, within }: { token: TokenChoice; at: number; within: HTMLElement | null }): VNode {
  const card = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const anchor = within?.querySelectorAll<HTMLElement>('.token')[at];
    if (!card.current || !anchor || !within) return;
    const box = within.getBoundingClientRect();
    // A token that breaks over two lines has two boxes; the first is where it begins.
    const first = anchor.getClientRects()[0] ?? anchor.getBoundingClientRect();
    const left = Math.min(first.left - box.left, box.width - card.current.offsetWidth);
    card.current.style.left = `${Math.max(0, left)}px`;
    card.current.style.top = `${first.bottom - box.top + 6}px`;
  }, [at, within]);
  const listed = token.top.some(([text]) => text === token.text);
  const rows = listed ? token.top : [[token.text, token.logprob] as [string, number], ...token.top];
  return (
    <div ref={card} class="token-card" id="token-card" role="tooltip">
      <p>
        <code>{visible(token.text)}</code> {percent(probability(token.logprob))}, log-probability{' '}
        {token.logprob.toFixed(2).replace('-', '−')}
      </p>
      <ol>
        {rows.map(([text, logprob]) => (
          <li key={text} class={text === token.text ? 'taken' : ''}>
            <code>{visible(text)}</code>
            <Bar share={probability(logprob)} />
            <span>{percent(probability(logprob))}</span>
          </li>
        ))}
      </ol>
    </div>
  );
}

function Bar({ share }: { share: number }): VNode {
  const bar = useRef<HTMLElement>(null);
  useEffect(() => {
    if (bar.current) bar.current.style.width = `${Math.max(1, 100 * share)}%`;
  }, [share]);
  return (
    <span class="bar">
      <i ref={bar} />
    </span>
  );
}
