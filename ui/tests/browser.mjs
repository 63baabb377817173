// Chromium, and pages that are watched: whatever a test does, the page must not break its policy,
// throw, or ask anything of another origin.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';
import { start } from '../mock/server.mjs';

const EXECUTABLE = process.env.CHROMIUM ?? '/usr/bin/chromium';
const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** Set where the tests run against a real server. */
export const baseUrl = process.env.BASE_URL;

/** For tests that need the mock's answers. */
export const needsMock = baseUrl ? { skip: 'skipped: needs the mock' } : {};

/** Starts the browser and the mock; `options` are the mock's. */
export async function launch(options = {}) {
  assert.ok(
    existsSync(EXECUTABLE),
    `no Chromium at ${EXECUTABLE}: apt-get install chromium, or set CHROMIUM`,
  );
  const browser = await chromium.launch({ executablePath: EXECUTABLE, args: ARGS });
  const server = baseUrl ? { url: baseUrl, close: () => undefined } : await start(options);
  const close = async () => {
    await browser.close();
    server.close();
  };
  return { browser, server, close };
}

/** Opens the page, hands it to `act`, and checks at the end what must hold for every page. */
export async function withPage({ browser, server }, options, act) {
  const { hash = '', ...context } = options;
  const opened = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...context });
  await opened.grantPermissions(['clipboard-read', 'clipboard-write']);
  const page = await opened.newPage();
  const foreign = [];
  const thrown = [];
  const origin = new URL(server.url).origin;
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (!['data:', 'blob:'].includes(url.protocol) && url.origin !== origin) foreign.push(request.url());
  });
  page.on('pageerror', (error) => thrown.push(error.message));
  await page.addInitScript(() => {
    globalThis.violations = [];
    addEventListener('securitypolicyviolation', (event) =>
      globalThis.violations.push(`${event.violatedDirective} ${event.sample}`),
    );
  });
  try {
    await page.goto(server.url + hash);
    await page.waitForSelector('h1');
    await act(page);
    assert.deepEqual(
      await page.evaluate(() => globalThis.violations),
      [],
      'violations of the content security policy',
    );
    assert.deepEqual(foreign, [], 'requests to other origins');
    assert.deepEqual(thrown, [], 'errors thrown in the page');
  } finally {
    await opened.close();
  }
}

export const field = (page) => page.getByRole('textbox', { name: 'Your message' });

/** Sends a message and waits until its answer has ended. */
export async function ask(page, text) {
  await modelsKnown(page);
  await field(page).fill(text);
  await field(page).press('Enter');
  await ended(page);
}

export async function modelsKnown(page) {
  await page.waitForFunction(() => document.querySelector('.picker')?.value);
}

export async function ended(page) {
  await page.getByRole('button', { name: 'Send', exact: true }).waitFor({ timeout: 60_000 });
}

export const answers = (page) => page.locator('.message.assistant');
export const questions = (page) => page.locator('.message.user .bubble');
export const button = (within, name) => within.getByRole('button', { name, exact: true });
