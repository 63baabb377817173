// What went wrong, and the button that mends it.

import type { VNode } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import type { Explanation } from '../api/client';
import { KeyForm } from '../shell/keyform';

interface Props {
  problem: Explanation;
  onRetry: () => void;
  onNewChat?: () => void;
}

export function Problem({ problem, onRetry, onNewChat }: Props): VNode {
  const [left, setLeft] = useState(Math.ceil(problem.wait ?? 0));
  useEffect(() => {
    if (left <= 0) return;
    const timer = setTimeout(() => setLeft(left - 1), 1000);
    return () => clearTimeout(timer);
  }, [left]);
  return (
    <div class="problem" role="alert">
      <strong>{problem.title}</strong>
      <p>{problem.detail}</p>
      {problem.remedy === 'key' && <KeyForm onSaved={onRetry} />}
      <div class="row">
        <button type="button" class="button" disabled={left > 0} onClick={onRetry}>
          {left > 0 ? `Try again in ${left} s` : 'Try again'}
        </button>
        {problem.remedy === 'new-chat' && onNewChat && (
          <button type="button" class="button" onClick={onNewChat}>
            New chat
          </button>
        )}
      </div>
    </div>
  );
}
