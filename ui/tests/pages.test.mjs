// Planner and training pages.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, needsMock, withPage } from './browser.mjs';

let at;
before(async () => (at = await launch()));
after(() => at.close());

test('a plan is answered as the form changes, and the address keeps it', needsMock, async () => {
  await withPage(at, { hash: '#/plan' }, async (page) => {
    const figure = (name) => page.locator('.figures div', { hasText: name }).locator('dd').first();
    await figure('Parameters').waitFor();
    const before = await figure('Parameters').textContent();
    await page.getByLabel('Compute, FLOPs').fill('5.76e23');
    await page.waitForFunction((old) => document.querySelector('.figures dd').textContent !== old, before);
    const description = () => page.locator('.chart').getAttribute('aria-label');
    assert.match(await description(), /At 5\.76e23 FLOPs: [\d.]+ B parameters, 80 % interval/);
    await page.getByLabel('GPU', { exact: true }).fill('h100');
    await page.locator('.facts dd', { hasText: 'h100' }).waitFor();
    assert.match(
      await page.locator('.card', { hasText: 'Memory' }).first().textContent(),
      /optimizer[\d.]+ GiB/,
    );
    // Waited for: the browser tells of a new address after the page has written it.
    await page.waitForURL(/#\/plan\?flops=5\.76e23&gpu=h100$/, { timeout: 5000 });
    await page.reload();
    await figure('GPU hours').waitFor();
    assert.ok((await page.locator('.chart .band').getAttribute('d')).length > 50);
  });
});

test('a plan that cannot be made says why', needsMock, async () => {
  await withPage(at, { hash: '#/plan' }, async (page) => {
    await page.getByLabel('Compute, FLOPs').fill('much');
    await page.getByRole('alert').waitFor();
    assert.match(await page.getByRole('alert').textContent(), /“much” is no positive number/);
    await page.getByLabel('Compute, FLOPs').fill('1e20');
    await page.locator('.figures').waitFor();
    assert.equal(await page.getByRole('alert').count(), 0);
  });
});

test('a server without planner and runs says so', needsMock, async () => {
  await withPage(at, {}, async (page) => {
    const absent = { status: 404, json: { error: { message: 'not found' } } };
    await page.route(/v1\/(plan|runs)/, (route) => route.fulfill(absent));
    await page.goto(`${at.server.url}#/plan`);
    await page.getByText('This server plans no training runs').waitFor();
    await page.goto(`${at.server.url}#/runs`);
    await page.getByText('This server shows no training runs').waitFor();
  });
});

test('a plan with few fields is still a plan', needsMock, async () => {
  await withPage(at, {}, async (page) => {
    await page.route('**/v1/plan**', (route) =>
      route.fulfill({ json: { flops: 1e21, params: 2e9, new_field: 3 } }),
    );
    await page.goto(`${at.server.url}#/plan`);
    await page.locator('.figures').waitFor();
    assert.equal(await page.locator('.figures div').count(), 2);
  });
});

test('curves of several runs are drawn and grow', needsMock, async () => {
  await withPage(at, { hash: '#/runs' }, async (page) => {
    await page.locator('.curve path').first().waitFor();
    assert.deepEqual(await page.locator('.runs tbody .letter').allTextContents(), ['A', 'B', 'C']);
    assert.equal(await page.locator('.chart').count(), 4);
    const steps = page.locator('.runs tbody tr', { hasText: 'base-live' }).locator('td').nth(1);
    const before = Number(await steps.textContent());
    const curve = page.locator('.charts .card').first().locator('.curve.color-2 path').first();
    const drawn = await curve.getAttribute('d');
    await page.waitForFunction(
      (old) =>
        Number(document.querySelectorAll('.runs tbody tr')[2].querySelectorAll('td')[1].textContent) > old,
      before,
      { timeout: 6000 },
    );
    assert.notEqual(await curve.getAttribute('d'), drawn);

    await page.getByRole('checkbox', { name: /small-muon/ }).uncheck();
    assert.equal(await page.locator('.charts .card').first().locator('.curve.color-1').count(), 0);
    const linear = await curve.getAttribute('d');
    await page.getByRole('checkbox', { name: 'Log loss' }).check();
    assert.notEqual(await curve.getAttribute('d'), linear);
    await page.getByRole('slider').fill('0');
    assert.equal(await page.locator('.raw').count(), 0);
    await page.getByRole('combobox', { name: 'Against' }).selectOption('tokens');
    assert.match(await page.locator('.chart .axis-name').first().textContent(), /tokens/);
  });
});
