// Answers of the mock, and their tokens with invented but lawful probabilities: each place's sum to
// at most 1, and the same text always gives the same ones.

const MATH = `The roots of $ax^2 + bx + c = 0$ are

$$x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}$$

and \\(e^{i\\pi} + 1 = 0\\) holds, too. A price from $5 to $10 is no formula.

\\[\\mathcal{L}(N, D) = E + \\frac{A}{N^{\\alpha}} + \\frac{B}{D^{\\beta}}\\]`;

const CODE = `A function and its test:

\`\`\`rust
/// Greatest common divisor, by Euclid.
pub fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[test]
fn gcd_of_12_and_18_is_6() {
    assert_eq!(gcd(12, 18), 6); // 2 * 3
}
\`\`\`

| input | output |
|---|---:|
| 12, 18 | 6 |
| 7, 5 | 1 |

1. Call it with \`gcd(a, b)\`.
2. It ends, because **b** falls.

> Euclid's Elements, book VII, propositions 1 and 2.`;

const HOSTILE = `Ordinary text first. <img src=x onerror="window.hacked = 1"> <script>window.hacked = 2</script>

<svg onload="window.hacked = 3"></svg>

[a link](javascript:window.hacked=4) [data](data:text/html,<script>window.hacked=5</script>) [spaced]( javascript:alert(1) )

![picture](https://example.invalid/leak?q=secret) ![pixel](x" onerror="window.hacked=6)

<a href="javascript:window.hacked=7">raw anchor</a> <javascript:window.hacked=8>

$\\href{javascript:window.hacked=9}{click}$ $\\htmlData{onclick=window.hacked=10}{x}$ $\\includegraphics{https://example.invalid/leak.png}$ $\\def\\a{\\a\\a}\\a$ $\\unclosed{$

\`\`\`html"><img src=x onerror=window.hacked=11>
<script>window.hacked = 12</script>
\`\`\`

A last line, which is still shown.`;

const PROSE = `The **puna** is the high grassland of the central Andes, above about 3,500 metres. Vicuñas graze there in small herds, and herders keep llamas and alpacas.

Nights are cold all year, so plants stay low: tussock grasses, cushion plants and, near streams, wet meadows called *bofedales*.`;

export function answerFor(asked, request) {
  if (asked.includes('/math')) return MATH;
  if (asked.includes('/code')) return CODE;
  if (asked.includes('/hostile')) return HOSTILE;
  if (asked.includes('/think')) return `<think>\nThe reader wants a short answer.\n</think>\n\n${PROSE}`;
  if (asked.includes('/long'))
    return Array.from({ length: 30 }, (_, i) => `Paragraph ${i + 1}. ${PROSE}`).join('\n\n');
  if (asked.includes('/slow')) return `${PROSE}\n\n${PROSE}`;
  const turns = request.messages.filter((one) => one.role === 'user').length;
  return `You said: “${asked}” (turn ${turns}).\n\n${PROSE}`;
}

/** Cuts a text into words with their spaces, as a tokenizer would. */
export function tokensOf(text) {
  const pieces = text.match(/\s?[\p{L}\p{N}]+|\s?[^\s\p{L}\p{N}]|\s+/gu) ?? [];
  return pieces.map((token, at) => {
    const random = noise(token, at);
    const own = 1 - random ** 2 * 0.97;
    const others = [' the', ' a', '\n', ' of', ',', ' and'].filter((other) => other !== token);
    const top = others.map((other, i) => ({
      token: other,
      logprob: Math.log((1 - own) * 0.6 * 0.5 ** i + 1e-7),
    }));
    const taken = { token, logprob: Math.log(own) };
    return { content: token, ...taken, top_logprobs: [taken, ...top].sort((a, b) => b.logprob - a.logprob) };
  });
}

/** A number from 0 to 1 that depends on the text and its place only (FNV-1a). */
function noise(text, at) {
  let hash = 0x811c9dc5 ^ at;
  for (const letter of text) hash = Math.imul(hash ^ letter.codePointAt(0), 0x01000193);
  hash ^= hash >>> 15;
  hash = Math.imul(hash, 0x2c1b3c6d);
  return ((hash ^ (hash >>> 13)) >>> 0) / 2 ** 32;
}
