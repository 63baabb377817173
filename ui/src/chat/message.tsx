// One message: a question, or an answer with what can be done to it.

import { memo } from 'preact/compat';
import type { VNode } from 'preact';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { Markdown } from '../markdown/markdown';
import { alternativesWanted } from '../shell/preferences';
import { CopyButton } from '../shell/copybutton';
import { Icon, type IconName } from '../shell/icons';
import { rate } from './feedback';
import { answer, send } from './generate';
import { Problem } from './problem';
import { byId, currentId, put } from './store';
import { Tokens } from './tokens';
import { addMessage, choose, newId, type Conversation, type Message, type Stats } from './tree';

interface Props {
  conversation: Conversation;
  message: Message;
  /** All answers to one question, or all versions of it; this message is among them. */
  siblings: Message[];
  busy: boolean;
  showTokens: boolean;
}

export const MessageView = memo(
  Draw,
  (a, b) =>
    a.message === b.message &&
    a.busy === b.busy &&
    a.showTokens === b.showTokens &&
    a.siblings.length === b.siblings.length &&
    a.conversation.id === b.conversation.id,
);

function Draw({ conversation, message, siblings, busy, showTokens }: Props): VNode {
  const [editing, setEditing] = useState(false);
  const [ownTokens, setOwnTokens] = useState<boolean>();
  const mine = message.role === 'user';
  const running = !mine && !message.finish;
  const empty = message.text === '' && !message.reasoning;
  const tokens = (ownTokens ?? showTokens) && message.tokens;
  // The memoized view may hold an older conversation: messages elsewhere in it do not redraw this.
  const now = (): Conversation => byId(conversation.id) ?? conversation;

  const saveEdit = (text: string): void => {
    setEditing(false);
    if (text.trim() === '' || text === message.text) return;
    if (mine) send(now(), message.parent, text, alternativesWanted());
    else put(addMessage(now(), { ...edited(message), id: newId(), text, created: Date.now() }));
  };
  const again = (): void => answer(conversation.id, mine ? message.id : message.parent, alternativesWanted());

  return (
    <article class={`message ${message.role}`} aria-busy={running}>
      <h2 class="offscreen">{mine ? 'You' : message.model || 'Answer'}</h2>
      {editing ? (
        <Editor
          text={message.text}
          label={mine ? 'Ask this instead' : 'Keep this version'}
          onSave={saveEdit}
          onCancel={() => setEditing(false)}
        />
      ) : mine ? (
        <div class="bubble">{message.text}</div>
      ) : (
        <Answer message={message} tokens={tokens || undefined} />
      )}
      {message.error && (
        <Problem problem={message.error} onRetry={again} onNewChat={() => (currentId.value = '')} />
      )}
      {running && (
        <footer class="tools">
          <span class="pulse" aria-hidden="true" />
          <Numbers stats={message.stats} finish={undefined} />
        </footer>
      )}
      {!editing && !running && (
        <footer class="tools">
          <Versions conversation={now} message={message} siblings={siblings} />
          {!empty && <CopyButton text={message.text} label={mine ? 'Copy question' : 'Copy answer'} />}
          {!empty && (
            <Tool
              icon="pencil"
              label={mine ? 'Edit question' : 'Edit answer'}
              disabled={busy}
              onClick={() => setEditing(true)}
            />
          )}
          {!mine && !message.error && (
            <Tool icon="redo" label="Answer again" disabled={busy} onClick={again} />
          )}
          {!mine && !empty && <Ratings conversation={now} message={message} />}
          {message.tokens && (
            <Tool
              icon="chance"
              label="Token probabilities"
              pressed={Boolean(tokens)}
              onClick={() => setOwnTokens(!tokens)}
            />
          )}
          {!mine && <Numbers stats={message.stats} finish={message.error ? undefined : message.finish} />}
        </footer>
      )}
    </article>
  );
}

/** An edited answer is the reader's: no model's statistics, probabilities or ratings. */
function edited(message: Message): Message {
  const {
    stats: _stats,
    tokens: _tokens,
    rating: _rating,
    error: _error,
    reasoning: _reasoning,
    ...rest
  } = message;
  return { ...rest, finish: 'edited' };
}

/** Splits off a thinking block that begins the text, as some models write it there. */
export function splitThinking(text: string): { thinking: string; rest: string } {
  const found = /^\s*<think>([\s\S]*?)(?:<\/think>|$)/.exec(text);
  if (!found) return { thinking: '', rest: text };
  return { thinking: (found[1] ?? '').trim(), rest: text.slice(found[0].length).trimStart() };
}

function Answer({ message, tokens }: { message: Message; tokens: Message['tokens'] }): VNode {
  if (tokens) return <Tokens tokens={tokens} />;
  const { thinking, rest } = splitThinking(message.text);
  const thoughts = message.reasoning || thinking;
  return (
    <>
      {thoughts && (
        <details class="thinking">
          <summary>Thinking</summary>
          <div>{thoughts}</div>
        </details>
      )}
      <Markdown text={rest} />
    </>
  );
}

function Tool(props: {
  icon: IconName;
  label: string;
  onClick: () => void;
  disabled?: boolean;
  pressed?: boolean;
}): VNode {
  const { icon, label, onClick, disabled, pressed } = props;
  return (
    <button
      type="button"
      class="quiet"
      aria-label={label}
      title={label}
      onClick={onClick}
      disabled={disabled}
      aria-pressed={pressed}
    >
      <Icon name={icon} />
    </button>
  );
}

function Versions({
  conversation,
  message,
  siblings,
}: {
  conversation: () => Conversation;
  message: Message;
  siblings: Message[];
}): VNode | null {
  const at = siblings.findIndex((one) => one.id === message.id);
  if (siblings.length < 2 || at < 0) return null;
  const show = (index: number): void => {
    const to = siblings[index];
    if (to) put(choose(conversation(), to));
  };
  return (
    <span class="versions" role="group" aria-label="Versions">
      <Tool icon="left" label="Previous version" disabled={at === 0} onClick={() => show(at - 1)} />
      <span>
        {at + 1}/{siblings.length}
      </span>
      <Tool
        icon="right"
        label="Next version"
        disabled={at === siblings.length - 1}
        onClick={() => show(at + 1)}
      />
    </span>
  );
}

function Ratings({ conversation, message }: { conversation: () => Conversation; message: Message }): VNode {
  return (
    <>
      <Tool
        icon="up"
        label="Good answer"
        pressed={message.rating === 'up'}
        onClick={() => void rate(conversation(), message, 'up')}
      />
      <Tool
        icon="down"
        label="Poor answer"
        pressed={message.rating === 'down'}
        onClick={() => void rate(conversation(), message, 'down')}
      />
    </>
  );
}

const ENDINGS: Record<string, string> = {
  length: 'cut at the limit of tokens',
  stopped: 'stopped',
  interrupted: 'interrupted',
  edited: 'edited by you',
};

function Numbers({ stats, finish }: { stats: Stats | undefined; finish: string | undefined }): VNode {
  const parts: string[] = [];
  if (stats) {
    parts.push(`${stats.answerTokens} tokens`);
    if (stats.tokensPerSec) parts.push(`${stats.tokensPerSec.toFixed(1)} tokens/s`);
    parts.push(`first after ${stats.firstSecs.toFixed(2)} s`);
    if (stats.promptTokens) parts.push(`prompt ${stats.promptTokens}`);
  }
  const ending = ENDINGS[finish ?? ''];
  if (ending) parts.push(ending);
  return <span class="numbers">{parts.join(' · ')}</span>;
}

function Editor(props: {
  text: string;
  label: string;
  onSave: (text: string) => void;
  onCancel: () => void;
}): VNode {
  const area = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(props.text.length, props.text.length);
  }, []);
  const save = (): void => props.onSave(area.current?.value ?? '');
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.isComposing) return;
    if (event.key === 'Escape') {
      event.stopPropagation();
      props.onCancel();
    }
    if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      save();
    }
  };
  return (
    <div class="editor">
      <textarea
        ref={area}
        aria-label="Edit the message"
        rows={Math.min(14, props.text.split('\n').length + 1)}
        onKeyDown={onKeyDown}
      >
        {props.text}
      </textarea>
      <div class="row end">
        <button type="button" class="button" onClick={props.onCancel}>
          Cancel
        </button>
        <button type="button" class="button primary" onClick={save}>
          {props.label}
        </button>
      </div>
    </div>
  );
}
