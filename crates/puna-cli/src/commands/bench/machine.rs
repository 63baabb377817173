//! The machine's measured limits, and what share of them a test reaches.

use puna_kernels::{Isa, IsaPeak, MachineLimits};
use puna_model::{Decoder, Precision};
use serde::Serialize;

use super::test::{Test, Work};
use crate::output;

/// What was measured, as JSON: a contract that scripts rely on.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    /// With the threads that the tests use.
    all_threads: Limits,
    one_thread: Limits,
}

#[derive(Debug, Clone, Serialize)]
struct Limits {
    threads: usize,
    read_bytes_per_second: f64,
    /// Of each instruction set; the kernels use the last one.
    peaks: Vec<Peak>,
}

#[derive(Debug, Clone, Serialize)]
struct Peak {
    instructions: &'static str,
    f32_flops_per_second: f64,
    /// Null where there are no instructions for it.
    bf16_flops_per_second: Option<f64>,
    int8_ops_per_second: f64,
}

/// A test's speed beside the limit that binds it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Share {
    /// `read` (bytes), or the arithmetic: `f32`, `bf16`, `int8` (operations).
    limit: &'static str,
    /// Bytes or operations of one token, averaged over the test.
    per_token: f64,
    reached_per_second: f64,
    limit_per_second: f64,
    /// Of the limit; 1 is all.
    share: f64,
}

impl Share {
    /// `81 % of 71.8 GB/s read`
    pub(super) fn describe(&self) -> String {
        let unit = match self.limit {
            "read" => "B/s",
            "int8" => "OP/s",
            _ => "FLOP/s",
        };
        let percent = 100.0 * self.share;
        format!("{percent:.0} % of {} {}", giga(self.limit_per_second, unit), self.limit)
    }
}

impl Machine {
    pub(super) fn measure() -> Self {
        Self {
            all_threads: Limits::new(MachineLimits::measure()),
            one_thread: Limits::new(puna_kernels::with_threads(1, MachineLimits::measure)),
        }
    }

    /// How much of the limit that binds it a test reaches: memory for decoding, arithmetic for
    /// prompts. `None` where the limit is not known.
    pub(super) fn share(
        &self,
        decoder: &Decoder,
        precision: Precision,
        test: Test,
        tokens_per_second: f64,
    ) -> Option<Share> {
        if decoder.device().is_some() {
            return None; // the limits are those of the CPU
        }
        let config = decoder.config();
        let tokens = test.tokens();
        let (limit, per_token, limit_per_second) = match test.work {
            Work::Decode { sequences, .. } => {
                // Contexts grow evenly from depth + 1 to depth + tokens.
                let context = test.depth + tokens.div_ceil(2);
                let kv = decoder.kv_type().bytes(config.kv_bytes_read(context, 1)) as f64;
                let weights = decoder.step_weight_bytes(sequences) as f64 / sequences as f64;
                ("read", weights + kv, self.all_threads.read_bytes_per_second)
            }
            Work::Prefill(_) => {
                let flops = config.prefill_flops(test.depth, tokens, 1) as f64;
                let format = decoder.matrix_format();
                let (arithmetic, peak) =
                    self.arithmetic(format, precision, puna_kernels::prompt_tiles())?;
                (arithmetic, flops / tokens as f64, peak)
            }
        };
        let reached_per_second = per_token * tokens_per_second;
        let share = reached_per_second / limit_per_second;
        Some(Share { limit, per_token, reached_per_second, limit_per_second, share })
    }

    /// The arithmetic in which products of a format are computed, with or without tiles for prompts,
    /// and its peak.
    fn arithmetic(
        &self,
        format: &str,
        precision: Precision,
        tiles: bool,
    ) -> Option<(&'static str, f64)> {
        let peak = self.all_threads.peaks.last()?;
        let f32 = ("f32", peak.f32_flops_per_second);
        Some(match (precision, format) {
            (Precision::Exact, _) | (_, "F32" | "F16" | "F8_E4M3" | "codebook4" | "dense") => f32,
            (_, "BF16") => peak.bf16_flops_per_second.map_or(f32, |flops| ("bf16", flops)),
            _ if tiles => ("bf16", peak.bf16_flops_per_second?),
            _ => ("int8", peak.int8_ops_per_second),
        })
    }

    pub(super) fn table(&self) -> String {
        let (all, one) = (&self.all_threads, &self.one_thread);
        let threads = match all.threads {
            1 => "1 thread ".to_string(),
            n => format!("{n} threads"),
        };
        let mut rows = vec![vec!["limit".to_string(), threads, "1 thread".to_string()]];
        let mut row = |name: String, unit: &str, all: f64, one: f64| {
            rows.push(vec![name, giga(all, unit), giga(one, unit)]);
        };
        row(
            "memory, read".to_string(),
            "B/s",
            all.read_bytes_per_second,
            one.read_bytes_per_second,
        );
        for (all, one) in all.peaks.iter().zip(&one.peaks) {
            let name = |arithmetic| format!("{}, {arithmetic}", all.instructions);
            row(name("f32"), "FLOP/s", all.f32_flops_per_second, one.f32_flops_per_second);
            if let (Some(all), Some(one)) = (all.bf16_flops_per_second, one.bf16_flops_per_second) {
                row(name("bf16"), "FLOP/s", all, one);
            }
            row(name("int8"), "OP/s", all.int8_ops_per_second, one.int8_ops_per_second);
        }
        output::table(&rows)
    }
}

impl Limits {
    fn new(measured: MachineLimits) -> Self {
        Self {
            threads: measured.threads,
            read_bytes_per_second: measured.read_bytes_per_sec,
            peaks: measured.peaks.iter().map(Peak::new).collect(),
        }
    }
}

impl Peak {
    fn new(peak: &IsaPeak) -> Self {
        Self {
            instructions: match peak.isa {
                Isa::Scalar => "scalar",
                Isa::Avx2 => "AVX2",
                Isa::AvxVnni => "AVX-VNNI",
                Isa::Avx512 | Isa::Avx512Bf16 => "AVX-512",
                Isa::Amx => "AMX",
            },
            f32_flops_per_second: peak.f32_flops_per_sec,
            bf16_flops_per_second: peak.bf16_flops_per_sec,
            int8_ops_per_second: peak.int8_ops_per_sec,
        }
    }
}

fn giga(value: f64, unit: &str) -> String {
    format!("{:.1} G{unit}", value / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let peak = Peak {
            instructions: "AVX2",
            f32_flops_per_second: 1e9,
            bf16_flops_per_second: None,
            int8_ops_per_second: 2e9,
        };
        let limits = Limits { threads: 1, read_bytes_per_second: 1e10, peaks: vec![peak] };
        Machine { all_threads: limits.clone(), one_thread: limits }
    }

    #[test]
    fn the_arithmetic_is_that_of_the_format_and_of_the_machine() {
        let machine = machine();
        let of = |format, precision| machine.arithmetic(format, precision, false);
        assert_eq!(of("Q4_K", Precision::Fast), Some(("int8", 2e9)));
        assert_eq!(of("Q4_K", Precision::Exact), Some(("f32", 1e9)));
        assert_eq!(of("BF16", Precision::Fast), Some(("f32", 1e9)), "AVX2 has no bf16");
        assert_eq!(of("F16", Precision::Fast), Some(("f32", 1e9)));
    }

    #[test]
    fn the_table_has_a_row_per_limit() {
        let table = machine().table();
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(table.contains("memory, read"), "{table}");
    }
}
