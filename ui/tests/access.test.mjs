// For everyone: axe finds nothing in either theme, everything works with keys alone and on a phone.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import {
  answers,
  ask,
  button,
  ended,
  launch,
  modelsKnown,
  needsMock,
  questions,
  withPage,
} from './browser.mjs';

let at;
let axe;
before(async () => {
  at = await launch();
  axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
});
after(() => at.close());

const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };

/** Every rule of axe-core, best practices included; color contrast among them. */
async function assertAccessible(page, what) {
  // Through the debugger, which the page's policy does not bind.
  await page.evaluate(axe);
  const found = await page.evaluate(async () => {
    const { violations, passes } = await globalThis.axe.run(document);
    return {
      passes: passes.length,
      violations: violations.map(
        (one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 120)).join(' | ')}`,
      ),
    };
  });
  assert.deepEqual(found.violations, [], what);
  assert.ok(found.passes > 15, `${what}: only ${found.passes} rules applied`);
}

for (const colorScheme of ['light', 'dark']) {
  for (const [size, context] of [
    ['wide', {}],
    ['phone', PHONE],
  ]) {
    test(`axe finds nothing on the chat page, ${colorScheme}, ${size}`, async () => {
      await withPage(at, { colorScheme, ...context }, async (page) => {
        await assertAccessible(page, 'empty');
        await ask(page, '/code');
        await ask(page, '/math');
        await page.waitForTimeout(700);
        await assertAccessible(page, 'answers');
        await button(answers(page).last(), 'Token probabilities').click();
        await page.locator('.token').first().focus();
        await assertAccessible(page, 'probabilities');
        await button(page, 'Settings').click();
        await assertAccessible(page, 'settings');
        await button(page, 'Close settings').click();
        await button(page, 'More').click();
        await assertAccessible(page, 'menu');
        await page.keyboard.press('Escape');
        if (size === 'phone') {
          await button(page, 'Open the menu').click();
          await assertAccessible(page, 'drawer');
        }
      });
    });

    test(`axe finds nothing on the planner and training pages, ${colorScheme}, ${size}`, async () => {
      await withPage(
        at,
        { colorScheme, hash: '#/plan?flops=1e21&gpu=h100&gpus=8', ...context },
        async (page) => {
          await page.locator('.figures, [role=alert]').first().waitFor();
          await page.waitForTimeout(600);
          await assertAccessible(page, 'plan');
        },
      );
      await withPage(at, { colorScheme, hash: '#/runs', ...context }, async (page) => {
        await page.locator('.curve path, .none, [role=alert]').first().waitFor();
        await assertAccessible(page, 'runs');
      });
    });

    test(`axe finds nothing in an error, ${colorScheme}, ${size}`, needsMock, async () => {
      await withPage(at, { colorScheme, ...context }, async (page) => {
        await ask(page, '/busy');
        await assertAccessible(page, 'busy');
      });
    });
  }
}

/** Presses Tab until the element has the focus, as a reader without a mouse would. */
async function tabTo(page, locator) {
  for (let presses = 0; presses < 60; presses += 1) {
    if (await locator.evaluate((one) => one === document.activeElement).catch(() => false)) return;
    await page.keyboard.press('Tab');
  }
  assert.fail(`60 presses of Tab do not reach ${locator}`);
}

async function assertFocusSeen(page) {
  const { width, style } = await page.evaluate(() => {
    const seen = getComputedStyle(document.activeElement);
    return { width: parseFloat(seen.outlineWidth), style: seen.outlineStyle };
  });
  assert.ok(width >= 2 && style !== 'none', `outline ${width} ${style}`);
}

test('everything is done with the keyboard alone', async () => {
  await withPage(at, {}, async (page) => {
    await modelsKnown(page);
    await page.waitForFunction(() => document.activeElement?.matches('.composer textarea'));
    await page.keyboard.type('Line one');
    await page.keyboard.press('Shift+Enter');
    await page.keyboard.type('line two');
    await page.keyboard.press('Enter');
    await ended(page);
    assert.equal(await questions(page).textContent(), 'Line one\nline two');

    await page.keyboard.press('ArrowUp');
    assert.equal(await page.locator('.composer textarea').inputValue(), 'Line one\nline two');
    await page.keyboard.press('ArrowDown');
    assert.equal(await page.locator('.composer textarea').inputValue(), '');

    await page.keyboard.press('Shift+Tab');
    await page.evaluate(() => document.querySelector('.skip').focus());
    await assertFocusSeen(page);
    await tabTo(page, page.getByRole('link', { name: 'Plan' }));
    await assertFocusSeen(page);
    await tabTo(page, button(page, 'Settings'));
    await assertFocusSeen(page);
    await page.keyboard.press('Enter');
    await page.getByLabel('System prompt').waitFor();
    await page.keyboard.press('Escape');
    await page.getByLabel('System prompt').waitFor({ state: 'detached' });
    await tabTo(page, button(page, 'More'));
    await page.keyboard.press('Enter');
    await page.keyboard.press('ArrowDown');
    assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Export JSON');
    await page.keyboard.press('Escape');
    assert.equal(await page.evaluate(() => document.activeElement.ariaLabel), 'More');
    await tabTo(page, button(page.locator('.message.user'), 'Edit question'));
    await page.keyboard.press('Enter');
    await page.keyboard.type(', changed');
    await page.keyboard.press('Enter');
    await ended(page);
    assert.equal(await questions(page).textContent(), 'Line one\nline two, changed');
    await page.keyboard.press('Control+k');
    await page.getByText('What would you like to ask?').waitFor();
    await page.waitForFunction(() => document.activeElement?.matches('.composer textarea'));
  });
});

test('on a phone nothing is wider than the screen, and the drawer holds the rest', async () => {
  await withPage(at, PHONE, async (page) => {
    const wider = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    await ask(page, '/code');
    await ask(page, '/math');
    assert.ok((await wider()) <= 0, 'chat');
    assert.equal(await page.locator('.side').count(), 0);
    await button(page, 'Open the menu').click();
    await page.locator('.side').waitFor();
    assert.ok(await page.locator('.page').evaluate((one) => one.inert));
    await page.keyboard.press('Escape');
    await page.locator('.side').waitFor({ state: 'detached' });
    await button(page, 'Open the menu').click();
    await page.getByRole('link', { name: 'Plan' }).click();
    await page.locator('.figures, [role=alert]').first().waitFor();
    assert.ok((await wider()) <= 0, 'plan');
    await button(page, 'Open the menu').click();
    await page.getByRole('link', { name: 'Training' }).click();
    await page.locator('.charts, .none, [role=alert]').first().waitFor();
    assert.ok((await wider()) <= 0, 'runs');
    const small = await page
      .locator('button:visible, a:visible, select:visible')
      .evaluateAll((all) =>
        all
          .filter(
            (one) => Math.min(one.getBoundingClientRect().width, one.getBoundingClientRect().height) < 24,
          )
          .map((one) => one.outerHTML.slice(0, 80)),
      );
    assert.deepEqual(small, [], 'targets below 24 px');
  });
});

test('the theme follows the system until it is chosen', async () => {
  await withPage(at, { colorScheme: 'dark' }, async (page) => {
    const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const dark = await ground();
    await button(page, 'Light').click();
    assert.notEqual(await ground(), dark);
    await page.reload();
    await page.waitForSelector('h1');
    assert.notEqual(await ground(), dark);
    await button(page, 'As the system').click();
    assert.equal(await ground(), dark);
  });
});

test('a screen reader is told the sentences of a streaming answer', needsMock, async () => {
  await withPage(at, {}, async (page) => {
    await page.evaluate(() => {
      globalThis.heard = [];
      new MutationObserver(() =>
        globalThis.heard.push(document.querySelector('.thread [aria-live=polite]')?.textContent),
      ).observe(document.getElementById('app'), { subtree: true, childList: true, characterData: true });
    });
    await ask(page, 'Hello');
    await page.waitForTimeout(200);
    const heard = await page.evaluate(() => [...new Set(globalThis.heard.filter(Boolean))]);
    assert.ok(heard.length >= 2, heard.join(' | '));
    assert.match(heard.join(''), /You said.*grassland.*bofedales/s);
  });
});
