//! The answer as JSON.

use puna_laws::{Allocation, Interval, Need, Plan, side_by_side};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Shape};
use super::text;

/// Everything; numbers are as computed, in the units of their keys.
pub(super) fn answer(answer: &Answer) -> Value {
    let mut out = Map::new();
    match &answer.plan {
        Some(plan) => out.extend(law(plan)),
        None => {
            out.insert("method".into(), json!(text::method(answer.setting.method)));
            let params = answer.shape.as_ref().map(|s| s.config.parameters().total);
            out.insert("params".into(), json!(params));
            out.insert("flops".into(), json!(answer.flops));
            out.insert("tokens".into(), json!(answer.tokens));
        }
    }
    out.insert("shape".into(), json!(answer.shape.as_ref().map(shape)));
    out.insert("memory".into(), memory(answer));
    let effort = answer.effort.as_ref();
    out.insert("gpu_hours".into(), json!(effort.map(|e| e.gpu_hours)));
    out.insert("days".into(), json!(effort.map(|e| e.days)));
    out.insert("days_with_stops".into(), json!(effort.map(|e| e.days_with_stops)));
    out.insert("kwh".into(), json!(effort.and_then(|e| e.kwh)));
    out.insert("dollars".into(), json!(effort.and_then(|e| e.dollars)));
    out.insert("mfu".into(), json!(answer.mfu));
    if let Some(bound) = answer.decode_bound() {
        out.insert("decode_tokens_per_sec_at_most".into(), json!(bound));
    }
    Value::Object(out)
}

fn interval(interval: Interval) -> Value {
    json!([interval.low, interval.high])
}

fn allocation(a: &Allocation) -> Value {
    json!({
        "flops": a.flops,
        "params": a.params,
        "tokens": a.tokens,
        "tokens_per_param": a.ratio(),
        "loss": a.loss,
    })
}

fn law(plan: &Plan) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("law".into(), json!(plan.law.name()));
    if let Value::Object(chosen) = allocation(&plan.chosen) {
        out.extend(chosen);
    }
    let intervals = plan.intervals.map(|i| {
        json!({
            "level": 0.8,
            "params": interval(i.params),
            "tokens_per_param": interval(i.tokens_per_param),
            "loss": interval(i.loss),
        })
    });
    out.insert("interval".into(), json!(intervals));
    out.insert("loss_of".into(), json!(text::corpus(plan.law)));
    out.insert("rule20_ratio".into(), json!(plan.chosen.ratio() / 20.0));
    out.insert("optimum_at_flops".into(), allocation(&plan.optimum));
    if let Some(serving) = &plan.serving {
        out.insert(
            "serving".into(),
            json!({
                "tokens": serving.tokens,
                "without": allocation(&serving.base),
                "optimum": allocation(&serving.optimum),
                "flops_in_all": serving.total_flops(&serving.optimum),
                "saving": serving.saving(),
                "break_even_tokens": serving.break_even(),
            }),
        );
    }
    if let Some(repeated) = &plan.repeated {
        out.insert(
            "repeated".into(),
            json!({
                "unique_tokens": repeated.unique_tokens,
                "epochs": repeated.epochs,
                "effective_tokens": repeated.effective_tokens,
                "effective_params": repeated.effective_params,
                "loss_if_fresh": repeated.loss_if_fresh,
            }),
        );
    }
    let laws: Vec<Value> = side_by_side(plan)
        .iter()
        .map(|said| {
            json!({
                "law": said.law,
                "who": said.who,
                "flops": said.flops,
                "params": said.params,
                "tokens": said.tokens,
                "tokens_per_param": said.tokens / said.params,
                "loss": said.loss,
            })
        })
        .collect();
    out.insert("laws".into(), json!(laws));
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    out.insert("warnings".into(), json!(warnings));
    out
}

fn shape(shape: &Shape) -> Value {
    let (config, counts) = (&shape.config, shape.config.parameters());
    json!({
        "name": shape.name,
        "params": counts.total,
        "active_params": counts.active,
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "heads": config.attention.num_heads,
        "kv_heads": config.attention.num_kv_heads,
        "head_dim": config.attention.head_dim,
        "ffn_size": text::ffn_size(config),
        "vocab_size": config.vocab_size,
        "tied_head": text::tied(config),
    })
}

fn items(need: &Need) -> Vec<Value> {
    need.items
        .iter()
        .map(|item| json!({"what": item.what, "gib": item.bytes / puna_laws::GIB, "rule": item.rule}))
        .collect()
}

fn memory(answer: &Answer) -> Value {
    let gpu = &answer.machine.gpu;
    let mut out = Map::new();
    out.insert("gpu".into(), json!(gpu.name));
    out.insert("gpus".into(), json!(answer.machine.count));
    out.insert("gpu_gib".into(), json!(gpu.memory_gib()));
    out.insert("method".into(), json!(text::method(answer.setting.method)));
    out.insert("format".into(), json!(answer.setting.format().ok().map(|format| format.name())));
    out.insert("seq".into(), json!(answer.setting.seq));
    out.insert("missing".into(), json!(answer.missing));
    if let Some(placed) = &answer.placed {
        let layout = &placed.layout;
        out.insert(
            "layout".into(),
            json!({
                "tp": layout.tp,
                "cp": layout.cp,
                "pp": layout.pp,
                "dp": layout.dp,
                "zero": layout.zero.stage(),
                "micro_batch": layout.micro_batch,
                "accumulation": layout.accumulation,
                "recompute": text::recompute(layout.recompute),
                "bubble": layout.bubble(),
                "batch_tokens": layout.batch_tokens(answer.setting.seq),
            }),
        );
        let free = (gpu.memory_bytes - placed.need.bytes()) / puna_laws::GIB;
        out.insert("items".into(), json!(items(&placed.need)));
        out.insert("total_gib".into(), json!(placed.need.gib()));
        out.insert("context_gib".into(), json!(puna_laws::CONTEXT_BYTES / puna_laws::GIB));
        out.insert("free_before_context_gib".into(), json!(free));
        out.insert("fits".into(), json!(placed.fits));
    }
    let rows: Vec<Value> = answer
        .overview
        .iter()
        .map(|row| {
            json!({
                "method": text::method(row.method),
                "format": row.format.name(),
                "total_gib": row.need.gib(),
                "items": items(&row.need),
                "smallest_card": row.card,
            })
        })
        .collect();
    out.insert("on_one_device".into(), json!(rows));
    Value::Object(out)
}
