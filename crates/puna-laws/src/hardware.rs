//! Accelerators: peak rates, memory and power, from a table (`assets/gpus.csv`).
//!
//! Peaks are dense ones with float32 accumulation, never the "with sparsity" figures that the
//! makers' data sheets print beside them, and memory is what the driver reports, not the
//! marketing number: an "80 GB" H100 has 79.65 GiB, a "24 GB" L4 with ECC 22.49.

use crate::error::{LawError, Result};

const TABLE: &str = include_str!("../assets/gpus.csv");
/// Bytes of a GiB.
pub const GIB: f64 = 1_073_741_824.0;
/// Bytes of a MiB.
const MIB: f64 = 1_048_576.0;
/// Accelerators that one NVLink (or Infinity Fabric) domain joins in the usual server.
const LINKED: usize = 8;

/// Short names, and the row each stands for where several would fit.
const SHORT_NAMES: [(&str, &str); 9] = [
    ("a100", "A100-SXM4-80GB"),
    ("a100-80", "A100-SXM4-80GB"),
    ("a100-40", "A100-SXM4-40GB"),
    ("h100", "H100-SXM5-80GB"),
    ("h100-80", "H100-SXM5-80GB"),
    ("v100", "V100-SXM2-32GB"),
    ("m1", "Apple-M1"),
    ("m2", "Apple-M2"),
    ("m4", "Apple-M4"),
];

/// Where a memory size comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySource {
    /// As the driver reports it.
    Reported,
    /// The maker's gigabytes (1e9 bytes each), a lower bound; nobody's report was at hand.
    Nominal,
    /// Three quarters of a unified memory: what Metal recommends as the largest working set.
    UnifiedShare,
}

/// Dense peak rates, FLOP/s; `None` where the device has no such units or nobody published them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Peak {
    /// bfloat16 with float32 accumulation.
    pub bf16: Option<f64>,
    /// float16 with float32 accumulation.
    pub fp16: Option<f64>,
    /// 8-bit floats with float32 accumulation.
    pub fp8: Option<f64>,
}

/// One accelerator.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// Its name, memory included.
    pub name: String,
    /// Usable bytes.
    pub memory_bytes: f64,
    /// How the size is known.
    pub memory_source: MemorySource,
    /// Bytes per second.
    pub bandwidth: f64,
    /// FLOP/s.
    pub peak: Peak,
    /// Board power, W.
    pub watts: Option<f64>,
    /// The link between accelerators, in words.
    pub link: String,
    /// How many of them the fast link joins: the most that tensor parallelism should span.
    pub domain: usize,
}

/// A number of equal accelerators.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// What they are.
    pub gpu: Gpu,
    /// How many.
    pub count: usize,
}

impl Gpu {
    /// All of the table.
    ///
    /// # Errors
    /// Never for the embedded table, which a test reads.
    pub fn all() -> Result<Vec<Self>> {
        TABLE.lines().skip(1).map(from_row).collect()
    }

    /// The accelerator that `name` names: `h100`, `a100-40`, `4090`, `rtx-4090` or a full name.
    ///
    /// # Errors
    /// [`LawError::UnknownGpu`] with all names, [`LawError::AmbiguousGpu`] with those that fit.
    pub fn find(name: &str) -> Result<Self> {
        let all = Self::all()?;
        let asked = name.trim().to_ascii_lowercase().replace([' ', '_'], "-");
        let short = SHORT_NAMES.iter().find(|(short, _)| *short == asked);
        let asked = short.map_or(asked, |(_, full)| full.to_ascii_lowercase());
        if let Some(gpu) = all.iter().find(|gpu| gpu.name.eq_ignore_ascii_case(&asked)) {
            return Ok(gpu.clone());
        }
        let mut fitting = all.iter().filter(|gpu| names(&asked, &gpu.name));
        match (fitting.next(), fitting.next()) {
            (Some(gpu), None) => Ok(gpu.clone()),
            (None, _) => Err(LawError::UnknownGpu {
                name: name.to_owned(),
                known: list(all.iter().map(|gpu| gpu.name.as_str())),
            }),
            (Some(first), Some(second)) => Err(LawError::AmbiguousGpu {
                name: name.to_owned(),
                candidates: list([first, second].into_iter().chain(fitting).map(|g| &*g.name)),
            }),
        }
    }

    /// FLOP/s of training in 16 bits: bfloat16, or float16 on devices without it.
    ///
    /// # Errors
    /// [`LawError::NoPeak`] for devices whose rate nobody published.
    pub fn training_peak(&self) -> Result<f64> {
        let peak = self.peak.bf16.or(self.peak.fp16);
        peak.ok_or_else(|| LawError::NoPeak { gpu: self.name.clone() })
    }

    /// Whether GPUs exchange data as fast as tensor parallelism wants it.
    #[must_use]
    pub fn has_fast_link(&self) -> bool {
        self.link.starts_with("NVLink") || self.link.starts_with("Infinity")
    }

    /// Usable GiB.
    #[must_use]
    pub fn memory_gib(&self) -> f64 {
        self.memory_bytes / GIB
    }
}

impl Machine {
    /// Reads `h100` or `8xA100`; without a count it is one.
    ///
    /// # Errors
    /// As [`Gpu::find`], and [`LawError::NotPositive`] for a count of zero.
    pub fn parse(text: &str) -> Result<(Gpu, Option<usize>)> {
        let count = text.split_once(['x', 'X', '*']).and_then(|(count, name)| {
            let count = count.trim();
            let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| (count.parse::<usize>(), name))
        });
        match count {
            Some((Ok(count), name)) if count > 0 => Ok((Gpu::find(name)?, Some(count))),
            Some(_) => Err(LawError::NotPositive { text: text.to_owned() }),
            None => Ok((Gpu::find(text)?, None)),
        }
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// Whether every part of what was asked begins a part of the name: `a100-40` names A100-SXM4-40GB.
fn names(asked: &str, name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let parts: Vec<&str> = name.split('-').collect();
    let mut asked = asked.split('-').filter(|part| !part.is_empty()).peekable();
    asked.peek().is_some()
        && asked.all(|want| {
            parts.iter().any(|part| {
                let rest = part.strip_prefix(want);
                rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
            })
        })
}

/// Columns of the table: fields separated by commas, those with commas in double quotes.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match (c, quoted) {
            ('"', _) => quoted = !quoted, // a doubled quote within a field is dropped
            (',', false) => fields.push(String::new()),
            (c, _) => {
                if let Some(field) = fields.last_mut() {
                    field.push(c);
                }
            }
        }
    }
    fields
}

fn from_row(line: &str) -> Result<Gpu> {
    let fields = fields(line);
    let field = |column: usize| fields.get(column).map_or("", |field| field.trim());
    let number = |column: usize| match field(column) {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| LawError::NotANumber { text: text.to_owned() }),
    };
    let missing = || LawError::NotANumber { text: line.to_owned() };
    let tera = |column: usize| Ok::<_, LawError>(number(column)?.map(|v: f64| v * 1e12));
    let marketed: f64 = number(2)?.ok_or_else(missing)?;
    let (memory_bytes, memory_source) = match (number(3)?, field(1)) {
        (Some(mib), _) => (mib * MIB, MemorySource::Reported),
        (None, "apple") => (0.75 * marketed * GIB, MemorySource::UnifiedShare),
        (None, _) => (marketed * 1e9, MemorySource::Nominal),
    };
    Ok(Gpu {
        name: field(0).to_owned(),
        memory_bytes,
        memory_source,
        bandwidth: number(5)?.ok_or_else(missing)? * 1e9,
        peak: Peak { bf16: tera(6)?, fp16: tera(7)?, fp8: tera(9)? },
        watts: number(12)?,
        link: field(13).to_owned(),
        domain: match field(1) {
            "apple" => 1,
            _ => LINKED, // over PCIe it works as far as the slots of one server go, but slowly
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_find_their_row() {
        let cases = [
            ("h100", "H100-SXM5-80GB"),
            ("A100", "A100-SXM4-80GB"),
            ("a100-40", "A100-SXM4-40GB"),
            ("4090", "RTX-4090"),
            ("rtx 3060", "RTX-3060-12GB"),
            ("4060ti", "RTX-4060Ti-16GB"),
            ("l4", "L4"),
            ("l40s", "L40S"),
            ("h200", "H200-SXM-141GB"),
            ("h100-pcie", "H100-PCIe-80GB"),
            ("mi300x", "MI300X"),
            ("m2-ultra", "Apple-M2-Ultra"),
            ("m1", "Apple-M1"),
        ];
        for (asked, expected) in cases {
            assert_eq!(Gpu::find(asked).unwrap().name, expected, "{asked}");
        }
    }

    #[test]
    fn what_fits_several_rows_or_none_is_an_error_with_names() {
        let ambiguous = Gpu::find("m3").unwrap_err().to_string();
        assert!(ambiguous.contains("Apple-M3-Max, Apple-M3-Ultra"), "{ambiguous}");
        let unknown = Gpu::find("tpu-v5").unwrap_err().to_string();
        assert!(unknown.contains("tpu-v5") && unknown.contains("H200-SXM-141GB"), "{unknown}");
        assert!(Gpu::find("").is_err());
    }

    #[test]
    fn a_count_may_stand_before_the_name() {
        let (gpu, count) = Machine::parse("8xA100-40").unwrap();
        assert_eq!((gpu.name.as_str(), count), ("A100-SXM4-40GB", Some(8)));
        assert_eq!(Machine::parse("mi300x").unwrap().1, None);
        assert!(Machine::parse("0xh100").is_err());
    }

    #[test]
    fn peaks_are_dense_and_memory_is_what_drivers_report() {
        let h100 = Gpu::find("h100").unwrap();
        assert_eq!(h100.training_peak().unwrap(), 989.4e12); // the data sheet prints 1979
        assert!((h100.memory_gib() - 79.65).abs() < 5e-3);
        assert_eq!(Gpu::find("4090").unwrap().training_peak().unwrap(), 165.2e12);
        // No bfloat16 units before Ampere.
        let v100 = Gpu::find("v100").unwrap();
        assert_eq!((v100.peak.bf16, v100.training_peak().unwrap()), (None, 125e12));
        assert!(Gpu::find("m3-max").unwrap().training_peak().is_err());
    }
}
