// The messages shown, kept at the end while an answer grows unless the reader has scrolled away.

import type { VNode } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { MessageView } from './message';
import { sentencesAfter } from './speech';
import { children, shownPath, type Conversation, type Message } from './tree';

/** Closer to the end than this, the view follows the answer. */
const NEAR_PX = 80;

export function Thread({
  conversation,
  busy,
  showTokens,
}: {
  conversation: Conversation;
  busy: boolean;
  showTokens: boolean;
}): VNode {
  const view = useRef<HTMLDivElement>(null);
  const follows = useRef(true);
  const [away, setAway] = useState(false);
  const path = shownPath(conversation);
  const last = path.at(-1);

  const toEnd = (): void => {
    const box = view.current;
    if (box) box.scrollTop = box.scrollHeight;
  };
  const onScroll = (): void => {
    const box = view.current;
    if (!box) return;
    follows.current = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_PX;
    setAway(!follows.current);
  };
  useLayoutEffect(() => {
    follows.current = true;
    toEnd();
  }, [conversation.id, busy]);
  useLayoutEffect(() => {
    if (follows.current) toEnd();
  }, [last?.text, last?.finish]);

  return (
    <div class="thread" ref={view} onScroll={onScroll} tabIndex={0} role="region" aria-label="Conversation">
      <div class="column">
        {path.map((message) => (
          <MessageView
            key={message.id}
            conversation={conversation}
            message={message}
            busy={busy}
            siblings={children(conversation, message.parent)}
            showTokens={showTokens}
          />
        ))}
      </div>
      {away && (
        <button type="button" class="button to-end" onClick={toEnd}>
          To the latest
        </button>
      )}
      <Spoken message={last} />
    </div>
  );
}

function Spoken({ message }: { message: Message | undefined }): VNode {
  const [text, setText] = useState('');
  const said = useRef({ id: '', length: 0 });
  useEffect(() => {
    if (!message || message.role !== 'assistant') return;
    const done = Boolean(message.finish);
    if (said.current.id !== message.id) {
      // An answer that was there before is not news.
      said.current = { id: message.id, length: done ? message.text.length : 0 };
    }
    const next = sentencesAfter(message.text, said.current.length, done);
    if (!next) return;
    said.current.length += next.length;
    setText(next);
  }, [message?.id, message?.text, message?.finish]);
  return (
    <div class="offscreen" aria-live="polite" aria-atomic="true">
      {text}
    </div>
  );
}
