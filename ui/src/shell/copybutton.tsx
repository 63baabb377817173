// A button that copies a text and says that it did.

import type { VNode } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { Icon } from './icons';
import { say } from './notice';

const CONFIRMED_MS = 1500;

export function CopyButton({ text, label }: { text: string; label: string }): VNode {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), CONFIRMED_MS);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = async (): Promise<void> => {
    if (await writeClipboard(text)) setCopied(true);
    else say('The browser did not allow copying; select the text and copy it by hand.');
  };
  return (
    <button
      type="button"
      class="quiet"
      onClick={() => void copy()}
      aria-label={copied ? 'Copied' : label}
      title={label}
    >
      <Icon name={copied ? 'check' : 'copy'} />
    </button>
  );
}

/** Pages over plain HTTP from another machine have no `navigator.clipboard`: those select and copy. */
async function writeClipboard(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement('textarea');
    area.value = text;
    area.className = 'offscreen';
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}
