// Stands in for `puna serve` while the page is developed and tested: serves dist/ and speaks the
// parts of the API that the page uses. A word in the message chooses the answer:
//
//   /math /code /hostile /long /think   what the answer contains
//   /slow                               ten tokens a second, to stop it
//   /busy /context /broken /fail        429, a context too long, a stream cut off, 500
//
//   node mock/server.mjs [--port 8090] [--key KEY] [--no-feedback] [--no-plan]

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { dirname, extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { answerFor, tokensOf } from './answers.mjs';
import { plan } from './plan.mjs';
import { metrics, runs } from './runs.mjs';

const DIST = join(dirname(fileURLToPath(import.meta.url)), '..', 'dist');

/** The policy that README.md names. */
export const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "font-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
].join('; ');

const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
  '.woff2': 'font/woff2',
  '.md': 'text/markdown; charset=utf-8',
};

/** Starts a server; `options`: port, key, feedback (false refuses), plan (false refuses). */
export function start(options = {}) {
  const state = { feedback: [], requests: [], options };
  const server = createServer((request, response) => {
    route(request, response, state).catch((error) => {
      if (!response.headersSent) fail(response, 500, String(error));
      else response.destroy();
    });
  });
  return new Promise((resolve) => {
    server.listen(options.port ?? 0, '127.0.0.1', () => {
      const url = `http://127.0.0.1:${server.address().port}/`;
      resolve({
        url,
        state,
        close: () => {
          server.closeAllConnections();
          server.close();
        },
      });
    });
  });
}

async function route(request, response, state) {
  const url = new URL(request.url, 'http://mock');
  if (!url.pathname.startsWith('/v1/')) return file(url.pathname, response);
  if (state.options.key && request.headers.authorization !== `Bearer ${state.options.key}`) {
    return fail(response, 401, 'a key is needed', 'invalid_api_key');
  }
  const name = /^\/v1\/runs\/([^/]+)\/metrics$/.exec(url.pathname)?.[1];
  if (name)
    return text(response, metrics(decodeURIComponent(name), Number(url.searchParams.get('after') ?? 0)));
  switch (url.pathname) {
    case '/v1/models':
      return json(response, {
        object: 'list',
        data: [
          { id: 'puna-5m', object: 'model', context_length: 1024 },
          { id: 'poems', object: 'model', parent: 'puna-5m' },
          { id: 'llama-3.2-1b', object: 'model', context_length: 131072 },
        ],
      });
    case '/v1/runs':
      return json(response, runs());
    case '/v1/plan': {
      if (state.options.plan === false) return fail(response, 404, 'this server has no planner');
      const answer = plan(url.searchParams);
      return answer.error ? fail(response, 400, answer.error) : json(response, answer);
    }
    case '/v1/feedback':
      if (state.options.feedback === false) return fail(response, 404, 'no such endpoint');
      state.feedback.push(JSON.parse(await body(request)));
      return json(response, { ok: true });
    case '/v1/chat/completions': {
      const asked = JSON.parse(await body(request));
      state.requests.push(asked);
      return complete(asked, request, response);
    }
    default:
      return fail(response, 404, `no ${url.pathname}`);
  }
}

async function complete(asked, request, response) {
  // Questions whose answers never came arrive together; the last one counts.
  const last = asked.messages.at(-1).content.split('\n\n').at(-1);
  if (last.includes('/busy'))
    return fail(response, 429, 'all slots are taken', 'rate_limit_exceeded', { 'Retry-After': '2' });
  if (last.includes('/context')) {
    return fail(
      response,
      400,
      "this model's maximum context length is 1024 tokens, the prompt has 1400",
      'context_length_exceeded',
    );
  }
  if (last.includes('/fail')) return fail(response, 500, 'out of memory');
  const tokens = tokensOf(answerFor(last, asked));
  const limit = Math.min(tokens.length, asked.max_tokens ?? Infinity);
  const pause = last.includes('/slow') ? 100 : 4;
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' });
  let open = true;
  response.on('close', () => (open = false));
  const send = (value) =>
    response.write(
      `data: ${JSON.stringify({ id: 'mock', object: 'chat.completion.chunk', model: asked.model, ...value })}\n\n`,
    );
  send({ choices: [{ index: 0, delta: { role: 'assistant', content: '' } }] });
  for (let at = 0; at < limit && open; at += 1) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (last.includes('/broken') && at === 5) return response.destroy();
    const { content, ...choice } = tokens[at];
    const logprobs = asked.logprobs
      ? { content: [{ ...choice, top_logprobs: choice.top_logprobs.slice(0, asked.top_logprobs ?? 0) }] }
      : null;
    send({ choices: [{ index: 0, delta: { content }, logprobs }] });
  }
  if (!open) return undefined;
  send({ choices: [{ index: 0, delta: {}, finish_reason: limit < tokens.length ? 'length' : 'stop' }] });
  const prompt = asked.messages.reduce((sum, one) => sum + tokensOf(one.content).length + 4, 0);
  if (asked.stream_options?.include_usage)
    send({ choices: [], usage: { prompt_tokens: prompt, completion_tokens: limit } });
  return response.end('data: [DONE]\n\n');
}

async function file(path, response) {
  const name = normalize(path === '/' ? '/index.html' : path);
  try {
    const bytes = await readFile(join(DIST, name));
    response.writeHead(200, {
      'Content-Type': TYPES[extname(name)] ?? 'application/octet-stream',
      'Content-Security-Policy': POLICY,
      'X-Content-Type-Options': 'nosniff',
    });
    response.end(bytes);
  } catch {
    fail(response, 404, `no ${name}`);
  }
}

function body(request) {
  return new Promise((resolve, reject) => {
    let read = '';
    request.on('data', (piece) => (read += piece));
    request.on('end', () => resolve(read));
    request.on('error', reject);
  });
}

function json(response, value) {
  response.writeHead(200, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(value));
}

function text(response, value) {
  if (value === undefined) return fail(response, 404, 'no such run');
  response.writeHead(200, { 'Content-Type': 'application/jsonl' });
  return response.end(value);
}

function fail(response, status, message, code = null, headers = {}) {
  response.writeHead(status, { 'Content-Type': 'application/json', ...headers });
  response.end(JSON.stringify({ error: { message, type: 'invalid_request_error', code, param: null } }));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const value = (name) =>
    process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : undefined;
  const { url } = await start({
    port: Number(value('--port') ?? 8090),
    key: value('--key'),
    feedback: !process.argv.includes('--no-feedback'),
    plan: !process.argv.includes('--no-plan'),
  });
  console.log(url);
}
