//! Schemas of answers, and the endpoints without a body.

use serde_json::{Value, json};

use super::Answers;

/// Path, summary, kind of answer, its schema.
pub(super) const READS: [(&str, &str, Answers, &str); 12] = [
    ("/health", "Whether the server takes requests", Answers::Json, "Health"),
    ("/metrics", "Counts for Prometheus", Answers::Text, "Health"),
    ("/openapi.json", "This description", Answers::Json, "Anything"),
    ("/v1/models", "The models and adapters", Answers::Json, "Models"),
    ("/v1/models/{name}", "One of them", Answers::Json, "Model"),
    ("/v1/plan", "The answer of puna plan, its options as parameters", Answers::Json, "Anything"),
    ("/v1/runs", "Training runs", Answers::Json, "Runs"),
    ("/v1/runs/{name}/metrics", "Lines of a run's metrics", Answers::Lines, "Anything"),
    ("/api/tags", "Ollama: the models", Answers::Json, "OllamaModels"),
    ("/api/ps", "Ollama: the models in memory", Answers::Json, "OllamaModels"),
    ("/api/version", "Ollama: this program's version", Answers::Json, "Version"),
    ("/docs", "This description as a page", Answers::Text, "Health"),
];

/// An object with these fields at least.
fn object(required: &[(&str, Value)]) -> Value {
    let properties: serde_json::Map<String, Value> =
        required.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    let names: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
    json!({ "type": "object", "properties": properties, "required": names })
}

/// All schemas that operations refer to.
pub(super) fn shared() -> Value {
    let text = || json!({ "type": "string" });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let list = |items: Value| json!({ "type": "array", "items": items });
    let model = object(&[
        ("id", text()),
        ("object", json!({ "const": "model" })),
        ("created", count()),
        ("owned_by", text()),
    ]);
    let error = object(&[(
        "error",
        object(&[
            ("message", text()),
            ("type", text()),
            ("param", json!({ "type": ["string", "null"] })),
            ("code", json!({ "type": ["string", "null"] })),
        ]),
    )]);
    let answer = |kind: &str| {
        object(&[
            ("id", text()),
            ("object", json!({ "const": kind })),
            ("created", count()),
            ("model", text()),
            ("choices", list(json!({ "type": "object" }))),
            ("usage", json!({ "type": "object" })),
        ])
    };
    json!({
        "Anything": { "type": "object" },
        "Error": error,
        "OllamaError": object(&[("error", text())]),
        "Health": object(&[("status", text())]),
        "Version": object(&[("version", text())]),
        "Model": model,
        "Models": object(&[
            ("object", json!({ "const": "list" })), ("data", list(model.clone())),
        ]),
        "Runs": object(&[
            ("object", json!({ "const": "list" })), ("data", list(json!({ "type": "object" }))),
        ]),
        "Stored": object(&[("stored", json!({ "const": true }))]),
        "OllamaModels": object(&[("models", list(json!({ "type": "object" })))]),
        "OllamaShow": object(&[("details", json!({ "type": "object" }))]),
        "OllamaAnswer": object(&[
            ("model", text()), ("created_at", text()), ("done", json!({ "type": "boolean" })),
        ]),
        "OllamaEmbeddings": object(&[
            ("embeddings", list(list(json!({ "type": "number" })))),
        ]),
        "OllamaEmbedding": object(&[("embedding", list(json!({ "type": "number" })))]),
        "ChatCompletion": answer("chat.completion"),
        "Completion": answer("text_completion"),
        "Response": object(&[
            ("id", text()), ("object", json!({ "const": "response" })), ("status", text()),
            ("output", list(json!({ "type": "object" }))), ("usage", json!({ "type": "object" })),
        ]),
        "Embeddings": object(&[
            ("object", json!({ "const": "list" })), ("data", list(json!({ "type": "object" }))),
            ("model", text()), ("usage", json!({ "type": "object" })),
        ]),
        "AnthropicMessage": object(&[
            ("id", text()), ("type", json!({ "const": "message" })),
            ("content", list(json!({ "type": "object" }))), ("usage", json!({ "type": "object" })),
        ]),
        "TokenCount": object(&[("input_tokens", count())]),
        "Tokens": object(&[("tokens", list(count())), ("count", count())]),
        "Text": object(&[("content", text())]),
    })
}
