// Lines out of a response's bytes: server-sent events and JSON lines.

/** Yields whole lines; the last one also without its line break. */
export async function* lines(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      // A carriage return at the end may be half of a line break.
      const pieces = rest.split(/\r\n|\n|\r(?!$)/);
      rest = pieces.pop() ?? '';
      yield* pieces;
      if (done) break;
    }
    if (rest) yield rest.replace(/\r$/, '');
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** Yields the data of server-sent events; comments and other fields are skipped. */
export async function* eventData(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let data: string[] = [];
  for await (const line of lines(body)) {
    if (line === '') {
      if (data.length) yield data.join('\n');
      data = [];
    } else if (line.startsWith('data:')) {
      data.push(line.slice(line[5] === ' ' ? 6 : 5));
    }
  }
  if (data.length) yield data.join('\n');
}
