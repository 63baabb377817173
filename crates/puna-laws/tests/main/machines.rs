//! Published trainings: what their hours, layouts and activations say against what is computed.

use puna_config::preset;
use puna_laws::{
    ActivationShape, GptShape, Gpu, Layout, Machine, MemorySource, Recompute, Zero, training_flops,
    training_flops_with_attention, utilization,
};

use super::reference::{Row, near, table};

#[test]
fn megatron_s_utilization_follows_from_its_iteration_times() {
    for row in table("megatron_table3_5.csv") {
        let name = row.text("model");
        let shape = GptShape {
            layers: row.number("layers"),
            hidden: row.number("hidden"),
            heads: row.number("heads"),
            seq: row.number("seq"),
            vocab: row.number("vocab"),
        };
        let batch = row.number("global_batch");
        let flops = shape.model_flops(batch);
        near(flops, row.number("model_flops_per_iter"), 1e-5, name);
        let gpu_secs = row.number("iter_s") * row.number("gpus");
        let peak = Gpu::find("a100").unwrap().training_peak().unwrap();
        let mfu = utilization(flops, gpu_secs, peak);
        assert!((mfu - row.number("mfu_computed")).abs() < 6e-5, "{name}: {mfu}");
        // Printed times have two digits in the smallest model.
        assert!((mfu - row.number("mfu_printed")).abs() < 2e-3, "{name}: {mfu}");
        let hfu = utilization(shape.hardware_flops(batch), gpu_secs, peak);
        assert!((hfu - row.number("hfu_computed")).abs() < 6e-5, "{name}: {hfu}");
        assert!((hfu - row.number("hfu_printed")).abs() < 2e-3, "{name}: {hfu}");
    }
}

#[test]
fn megatron_s_activations_are_those_of_its_table() {
    for row in table("megatron_table3_5.csv") {
        let name = row.text("model");
        let one = ActivationShape {
            seq: row.number("seq"),
            micro_batch: row.number("micro_batch"),
            hidden: row.number("hidden"),
            heads: row.number("heads"),
            tp: 1.0,
            sequence_parallel: false,
        };
        let tp = ActivationShape { tp: row.number("tp"), ..one };
        let sp = ActivationShape { sequence_parallel: true, ..tp };
        let columns = [
            ("act_bytes_layer_no_par", one.layer_bytes(Recompute::Nothing)),
            ("act_bytes_layer_tp", tp.layer_bytes(Recompute::Nothing)),
            ("act_bytes_layer_tp_sp_selective", sp.layer_bytes(Recompute::Selective)),
            ("act_bytes_layer_full_recompute", sp.layer_bytes(Recompute::Full)),
        ];
        for (column, got) in columns {
            near(got, row.number(column), 1e-5, &format!("{name}: {column}"));
        }
    }
}

/// The preset of a published run; Llama 4 has none.
fn model(row: &Row) -> Option<puna_config::DecoderConfig> {
    let name = row.text("model").to_lowercase().replace(' ', "-");
    Some(preset(&name).unwrap()?.decoder)
}

#[test]
fn llama_s_hours_give_its_utilization() {
    let mut with_shape = 0;
    for row in table("llama_training_runs.csv") {
        let (name, tokens) = (row.text("model"), row.number("tokens"));
        let gpu_secs = row.number("gpu_hours") * 3600.0;
        let gpu = Gpu::find(if row.text("gpu").starts_with("A100") { "a100" } else { "h100" });
        let peak = gpu.unwrap().training_peak().unwrap();
        near(peak, row.number("peak_bf16_tflops") * 1e12, 1e-12, name);
        let Some(config) = model(&row) else {
            // Llama 4: 17e9 active parameters.
            assert!(name.starts_with("Llama 4"), "{name} has no preset");
            let mfu = utilization(training_flops(17e9, tokens), gpu_secs, peak);
            near(mfu, row.number("implied_mfu_6ND"), 1e-3, name);
            continue;
        };
        with_shape += 1;
        let params = config.parameters().total as f64;
        assert_eq!(params, row.number("params"), "{name}");
        let flops = training_flops(params, tokens);
        near(flops, row.number("flops_6ND"), 1e-4, name);
        let mfu = utilization(flops, gpu_secs, peak);
        assert!((mfu - row.number("implied_mfu_6ND")).abs() < 6e-5, "{name}: {mfu}");
        let seq = row.number("seq_len_assumed") as usize;
        let all = training_flops_with_attention(&config, seq, tokens);
        near(all, row.number("flops_matmul_plus_attention"), 1e-4, name);
        let mfu = utilization(all, gpu_secs, peak);
        assert!((mfu - row.number("implied_mfu_with_attention")).abs() < 6e-5, "{name}: {mfu}");
        let rate = tokens / gpu_secs;
        assert!((rate - row.number("tokens_per_gpu_second")).abs() < 0.06, "{name}: {rate}");
    }
    assert_eq!(with_shape, 16);
}

#[test]
fn llama_3_s_layouts_use_all_their_gpus_and_divide_the_model() {
    let config = preset("llama-3.1-405b").unwrap().unwrap().decoder;
    for row in table("llama3_table4.csv") {
        let number = |column| row.number(column) as usize;
        let layout = Layout {
            tp: number("tp"),
            cp: number("cp"),
            pp: number("pp"),
            dp: number("dp_consistent"),
            zero: Zero::Two,
            accumulation: number("batch_per_dp"),
            ..Layout::single()
        };
        let machine = Machine { gpu: Gpu::find("h100").unwrap(), count: number("gpus") };
        assert_eq!(layout.gpus(), machine.count);
        // 126 layers on 16 stages: uneven by design, one layer less on the first and the last.
        let error = layout.check(&config, &machine).unwrap_err().to_string();
        assert!(error.contains("126 layers"), "{error}");
        let padded = puna_config::DecoderConfig { num_layers: 128, ..config.clone() };
        layout.check(&padded, &machine).unwrap();
        let batch = layout.batch_tokens(number("seq_len"));
        assert_eq!(batch, row.number("tokens_per_batch_computed"));
        let mfu = row.number("tflops_per_gpu") * 1e12 / machine.gpu.training_peak().unwrap();
        assert!((mfu - row.number("mfu_computed_989.4")).abs() < 6e-5, "{mfu}");
        assert!((mfu - row.number("mfu_printed")).abs() < 6e-3, "{mfu}");
    }
}

#[test]
fn attention_adds_a_twelfth_to_llama_3_405b_at_8k() {
    let config = preset("llama-3.1-405b").unwrap().unwrap().decoder;
    let counts = config.parameters();
    let matmul = training_flops(counts.matmul as f64, 1.0);
    let attention = training_flops_with_attention(&config, 8192, 1.0) - matmul;
    near(attention, 2.029e11, 1e-3, "FLOP per token");
    near(attention / training_flops(counts.total as f64, 1.0), 0.0833, 1e-3, "share of 6N");
}

#[test]
fn the_table_of_gpus_holds_dense_rates_and_plausible_memory() {
    let all = Gpu::all().unwrap();
    assert_eq!(all.len(), 31);
    for gpu in &all {
        let name = &gpu.name;
        let dense = gpu.peak.bf16.or(gpu.peak.fp16);
        // 8-bit rates are twice those of 16 bits; figures with sparsity would make it four times.
        if let (Some(dense), Some(fp8)) = (dense, gpu.peak.fp8) {
            assert!((1.9..2.1).contains(&(fp8 / dense)), "{name}");
        }
        assert!((5.0..400.0).contains(&gpu.memory_gib()), "{name}: {}", gpu.memory_gib());
        assert!((5e10..1e13).contains(&gpu.bandwidth), "{name}");
        assert!(dense.is_none_or(|peak| (1e12..3e15).contains(&peak)), "{name}");
        let unified = gpu.memory_source == MemorySource::UnifiedShare;
        assert_eq!(unified, name.starts_with("Apple"), "{name}");
        assert_eq!(&Gpu::find(name).unwrap(), gpu, "{name} is not found by its name");
    }
    let gib = |name| Gpu::find(name).unwrap().memory_gib();
    for (name, expected) in [
        ("h100", 79.65),
        ("l4", 22.49),
        ("a10", 22.49),
        ("4090", 23.99),
        ("h200", 140.40),
        ("b200", 179.06),
        ("mi300x", 191.98),
    ] {
        assert!((gib(name) - expected).abs() < 6e-3, "{name}: {}", gib(name));
    }
}
