// The parts that need no browser. Vite compiles them as it does for the page.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createServer } from 'vite';

let vite;
const load = (name) => vite.ssrLoadModule(`/src/${name}`);

before(async () => {
  globalThis.sessionStorage = { getItem: () => null };
  vite = await createServer({
    server: { middlewareMode: true, hmr: false, ws: false, watch: null },
    appType: 'custom',
    logLevel: 'error',
    optimizeDeps: { noDiscovery: true },
  });
});
after(() => vite.close());

const message = (id, parent, role, text = id, more = {}) => ({ id, parent, role, text, created: 1, ...more });

test('a branch keeps what it leaves and shows what was chosen', async () => {
  const { addMessage, children, choose, emptyConversation, shownPath } = await load('chat/tree.ts');
  let one = emptyConversation('m', { system: '', sampling: {} });
  for (const added of [
    message('q', '', 'user'),
    message('a', 'q', 'assistant'),
    message('b', 'q', 'assistant'),
  ])
    one = addMessage(one, added);
  const ids = () => shownPath(one).map(({ id }) => id);
  assert.deepEqual(ids(), ['q', 'b']);
  assert.deepEqual(
    children(one, 'q').map(({ id }) => id),
    ['a', 'b'],
  );
  one = addMessage(one, message('q2', 'a', 'user'));
  assert.deepEqual(ids(), ['q', 'b']);
  one = choose(one, one.messages.a);
  assert.deepEqual(ids(), ['q', 'a', 'q2']);
});

test('the prompt has the branch alone, and no two questions in a row', async () => {
  const { addMessage, emptyConversation, promptFor } = await load('chat/tree.ts');
  let one = emptyConversation('m', { system: ' be brief ', sampling: {} });
  const list = [
    message('1', '', 'user'),
    message('2', '1', 'assistant', ''),
    message('3', '2', 'user'),
    message('4', '3', 'assistant'),
    message('x', '1', 'assistant'),
    message('5', '4', 'user'),
  ];
  for (const added of list) one = addMessage(one, added);
  assert.deepEqual(promptFor(one, '5'), [
    { role: 'system', content: 'be brief' },
    { role: 'user', content: '1\n\n3' },
    { role: 'assistant', content: '4' },
    { role: 'user', content: '5' },
  ]);
});

test('what is exported comes back, and damaged files are named', async () => {
  const { addMessage, emptyConversation } = await load('chat/tree.ts');
  const { fromJson, toJson } = await load('chat/exchange.ts');
  let one = emptyConversation('m', { system: 's', sampling: { top_k: 3 } });
  one = addMessage(one, message('q', '', 'user', 'why?'));
  one = addMessage(one, message('a', 'q', 'assistant', 'so', { finish: 'stop' }));
  const [back] = fromJson(toJson([one]));
  assert.notEqual(back.id, one.id);
  assert.deepEqual({ ...back, id: one.id }, { ...one, created: back.created });
  assert.throws(() => fromJson('{'), /not JSON/);
  assert.throws(() => fromJson('{"messages": []}'), /no export of this page/);
  const broken = (messages) =>
    JSON.stringify({ format: 'puna.conversations', conversations: [{ messages }] });
  assert.throws(() => fromJson(broken({ a: message('a', 'gone', 'user') })), /hangs below no other/);
  assert.throws(
    () => fromJson(broken({ a: message('a', 'b', 'user'), b: message('b', 'a', 'assistant') })),
    /circle/,
  );
  assert.throws(() => fromJson(broken({ a: { id: 'a', parent: '', role: 'tool', text: '' } })), /incomplete/);
});

test('two rated answers of one question give a preference pair', async () => {
  const { addMessage, emptyConversation } = await load('chat/tree.ts');
  const { feedbackLines } = await load('chat/exchange.ts');
  let one = emptyConversation('m', { system: '', sampling: {} });
  one = addMessage(one, message('q', '', 'user'));
  one = addMessage(one, message('good', 'q', 'assistant', 'good', { rating: 'up', model: 'm' }));
  one = addMessage(one, message('bad', 'q', 'assistant', 'bad', { rating: 'down', model: 'm' }));
  const messages = [{ role: 'user', content: 'q' }];
  assert.deepEqual(feedbackLines([one]), [
    { model: 'm', messages, answer: 'good', rating: 'up' },
    { model: 'm', messages, answer: 'bad', rating: 'down' },
    { messages, chosen: 'good', rejected: 'bad' },
  ]);
});

test('server-sent events are read however the bytes are cut', async () => {
  const { eventData } = await load('api/lines.ts');
  const bytes = new TextEncoder().encode(
    ': note\r\n\r\ndata: é1\r\n\r\ndata: 2\ndata: 3\n\nevent: x\ndata:4',
  );
  for (const size of [1, 2, 3, 7, 100]) {
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
        controller.close();
      },
    });
    const read = [];
    for await (const data of eventData(body)) read.push(data);
    assert.deepEqual(read, ['é1', '2\n3', '4'], `pieces of ${size}`);
  }
});

test('errors say what to do', async () => {
  const { ApiError, errorFrom, explain, retryAfter } = await load('api/client.ts');
  assert.equal(explain(new ApiError(0, 'x')).remedy, 'retry');
  assert.equal(explain(new ApiError(401, 'x')).remedy, 'key');
  assert.equal(explain(new ApiError(403, 'this host is not served')).detail, 'This host is not served.');
  assert.deepEqual(
    [explain(new ApiError(429, 'x', '', 7)).remedy, explain(new ApiError(429, 'x', '', 7)).wait],
    ['wait', 7],
  );
  const long = errorFrom({ error: { message: 'too many', code: 'context_length_exceeded' } }, 400);
  assert.equal(explain(long).remedy, 'new-chat');
  assert.equal(errorFrom(undefined, 502, '<html>bad gateway</html>').message, 'status 502');
  assert.equal(retryAfter('3'), 3);
  assert.equal(retryAfter('Thu, 01 Jan 1970 00:00:10 GMT', 4000), 6);
  assert.equal(retryAfter('soon'), undefined);
});

test('chunks with probabilities, usage and errors are read', async () => {
  const { parseDelta } = await load('api/completions.ts');
  const token = {
    token: ' a',
    logprob: -0.5,
    bytes: null,
    top_logprobs: [
      { token: ' a', logprob: -0.5 },
      { token: ' b', logprob: -1 },
    ],
  };
  assert.deepEqual(parseDelta({ choices: [{ delta: { content: ' a' }, logprobs: { content: [token] } }] }), {
    text: ' a',
    reasoning: '',
    tokens: [
      {
        text: ' a',
        logprob: -0.5,
        top: [
          [' a', -0.5],
          [' b', -1],
        ],
      },
    ],
  });
  assert.deepEqual(parseDelta({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 2 } }).usage, {
    prompt_tokens: 3,
    completion_tokens: 2,
  });
  assert.throws(() => parseDelta({ error: { message: 'no memory' } }), /no memory/);
});

test('dollars are formulas only where they enclose one', async () => {
  const { formulaAt } = await load('markdown/mathsyntax.ts');
  const text = (source) => formulaAt(source, 0)?.text;
  assert.equal(text('$x+1$ is'), 'x+1');
  assert.equal(text('$5 to $10'), undefined);
  assert.equal(text('$ x$'), undefined);
  assert.equal(text('$$x$$'), 'x');
  assert.equal(text('\\(x\\)'), 'x');
  assert.equal(text('\\[x\\] y'), 'x');
  assert.equal(text('\\[x'), undefined);
  assert.equal(text('$a\\$b$'), 'a\\$b');
});

test('only web and mail addresses become links', async () => {
  const { safeAddress } = await load('markdown/markdown.tsx');
  assert.equal(safeAddress('https://a.example/b'), 'https://a.example/b');
  for (const bad of [
    'javascript:alert(1)',
    ' javascript:alert(1)',
    'java\nscript:alert(1)',
    'data:text/html,x',
    'vbscript:x',
    'file:///etc',
    '/relative',
  ]) {
    assert.equal(safeAddress(bad), undefined, bad);
  }
});

test('axes are marked at round values', async () => {
  const { scale, scaleOver, short, ticks } = await load('chart/scale.ts');
  const labels = (of, wanted) => ticks(of, wanted).map(({ label }) => label);
  assert.deepEqual(labels(scale('linear', 0, 1000, 0, 100), 5), ['0', '200', '400', '600', '800', '1 k']);
  assert.deepEqual(labels(scale('log', 1e18, 1e21, 0, 100), 5), ['1e18', '1e19', '1e20', '1e21']);
  assert.deepEqual(labels(scale('log', 2, 5, 0, 100), 5), ['2', '3', '4', '5']);
  assert.equal(scale('log', 1, 100, 0, 10).at(10), 5);
  assert.equal(scale('log', 1, 100, 0, 10).back(5), 10);
  assert.deepEqual(
    [scaleOver('log', [0, 4, NaN, 9], 0, 1).from, scaleOver('linear', [7, 7], 0, 1).to],
    [4, 7.7],
  );
  assert.deepEqual(
    [5.76e23, 70e9, 12345, 0.25, 3e-4, 0, NaN].map((value) => short(value)),
    ['5.76e23', '70 B', '12.3 k', '0.25', '3e-4', '0', '–'],
  );
});

test('smoothing has no pull to the start, keeps gaps, and thinning keeps spikes', async () => {
  const { extend, nearest, pointsOf, smooth, thin } = await load('runs/series.ts');
  const close = (a, b) => assert.ok(Math.abs(a - b) < 1e-12, `${a} is not ${b}`);
  const [first, second, gap, last] = smooth(
    [
      [1, 4],
      [2, 2],
      [3, NaN],
      [4, 2],
    ],
    0.5,
  ).map(([, y]) => y);
  close(first, 4);
  close(second, (0.25 * 4 + 0.5 * 2) / 0.75);
  assert.ok(Number.isNaN(gap));
  close(last, (0.125 * 4 + 0.25 * 2 + 0.5 * 2) / 0.875);
  const many = Array.from({ length: 1000 }, (_, i) => [i, i === 617 ? 99 : 1]);
  assert.ok(thin(many, 10).length <= 20 && thin(many, 10).some(([x, y]) => x === 617 && y === 99));
  assert.deepEqual(
    nearest(
      [
        [1, 1],
        [5, 2],
        [9, 3],
      ],
      6.9,
    ),
    [5, 2],
  );
  const record = extend(
    [
      { step: 1, loss: 3 },
      { step: 2, loss: 2 },
    ],
    [
      { step: 2, loss: 2 },
      { step: 2, validation_loss: 4 },
    ],
  );
  assert.deepEqual(pointsOf(record, 'loss', 'step'), [
    [1, 3],
    [2, 2],
  ]);
  assert.deepEqual(pointsOf(record, 'validation_loss', 'step'), [[2, 4]]);
});

test('letters at line ends are pushed apart within the chart', async () => {
  const { pushApart } = await load('runs/labels.ts');
  assert.deepEqual(pushApart([50, 52, 10], 10, 0, 100), [50, 60, 10]);
  assert.deepEqual(pushApart([99, 98], 10, 0, 100), [100, 90]);
});

test('fields of the planner are named with their units', async () => {
  const { entriesOf, tablesOf } = await load('plan/facts.ts');
  assert.deepEqual(
    entriesOf({ weights_bytes: 3 * 2 ** 30, fits: true, inner: { heads: 4 }, gone: null, total_flops: 1e21 }),
    [
      ['weights', '3.0 GiB'],
      ['fits', 'yes'],
      ['inner: heads', '4'],
      ['total', '1e21'],
    ],
  );
  const list = [
    { what: 'weights', gib: 1.25, deep: {} },
    { what: 'cache', rule: '2 bytes' },
  ];
  assert.deepEqual(tablesOf({ total_gib: 2, items: list, empty: [] }), [
    [
      'on each GPU',
      {
        columns: ['what', 'GiB', 'rule'],
        rows: [
          ['weights', '1.3 GiB', ''],
          ['cache', '', '2 bytes'],
        ],
      },
    ],
  ]);
});

test('a screen reader hears whole sentences', async () => {
  const { sentencesAfter } = await load('chat/speech.ts');
  assert.equal(sentencesAfter('One. Two is not', 0, false), 'One.');
  assert.equal(sentencesAfter('One. Two is not', 4, false), '');
  assert.equal(sentencesAfter('One. Two is not', 4, true), ' Two is not');
});

test('speed counts the tokens after the first', async () => {
  const { tokensPerSec } = await load('chat/tree.ts');
  assert.equal(tokensPerSec(11, 1000, 2000), 10);
  assert.equal(tokensPerSec(1, 1000, 1000), 0);
  assert.equal(tokensPerSec(150, 1000, 1006), 0);
});
