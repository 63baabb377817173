// Where a question is written. Enter sends, Shift+Enter breaks the line, Esc stops the answer, the
// arrow up in an empty field brings back what was asked before.

import type { VNode } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { Icon } from '../shell/icons';

const MAX_ROWS = 10;

interface Props {
  /** What the field begins anew for: the conversation. */
  conversation: string;
  /** Earlier questions, oldest first. */
  history: string[];
  running: boolean;
  /** How full the model's context is, in words. */
  context: string;
  onSend: (text: string) => void;
  onStop: () => void;
}

export function Composer({ conversation, history, running, context, onSend, onStop }: Props): VNode {
  const field = useRef<HTMLTextAreaElement>(null);
  const [text, setText] = useState('');
  const [back, setBack] = useState(0);
  useEffect(() => {
    // A phone's keyboard would cover half of the conversation that was just opened.
    if (matchMedia('(pointer: fine)').matches) field.current?.focus();
  }, [conversation]);

  const submit = (): void => {
    if (running || text.trim() === '') return;
    onSend(text);
    setText('');
    setBack(0);
  };
  const recall = (to: number): void => {
    setBack(to);
    setText(to === 0 ? '' : (history[history.length - to] ?? ''));
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    // While an input method composes, Enter chooses a word.
    if (event.isComposing) return;
    const unchanged = back > 0 ? text === history[history.length - back] : text === '';
    if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      submit();
    } else if (event.key === 'ArrowUp' && unchanged && back < history.length) {
      event.preventDefault();
      recall(back + 1);
    } else if (event.key === 'ArrowDown' && unchanged && back > 0) {
      event.preventDefault();
      recall(back - 1);
    }
  };
  return (
    <div class="writing">
      <form
        class="composer"
        aria-label="Write"
        onSubmit={(event) => {
          event.preventDefault();
          submit();
        }}
      >
        <div class="field">
          <textarea
            ref={field}
            value={text}
            rows={Math.min(MAX_ROWS, text.split('\n').length)}
            aria-label="Your message"
            aria-describedby="composer-keys"
            placeholder="Write a message"
            onInput={(event) => setText(event.currentTarget.value)}
            onKeyDown={onKeyDown}
          />
          {running ? (
            <button
              type="button"
              class="round"
              aria-label="Stop the answer"
              title="Stop (Esc)"
              onClick={onStop}
            >
              <Icon name="stop" />
            </button>
          ) : (
            <button
              type="submit"
              class="round"
              aria-label="Send"
              title="Send (Enter)"
              disabled={text.trim() === ''}
            >
              <Icon name="send" />
            </button>
          )}
        </div>
        <p class="context">{context}</p>
        <p id="composer-keys" class="keys">
          <kbd>Enter</kbd> sends, <kbd>Shift</kbd> <kbd>Enter</kbd> breaks the line, <kbd>Esc</kbd> stops,{' '}
          <kbd>↑</kbd> recalls, <kbd>Ctrl</kbd> <kbd>K</kbd> begins a new chat
        </p>
      </form>
    </div>
  );
}
