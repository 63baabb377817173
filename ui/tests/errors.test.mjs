// What the page says when something goes wrong, and that it can be mended from there.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { answers, ask, baseUrl, button, ended, field, launch, withPage } from './browser.mjs';

const skip = baseUrl ? 'skipped: needs the mock' : false;
let at;
before(async () => {
  if (!skip) at = await launch();
});
after(() => at?.close());

const problem = (page) => page.getByRole('alert');

test('a busy server is tried again when it said to', { skip }, async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, '/busy');
    assert.match(await problem(page).textContent(), /The server is busy.*Try again in [12] s/s);
    assert.ok(await problem(page).getByRole('button').isDisabled());
    await button(problem(page), 'Try again').waitFor({ timeout: 5000 });
    const before = at.server.state.requests.length;
    await button(problem(page), 'Try again').click();
    await ended(page);
    assert.equal(at.server.state.requests.length, before + 1);
  });
});

test('a conversation that is too long says how to go on', { skip }, async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, '/context');
    assert.match(
      await problem(page).textContent(),
      /too long for this model.*1024 tokens.*start a new chat/s,
    );
    await button(problem(page), 'New chat').click();
    await page.getByText('What would you like to ask?').waitFor();
  });
});

test('a stream that breaks keeps what came', { skip }, async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, '/broken');
    assert.match(await problem(page).textContent(), /The answer broke off.*What came is kept/s);
    assert.match(await answers(page).locator('.markdown').textContent(), /^You said/);
  });
});

test('an error of the server is shown with its own words', { skip }, async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, '/fail');
    assert.match(await problem(page).textContent(), /The server failed.*Out of memory\./s);
  });
});

test('a key is asked for, used, and gone with the tab', { skip }, async () => {
  const locked = await launch({ key: 'secret', feedback: false });
  try {
    await withPage(locked, {}, async (page) => {
      assert.match(await problem(page).textContent(), /wants a key/);
      await page.getByLabel('Key of this server').fill('secret');
      await button(page, 'Use it until this tab closes').click();
      await ask(page, 'Hello');
      assert.match(await answers(page).locator('.markdown').textContent(), /^You said/);
      assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes('secret')), false);
      assert.equal(await page.evaluate(() => sessionStorage.getItem('puna.key')), 'secret');

      await button(answers(page), 'Poor answer').click();
      await page.getByText('kept in this browser').waitFor();
      const download = page.waitForEvent('download');
      await button(page, 'More').click();
      await page.getByRole('menuitem', { name: 'Export ratings' }).click();
      assert.equal((await download).suggestedFilename(), 'ratings.jsonl');
    });
  } finally {
    await locked.close();
  }
});

test('a server that is gone is named, and the page goes on when it is back', { skip }, async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, 'Hello');
    await page.route('**/v1/**', (route) => route.abort());
    await field(page).fill('Are you there?');
    await field(page).press('Enter');
    await ended(page);
    assert.match(await problem(page).textContent(), /did not answer.*puna serve/s);
    await page.unroute('**/v1/**');
    await button(problem(page), 'Try again').click();
    await ended(page);
    assert.match(await answers(page).last().locator('.markdown').textContent(), /Are you there/);
  });
});
