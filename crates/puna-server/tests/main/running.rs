//! Servers for tests.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use puna_infer::GenerationConfig;
use puna_model::convert::hf_files;
use puna_model::{LoadOptions, Model, Precision};
use puna_server::{ModelFacts, ModelSpec, Served, Server, ServerConfig, Source};
use puna_text::{ChatTemplate, Tokenizer};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::http::{Answer, exchange, request};

/// What the tests call their model.
pub(crate) const MODEL: &str = "mini";

/// A template with tools, in Hermes' format.
pub(crate) const HERMES: &str = "{% if tools %}<tools>{{ tools | tojson }}</tools> Calls are \
    <tool_call>{\"name\": …, \"arguments\": …}</tool_call>\n{% endif %}{% for m in messages %}\
    {{ m.role }}: {{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}\n\
    {% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

/// A template with tools, in Llama 3's format.
pub(crate) const LLAMA3: &str = "{% if tools %}{{ tools | tojson }} Answer with {\"name\": …, \
    \"parameters\": …}: {\"parameters\"}\n{% endif %}{% for m in messages %}{{ m.role }}: \
    {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

/// A template with tools, in Mistral's format. The tokenizer gets its control token, see [`served`].
pub(crate) const MISTRAL: &str = "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}\
    [/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}\
    {% if m.tool_calls %}[TOOL_CALLS]{{ m.tool_calls | tojson }}{% endif %}\n\
    {% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

fn served(template: Option<&str>) -> Result<Served, Source> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/puna-mini-q8_0.gguf");
    let model = Model::load(&path, &LoadOptions::new(Precision::Fast))?;
    let mut tokenizer = puna_model::tokenizer(&model.checkpoint)?.ok_or("no tokenizer")?;
    if template.is_some_and(|template| template.contains("[TOOL_CALLS]")) {
        // A special token that the model has no use for becomes the one of calls.
        let files = hf_files(&model.checkpoint, &model.config, &mut Vec::new())?;
        let json = files.into_iter().find(|(name, _)| name == "tokenizer.json");
        let json = String::from_utf8(json.ok_or("no tokenizer.json")?.1)?;
        assert!(json.contains("<|pad|>"));
        tokenizer = Tokenizer::from_json_bytes(json.replace("<|pad|>", "[TOOL_CALLS]").as_bytes())?;
    }
    let mut eos = model.config.tokens.eos.clone();
    eos.extend(tokenizer.eos());
    eos.sort_unstable();
    eos.dedup();
    Ok(Served {
        eos,
        decoder: Arc::new(model.decoder),
        tokenizer: Arc::new(tokenizer),
        template: template.map(ChatTemplate::from_jinja).transpose()?,
        generation: GenerationConfig::default(),
        facts: ModelFacts { family: "llama".into(), format: "gguf".into(), ..Default::default() },
        adapters: Vec::new(),
    })
}

/// The model under a name, with a template.
pub(crate) fn spec(name: &str, template: Option<&'static str>) -> ModelSpec {
    let load = Box::new(move || served(template));
    ModelSpec { name: name.to_owned(), load, adapters: Vec::new() }
}

/// Settings for any free port.
pub(crate) fn config() -> ServerConfig {
    ServerConfig { port: 0, ..ServerConfig::default() }
}

/// A server that runs until this is dropped or drained.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start() -> Self {
        Self::with(config(), vec![spec(MODEL, None)])
    }

    pub(crate) fn with(config: ServerConfig, models: Vec<ModelSpec>) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let server = Server::bind(config, models).await.unwrap();
                ready.send(server.local_addr()).unwrap();
                server.run(async { drop(stopped.await) }).await;
            });
        });
        let address = address.recv().expect("the server starts");
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    /// Asks it to end, without waiting.
    pub(crate) fn drain(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for its end.
    pub(crate) fn join(&mut self) {
        self.drain();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        exchange(self.address, &request(self.address, "GET", path, &[], b""))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    pub(crate) fn post_bytes(&self, path: &str, body: &[u8]) -> Answer {
        exchange(self.address, &self.posting(path, body))
    }

    /// A POST as bytes.
    pub(crate) fn posting(&self, path: &str, body: &[u8]) -> Vec<u8> {
        let json = [("Content-Type", "application/json")];
        request(self.address, "POST", path, &json, body)
    }

    /// A number that `/metrics` tells.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(-1.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// A greedy completion.
pub(crate) fn greedy(prompt: &str, max_tokens: usize) -> Value {
    json!({ "prompt": prompt, "max_tokens": max_tokens, "temperature": 0 })
}

/// A greedy chat.
pub(crate) fn chat(content: &str, max_tokens: usize) -> Value {
    json!({
        "messages": [{ "role": "user", "content": content }], "max_tokens": max_tokens,
        "temperature": 0,
    })
}
