//! The machine's part of the answer: memory, layout, time and money.

use puna_laws::{CONTEXT_BYTES, Effort, GIB, MemorySource, Method, Placed, Recompute};

use super::super::answer::Answer;
use super::super::numbers::{days, energy, gib, whole};
use super::{indented, row, rows};
use crate::output;
use crate::units::grouped;

pub(super) fn describe(answer: &Answer) -> String {
    let mut out = String::new();
    if let Some(placed) = &answer.placed {
        out.push_str(&memory(answer, placed));
    }
    if let Some(effort) = &answer.effort {
        out.push_str(&time(answer, effort));
    }
    if let Some(bound) = answer.decode_bound() {
        out.push_str(&format!(
            "\nSpeed\n  at most {bound:.0} tokens/s for one sequence: each token reads all weights and \
             the cache once,\n  at {:.0} GB/s\n",
            answer.machine.gpu.bandwidth / 1e9
        ));
    }
    match &answer.no_time {
        Some(why) => out.push_str(&format!("\nTime: {why}\n")),
        None if answer.setting.method != Method::Inference && answer.effort.is_none() => out
            .push_str(
                "\nTime: add --tokens, the tokens of the fine-tuning data times the epochs\n",
            ),
        None => {}
    }
    if !answer.overview.is_empty() {
        out.push_str(&overview(answer));
    }
    out
}

/// What is done, in words.
fn activity(answer: &Answer) -> String {
    let format = answer.setting.format().map_or("", |format| format.name());
    let seq = grouped(answer.setting.seq as u64);
    match answer.setting.method {
        Method::Full => format!("full training in {format}, sequences of {seq} tokens"),
        Method::Lora | Method::Qlora => format!(
            "adapters of rank {} on weights in {format}, sequences of {seq} tokens",
            answer.setting.rank
        ),
        Method::Inference => format!("inference in {format}, {seq} tokens"),
    }
}

fn memory(answer: &Answer, placed: &Placed) -> String {
    let (gpu, count) = (&answer.machine.gpu, answer.machine.count);
    let chosen = match (answer.machine_given, placed.fits) {
        (true, _) => "",
        (false, true) => ", the fewest that hold it (--gpu and --gpus choose others)",
        (false, false) => ", the most that were tried",
    };
    let mut out = format!("\nMemory of each GPU: {}\n", activity(answer));
    out.push_str(&rows(&[row("machine", format!("{count} × {}{chosen}", gpu.name))]));
    out.push_str(&rows(&layout(answer, placed)));
    let mut table: Vec<Vec<String>> = placed
        .need
        .items
        .iter()
        .map(|item| {
            vec![item.what.to_owned(), format!("{:.2}", item.bytes / GIB), item.rule.clone()]
        })
        .collect();
    table.push(vec!["total".to_owned(), format!("{:.2}", placed.need.gib()), String::new()]);
    out.push_str(&items(&table));
    let free = (gpu.memory_bytes - placed.need.bytes()) / GIB;
    let context = CONTEXT_BYTES / GIB;
    let there = match gpu.memory_source {
        MemorySource::Reported => format!("{:.2} GiB", gpu.memory_gib()),
        MemorySource::Nominal => format!("about {:.1} GiB", gpu.memory_gib()),
        MemorySource::UnifiedShare => {
            format!("about {:.0} GiB usable (largest configuration)", gpu.memory_gib())
        }
    };
    let verdict = match placed.fits {
        true => format!(
            "fits, {free:.1} GiB free before context (driver and workspace, about {context} GiB)"
        ),
        false if free >= 0.0 => {
            format!("does not fit: {free:.2} GiB are left, driver and workspace take {context} GiB")
        }
        false => format!("does not fit, {:.1} GiB are missing in each GPU", -free + context),
    };
    out.push_str(&format!("  of {there}: {verdict}\n"));
    if answer.setting.method != Method::Inference {
        out.push_str(
            "  (s tokens per sequence, b sequences, h hidden size, v vocabulary, t = TP)\n",
        );
    }
    out
}

/// Items with their rules: the last column is left-aligned.
fn items(table: &[Vec<String>]) -> String {
    table
        .iter()
        .map(|cells| {
            let line = format!("  {:<16}{:>8} GiB   {}", cells[0], cells[1], cells[2]);
            format!("{}\n", line.trim_end())
        })
        .collect()
}

fn layout(answer: &Answer, placed: &Placed) -> Vec<(String, String)> {
    let layout = &placed.layout;
    let mut parts = Vec::new();
    if layout.tp > 1 {
        parts.push(format!("TP{} (GPUs that share each layer)", layout.tp));
    }
    if layout.pp > 1 {
        parts.push(format!("PP{} (pipeline stages)", layout.pp));
    }
    if layout.dp > 1 {
        parts.push(format!("DP{} (replicas)", layout.dp));
    }
    let sharded = answer.setting.method == Method::Full && layout.dp > 1;
    if sharded {
        parts.push(match layout.zero.stage() {
            0 => "no ZeRO".to_owned(),
            1 => "ZeRO-1 (replicas share the optimizer states)".to_owned(),
            2 => "ZeRO-2 (replicas share gradients and optimizer states)".to_owned(),
            _ => "ZeRO-3 (replicas share weights, gradients and optimizer states)".to_owned(),
        });
    }
    let mut rows = Vec::new();
    if !parts.is_empty() {
        rows.push(row("layout", parts.join(", ")));
    }
    if layout.recompute == Recompute::Full {
        rows.push(row("recomputation", "of each layer in the backward pass, a third more compute"));
    }
    if layout.tp > 1 && !answer.machine.gpu.has_fast_link() {
        rows.push(row("link", format!("{}: tensor parallelism is slow", answer.machine.gpu.link)));
    }
    if answer.setting.method == Method::Full {
        let seq = answer.setting.seq;
        let tokens = layout.batch_tokens(seq);
        let steps = answer.tokens.map(|all| format!("; {} steps", whole(all / tokens)));
        let parts = [
            (layout.dp, "replica", "replicas"),
            (layout.accumulation, "micro-batch", "micro-batches"),
            (layout.micro_batch, "sequence", "sequences"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(count, one, _)| *count > 1 || *one == "sequence")
            .map(|(count, one, many)| format!("{count} {}", if *count == 1 { one } else { many }))
            .collect();
        rows.push(row(
            "batch",
            format!(
                "{} tokens per step: {}{}",
                whole(tokens),
                parts.join(" × "),
                steps.unwrap_or_default()
            ),
        ));
    }
    if layout.pp > 1 {
        rows.push(row("bubble", format!("{:.1} % of the time", 100.0 * layout.bubble())));
    }
    rows
}

fn time(answer: &Answer, effort: &Effort) -> String {
    let gpu = &answer.machine.gpu;
    let mut out = vec![
        row(
            "assumed",
            format!(
                "{:.0} % of the {:.0} TFLOP/s peak of {} (MFU; --mfu)",
                100.0 * answer.mfu,
                gpu.training_peak().unwrap_or_default() / 1e12,
                gpu.name
            ),
        ),
        row("GPU-hours", whole(effort.gpu_hours)),
        row(
            "time",
            format!(
                "{} on {} × {}; {} with the stops of a long run",
                days(effort.days),
                answer.machine.count,
                gpu.name,
                days(effort.days_with_stops)
            ),
        ),
    ];
    if let Some(kwh) = effort.kwh {
        out.push(row(
            "energy",
            format!("{} ({:.0} W each, PUE 1.1)", energy(kwh), gpu.watts.unwrap_or_default()),
        ));
    }
    out.push(match (effort.dollars, answer.price) {
        (Some(dollars), Some(price)) => {
            row("cost", format!("${} at ${price:.2} per GPU-hour", whole(dollars)))
        }
        _ => row("cost", "add --price, dollars per GPU-hour"),
    });
    const MONTH: f64 = 30.0;
    if !answer.machine_given && effort.days > 2.0 * MONTH {
        let gpus = (effort.gpu_hours / (24.0 * MONTH)).ceil();
        out.push(row("in 30 days", format!("about {gpus:.0} GPUs")));
    }
    format!("\nTime and cost\n{}", rows(&out))
}

fn overview(answer: &Answer) -> String {
    let mut table =
        vec![["", "needs", "smallest single GPU that holds it"].map(str::to_owned).to_vec()];
    for row in &answer.overview {
        table.push(vec![
            row.what.to_owned(),
            gib(row.need.bytes()),
            row.card.unwrap_or("none").to_owned(),
        ]);
    }
    format!(
        "\nThe same model undivided, one sequence of {} tokens\n{}",
        grouped(answer.setting.seq as u64),
        indented(&output::table(&table))
    )
}
