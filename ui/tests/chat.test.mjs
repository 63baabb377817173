// The chat page as a reader uses it.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { answers, ask, button, ended, field, launch, needsMock, questions, withPage } from './browser.mjs';

let at;
before(async () => (at = await launch()));
after(() => at.close());

const menu = async (page, item) => {
  await button(page, 'More').click();
  await page.getByRole('menuitem', { name: item }).click();
};

test('an answer streams, and says its tokens, speed and first wait', async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, 'What is the puna?');
    assert.equal(await questions(page).textContent(), 'What is the puna?');
    assert.ok((await answers(page).locator('.markdown').textContent()).length > 0);
    const numbers = await answers(page).locator('.numbers').textContent();
    assert.match(numbers, /^\d+ tokens( · [\d.]+ tokens\/s)? · first after [\d.]+ s · prompt \d+/);
  });
});

test('text is shown before the answer has ended, and Esc stops it', needsMock, async () => {
  await withPage(at, {}, async (page) => {
    await field(page).fill('/slow');
    await field(page).press('Enter');
    await answers(page).locator('.markdown', { hasText: 'The puna' }).waitFor();
    assert.ok(await button(page, 'Stop the answer').isVisible());
    await page.keyboard.press('Escape');
    await ended(page);
    assert.match(await answers(page).locator('.numbers').textContent(), /stopped$/);
    const text = await answers(page).locator('.markdown').textContent();
    assert.ok(text.length > 0 && !text.includes('bofedales'), text);
    await page.waitForTimeout(500);
    assert.equal(await answers(page).locator('.markdown').textContent(), text);
  });
});

test('another answer and an edited question are branches to go back to', async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, 'First question');
    const first = await answers(page).locator('.markdown').textContent();
    await button(answers(page), 'Answer again').click();
    await ended(page);
    assert.equal(await answers(page).locator('.versions span').last().textContent(), '2/2');
    await button(answers(page), 'Previous version').click();
    assert.equal(await answers(page).locator('.versions span').last().textContent(), '1/2');
    assert.equal(await answers(page).locator('.markdown').textContent(), first);

    await questions(page).hover();
    await button(page.locator('.message.user'), 'Edit question').click();
    await page.getByRole('textbox', { name: 'Edit the message' }).fill('Second question');
    await button(page, 'Ask this instead').click();
    await ended(page);
    assert.equal(await questions(page).textContent(), 'Second question');
    await button(page.locator('.message.user'), 'Previous version').click();
    assert.equal(await questions(page).textContent(), 'First question');
    assert.equal(await answers(page).locator('.markdown').textContent(), first);
  });
});

test('a reload keeps the conversation, its branches and its settings', async () => {
  await withPage(at, {}, async (page) => {
    await button(page, 'Settings').click();
    await page.getByLabel('System prompt').fill('Answer briefly.');
    await page.getByLabel('Temperature').fill('0.5');
    await page.getByLabel('Max tokens').fill('12');
    await ask(page, 'Keep this');
    await button(answers(page), 'Answer again').click();
    await ended(page);
    const text = await answers(page).locator('.markdown').textContent();
    await page.waitForTimeout(600);
    await page.reload();
    await questions(page).waitFor();
    assert.equal(await questions(page).textContent(), 'Keep this');
    assert.equal(await answers(page).locator('.markdown').textContent(), text);
    assert.equal(await answers(page).locator('.versions span').last().textContent(), '2/2');
    await button(page, 'Settings').click();
    assert.equal(await page.getByLabel('System prompt').inputValue(), 'Answer briefly.');
    assert.equal(await page.getByLabel('Temperature').inputValue(), '0.5');
  });
});

test('the server is asked for what the panel says', needsMock, async () => {
  await withPage(at, {}, async (page) => {
    await button(page, 'Settings').click();
    await page.getByLabel('System prompt').fill('Be brief.');
    for (const [label, value] of [
      ['Temperature', '0'],
      ['Top p', '0.9'],
      ['Top k', '40'],
      ['Min p', '0.05'],
      ['Repetition penalty', '1.1'],
      ['Max tokens', '9'],
      ['Seed', '7'],
    ]) {
      await page.getByLabel(label, { exact: true }).fill(value);
    }
    await page.getByLabel('Stop at').fill('END\nstop here');
    await page.getByRole('combobox', { name: 'Model' }).selectOption('poems');
    await ask(page, 'Hello');
    const { messages, stream_options: _options, ...rest } = at.server.state.requests.at(-1);
    assert.deepEqual(messages, [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Hello' },
    ]);
    assert.deepEqual(rest, {
      model: 'poems',
      stream: true,
      temperature: 0,
      top_p: 0.9,
      top_k: 40,
      min_p: 0.05,
      repetition_penalty: 1.1,
      max_tokens: 9,
      seed: 7,
      stop: ['END', 'stop here'],
      logprobs: true,
      top_logprobs: 5,
    });
    assert.match(await answers(page).locator('.numbers').textContent(), /cut at the limit of tokens$/);
  });
});

test('every token shows its probability and alternatives, by mouse and by keys', async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, 'Hello');
    const text = (await answers(page).locator('.numbers').textContent()).match(/^\d+/)[0];
    await button(answers(page), 'Token probabilities').click();
    const tokens = page.locator('.token');
    assert.ok((await tokens.count()) >= 1 && (await tokens.count()) <= Number(text) + 1);
    await tokens.first().hover();
    const card = page.getByRole('tooltip');
    assert.match(await card.textContent(), /%, log-probability/);
    assert.ok((await card.locator('li').count()) >= 1);
    const shares = await card.locator('li > span:last-child').allTextContents();
    assert.ok(
      shares.every((share) => /^(< )?[\d.]+ %$/.test(share)),
      shares.join(),
    );
    await tokens.first().focus();
    if ((await tokens.count()) > 1) {
      await page.keyboard.press('ArrowRight');
      assert.equal(
        await page.evaluate(() => [...document.querySelectorAll('.token')].indexOf(document.activeElement)),
        1,
      );
      assert.ok(await card.isVisible());
    }
    await button(answers(page), 'Token probabilities').click();
    assert.ok(await answers(page).locator('.markdown').isVisible());
  });
});

test('mathematics and code are drawn', needsMock, async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, '/math');
    await page.locator('.formula .katex').first().waitFor();
    assert.equal(await page.locator('.formula .katex').count(), 4);
    assert.equal(await page.locator('.formula.display .katex-display').count(), 2);
    assert.match(await answers(page).last().textContent(), /from \$5 to \$10 is no formula/);
    await page.waitForFunction(() => document.fonts.check('16px KaTeX_Main'));
    await ask(page, '/code');
    await page.locator('.code .hljs-keyword').first().waitFor();
    assert.equal(await page.locator('.code .hljs-keyword').first().textContent(), 'pub');
    assert.equal(await answers(page).last().locator('td').count(), 4);
    await button(page, 'Copy code').click();
    await button(page, 'Copied').waitFor();
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    assert.ok(copied.startsWith('/// Greatest common divisor') && copied.includes('a % b'), copied);
  });
});

test('nothing that a model writes runs or loads', needsMock, async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, '/hostile');
    await page.locator('.formula.unread').first().waitFor();
    await page.waitForTimeout(500);
    const inside = answers(page);
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    assert.equal(
      await inside
        .locator('.markdown :is(script, img, iframe, object, embed, form, style, svg[onload])')
        .count(),
      0,
    );
    const links = await inside
      .locator('a')
      .evaluateAll((all) => all.map((link) => [link.getAttribute('href'), link.rel]));
    assert.ok(
      links.length >= 1 &&
        links.every(([href, rel]) => href.startsWith('https://') && rel.includes('noopener')),
      JSON.stringify(links),
    );
    const handlers = await inside
      .locator('*')
      .evaluateAll((all) =>
        all.flatMap((one) => one.getAttributeNames().filter((name) => name.startsWith('on'))),
      );
    assert.deepEqual(handlers, []);
    assert.match(await inside.textContent(), /<img src=x onerror="window.hacked = 1">/);
    assert.match(await inside.textContent(), /A last line, which is still shown\./);
  });
});

test('chats are renamed, searched, deleted and brought back', async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, 'On quinoa');
    await page.keyboard.press('Control+k');
    await ask(page, 'On potatoes');
    const titles = page.locator('.chats .title');
    assert.deepEqual(await titles.allTextContents(), ['On potatoes', 'On quinoa']);
    await page.getByRole('searchbox', { name: 'Search chats' }).fill('QUINOA on');
    assert.deepEqual(await titles.allTextContents(), ['On quinoa']);
    await titles.first().hover();
    await page.getByRole('button', { name: 'Rename “On quinoa”' }).click();
    await page.getByRole('textbox', { name: 'New title' }).fill('Wool');
    await page.keyboard.press('Enter');
    await page.getByRole('searchbox', { name: 'Search chats' }).fill('');
    assert.deepEqual(await titles.allTextContents(), ['On potatoes', 'Wool']);
    await titles.last().hover();
    await page.getByRole('button', { name: 'Delete “Wool”' }).click();
    assert.deepEqual(await titles.allTextContents(), ['On potatoes']);
    await button(page, 'Undo').click();
    assert.deepEqual(await titles.allTextContents(), ['On potatoes', 'Wool']);
    await page.waitForTimeout(600);
    await page.reload();
    await titles.first().waitFor();
    assert.deepEqual((await titles.allTextContents()).sort(), ['On potatoes', 'Wool']);
  });
});

test('what is exported as JSON can be imported, and Markdown reads well', async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, 'Export me');
    const saved = async (item) => {
      const download = page.waitForEvent('download');
      await menu(page, item);
      return download;
    };
    const markdown = await saved('Export Markdown');
    assert.equal(markdown.suggestedFilename(), 'export-me.md');
    const text = await readFile(await markdown.path(), 'utf8');
    assert.match(text, /^# Export me\n\n## You\n\nExport me\n\n## \S+/);
    const json = await saved('Export JSON');
    const chooser = page.waitForEvent('filechooser');
    await menu(page, 'Import JSON');
    await (await chooser).setFiles(await json.path());
    await page.getByText('One chat was imported.').waitFor();
    assert.deepEqual(await page.locator('.chats .title').allTextContents(), ['Export me', 'Export me']);
    assert.equal(await questions(page).textContent(), 'Export me');
  });
});

test('ratings go to the server with the prompt', needsMock, async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, 'Rate me');
    await button(answers(page), 'Good answer').click();
    await page.getByText('stored on the server').waitFor();
    const { messages, rating, answer } = at.server.state.feedback.at(-1);
    assert.deepEqual(messages, [{ role: 'user', content: 'Rate me' }]);
    assert.equal(rating, 'up');
    assert.ok(answer.startsWith('You said'));
    assert.equal(await button(answers(page), 'Good answer').getAttribute('aria-pressed'), 'true');
  });
});

test('thinking is folded away', needsMock, async () => {
  await withPage(at, {}, async (page) => {
    await ask(page, '/think');
    assert.equal(await page.locator('details.thinking').getAttribute('open'), null);
    assert.match(await page.locator('details.thinking').textContent(), /The reader wants/);
    assert.ok(!(await answers(page).locator('.markdown').textContent()).includes('think'));
  });
});

test('the view follows a growing answer until the reader scrolls away', needsMock, async () => {
  await withPage(at, {}, async (page) => {
    await field(page).fill('/long');
    await field(page).press('Enter');
    const gap = () =>
      page.locator('.thread').evaluate((box) => box.scrollHeight - box.scrollTop - box.clientHeight);
    await answers(page).getByText('Paragraph 8.').waitFor();
    assert.ok((await gap()) < 200, `${await gap()} px from the end`);
    await page.locator('.thread').hover();
    await page.mouse.wheel(0, -600);
    await button(page, 'To the latest').waitFor();
    const top = await page.locator('.thread').evaluate((box) => box.scrollTop);
    await answers(page).getByText('Paragraph 14.').waitFor({ state: 'attached' });
    assert.equal(await page.locator('.thread').evaluate((box) => box.scrollTop), top);
    await button(page, 'To the latest').click();
    assert.ok((await gap()) < 200);
    await page.keyboard.press('Escape');
  });
});
