//! Formats for checkpoints that bring no template.
//!
//! Written after the published formats, as Jinja, so that there is one way to render and a
//! converted checkpoint can carry the template along. Sources: Llama 2's `generation.py`
//! (meta-llama/llama), Llama 3's model card, Stanford Alpaca's `train.py`, FastChat's
//! `vicuna_v1.1`, OpenAI's ChatML.

/// A chat format known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    /// `[INST] … [/INST]` with `<<SYS>>`.
    Llama2,
    /// `<|start_header_id|>role<|end_header_id|>`.
    Llama3,
    /// `### Instruction:` and `### Response:`; the variable `input` gives the first `### Input:`.
    Alpaca,
    /// `USER:` and `ASSISTANT:`.
    Vicuna,
    /// `<|im_start|>role`.
    ChatMl,
}

impl Builtin {
    /// Every format.
    pub const ALL: [Self; 5] =
        [Self::Llama2, Self::Llama3, Self::Alpaca, Self::Vicuna, Self::ChatMl];

    /// The name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama2 => "llama2",
            Self::Llama3 => "llama3",
            Self::Alpaca => "alpaca",
            Self::Vicuna => "vicuna",
            Self::ChatMl => "chatml",
        }
    }

    /// The format of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|builtin| builtin.name() == name)
    }

    /// Jinja source.
    pub fn source(self) -> &'static str {
        match self {
            Self::Llama2 => LLAMA2,
            Self::Llama3 => LLAMA3,
            Self::Alpaca => ALPACA,
            Self::Vicuna => VICUNA,
            Self::ChatMl => CHATML,
        }
    }
}

/// Alpaca's prompt for one instruction; an empty `input` is none.
pub fn alpaca_prompt(instruction: &str, input: &str) -> String {
    if input.is_empty() {
        format!("{ALPACA_PLAIN}\n\n### Instruction:\n{instruction}\n\n### Response:")
    } else {
        format!(
            "{ALPACA_INPUT}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
        )
    }
}

const ALPACA_PLAIN: &str = "Below is an instruction that describes a task. \
    Write a response that appropriately completes the request.";
const ALPACA_INPUT: &str = "Below is an instruction that describes a task, paired with an input \
    that provides further context. Write a response that appropriately completes the request.";

const LLAMA2: &str = r"{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' and loop.first -%}
        {%- set ns.system = '<<SYS>>\n' + message['content'] + '\n<</SYS>>\n\n' -%}
    {%- elif (message['role'] == 'user') != ((loop.index0 - (messages[0]['role'] == 'system')|int) % 2 == 0) -%}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
    {%- elif message['role'] == 'user' -%}
        {{- bos_token + '[INST] ' + (ns.system + message['content']).strip() + ' [/INST]' -}}
        {%- set ns.system = '' -%}
    {%- elif message['role'] == 'assistant' -%}
        {{- ' ' + message['content'].strip() + ' ' + eos_token -}}
    {%- else -%}
        {{- raise_exception('Only user, assistant and a first system role are supported') -}}
    {%- endif -%}
{%- endfor -%}";

const LLAMA3: &str = r"{{- bos_token -}}
{%- for message in messages -%}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'].strip() + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}";

const ALPACA: &str = r"{%- set ns = namespace(first=true) -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' and loop.first -%}
        {{- message['content'] -}}
        {%- set ns.first = false -%}
    {%- elif message['role'] == 'user' -%}
        {%- if ns.first and input -%}
            {{- 'Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.' -}}
        {%- elif ns.first -%}
            {{- 'Below is an instruction that describes a task. Write a response that appropriately completes the request.' -}}
        {%- endif -%}
        {{- '\n\n### Instruction:\n' + message['content'] -}}
        {%- if ns.first and input -%}
            {{- '\n\n### Input:\n' + input -}}
        {%- endif -%}
        {%- set ns.first = false -%}
        {%- if not loop.last or add_generation_prompt -%}
            {{- '\n\n### Response:' -}}
        {%- endif -%}
    {%- elif message['role'] == 'assistant' -%}
        {{- message['content'] + eos_token -}}
    {%- else -%}
        {{- raise_exception('Only user, assistant and a first system role are supported') -}}
    {%- endif -%}
{%- endfor -%}";

const VICUNA: &str = r"{%- if messages[0]['role'] == 'system' -%}
    {{- messages[0]['content'] + ' ' -}}
{%- else -%}
    {{- 'A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user\'s questions. ' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}
        {{- 'USER: ' + message['content'] + ' ' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- 'ASSISTANT: ' + message['content'] + eos_token -}}
    {%- elif not loop.first -%}
        {{- raise_exception('Only user, assistant and a first system role are supported') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'ASSISTANT:' -}}
{%- endif -%}";

const CHATML: &str = r"{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\n' -}}
{%- endif -%}";
