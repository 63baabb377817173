//! What this machine can do at most: bytes read per second and arithmetic per second.
//!
//! A speed says little without its limit. Decoding one sequence reads every weight once per token,
//! so memory bounds it; a long prompt multiplies each weight by hundreds of tokens, so arithmetic
//! does. Both limits are measured here, on the same pool as the kernels, because data sheets know
//! neither the clock under vector load nor what a shared machine leaves over.
//!
//! The loops are written with the instructions themselves, as a limit must not depend on what a
//! compiler makes of a portable loop. They share nothing with the kernels: a limit measured with
//! the code that it judges would judge nothing. Everything is the best of several runs; the whole
//! takes below three seconds.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::hint::black_box;
use std::time::Instant;

use crate::parallel::for_each_chunk_mut;
use crate::{Isa, Kernels, pool};

/// Bytes that are read to measure memory: far above any shared cache.
const BUFFER_BYTES: usize = 512 << 20;

/// Bytes of a task of reading.
const READ_CHUNK: usize = 1 << 20;

/// Passes over the buffer, and runs of an arithmetic loop, of which the best counts.
const RUNS: usize = 16;

/// Seconds that the runs of one measurement may take together; two runs are made whatever they take.
const PATIENCE_SECS: f64 = 0.4;

/// Tasks per thread of an arithmetic loop, so that a thread that starts late costs little.
const TASKS_PER_THREAD: usize = 24;

/// Turns of an arithmetic loop in one task: some hundred microseconds.
const TURNS: usize = 1 << 17;

/// The measured limits of this machine for a number of threads.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineLimits {
    /// Threads that ran.
    pub threads: usize,
    /// Bytes per second that the threads together read from memory.
    pub read_bytes_per_sec: f64,
    /// Arithmetic of the instruction sets with vector loops, up to what the kernels use, which is last.
    pub peaks: Vec<IsaPeak>,
}

/// The most arithmetic per second of one instruction set; a multiply and an add are two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IsaPeak {
    /// The instruction set.
    pub isa: Isa,
    /// Fused multiply-adds of f32.
    pub f32_flops_per_sec: f64,
    /// Dot products of bfloat16 pairs into f32; `None` where there is no instruction for it.
    pub bf16_flops_per_sec: Option<f64>,
    /// Dot products of four unsigned with four signed bytes into i32. AVX2 takes three
    /// instructions for it, of which only the multiplications and additions of the dot product
    /// count.
    pub int8_ops_per_sec: f64,
}

impl MachineLimits {
    /// Measures with the number of threads that kernels use here ([`crate::with_threads`] changes
    /// it).
    #[must_use]
    pub fn measure() -> Self {
        // Others have the loops of a better one.
        let used = Kernels::get().isa();
        let counts =
            |isa: &Isa| *isa == used || (*isa < used && matches!(isa, Isa::Avx2 | Isa::Avx512Bf16));
        let peaks = Isa::ALL.iter().copied().filter(counts).filter_map(peak).collect();
        Self { threads: pool::threads(), read_bytes_per_sec: read_speed(), peaks }
    }

    /// The arithmetic alone, of the instruction set that the kernels use: quick, and without the
    /// buffer that memory's speed takes.
    #[must_use]
    pub fn measure_peak() -> Option<IsaPeak> {
        peak(Kernels::get().isa())
    }

    /// The limits of the instruction set that the kernels use.
    #[must_use]
    pub fn best_peak(&self) -> Option<&IsaPeak> {
        self.peaks.last()
    }
}

/// An arithmetic loop of `x86`: turns in, operations done out.
type PeakLoop = unsafe fn(usize) -> u64;

fn peak(isa: Isa) -> Option<IsaPeak> {
    Kernels::for_isa(isa)?;
    #[cfg(target_arch = "x86_64")]
    let (f32, bf16, int8): (PeakLoop, Option<PeakLoop>, PeakLoop) = match isa {
        Isa::Avx2 => (x86::avx2_f32, None, x86::avx2_int8),
        Isa::AvxVnni => (x86::avx2_f32, None, x86::avx_vnni_int8),
        Isa::Avx512 => (x86::avx512_f32, None, x86::avx512_int8),
        Isa::Avx512Bf16 => (x86::avx512_f32, Some(x86::avx512_bf16), x86::avx512_int8),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => (x86::avx512_f32, Some(crate::amx::peak_bf16), crate::amx::peak_int8),
        Isa::Scalar => return None,
    };
    #[cfg(not(target_arch = "x86_64"))]
    let (f32, bf16, int8): (PeakLoop, Option<PeakLoop>, PeakLoop) = return None;
    Some(IsaPeak {
        isa,
        f32_flops_per_sec: arithmetic_speed(f32),
        bf16_flops_per_sec: bf16.map(arithmetic_speed),
        int8_ops_per_sec: arithmetic_speed(int8),
    })
}

/// Operations per second of a loop whose instructions the machine has.
fn arithmetic_speed(body: PeakLoop) -> f64 {
    let mut operations = vec![0u64; pool::threads() * TASKS_PER_THREAD];
    let secs = best_secs(|| {
        for_each_chunk_mut(&mut operations, 1, |_, done| {
            // SAFETY: `peak` takes loops only of instruction sets that `Kernels::for_isa` found.
            done[0] = unsafe { body(black_box(TURNS)) };
        });
    });
    operations.iter().sum::<u64>() as f64 / secs
}

fn read_speed() -> f64 {
    let mut buffer = vec![0u8; buffer_bytes()];
    // The threads that read also write first: fresh zero pages are all one page.
    for_each_chunk_mut(&mut buffer, READ_CHUNK, |_, chunk| chunk.fill(1));
    let read = reader();
    let mut sums = vec![0u64; buffer.len() / READ_CHUNK];
    let secs = best_secs(|| {
        for_each_chunk_mut(&mut sums, 1, |i, sum| {
            let chunk = &buffer[i * READ_CHUNK..(i + 1) * READ_CHUNK];
            // SAFETY: `reader` gives a loop whose instructions the machine has.
            sum[0] = unsafe { read(chunk) };
        });
        black_box(&sums);
    });
    buffer.len() as f64 / secs
}

/// Folds the bytes of a slice, a multiple of 1 KiB long.
type Reader = unsafe fn(&[u8]) -> u64;

fn reader() -> Reader {
    #[cfg(target_arch = "x86_64")]
    match Kernels::get().isa() {
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => return x86::avx512_read,
        Isa::Avx2 | Isa::AvxVnni => return x86::avx2_read,
        Isa::Scalar => {}
    }
    |bytes| bytes.as_chunks::<8>().0.iter().fold(0, |sum, b| sum | u64::from_le_bytes(*b))
}

/// Bytes of memory that this process can have without others being pushed out, within the limit of its
/// container; `None` where the system does not say.
#[must_use]
pub fn available_memory() -> Option<usize> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let free = number_behind(&read("/proc/meminfo")?, "MemAvailable:")?.saturating_mul(1024);
    // A container sees its own control group (cgroup v2) at the root.
    let group = |name: &str| read(&format!("/sys/fs/cgroup/memory.{name}"));
    let left =
        group("max").and_then(|max| left_of_limit(&max, &group("current")?, &group("stat")?));
    Some(free.min(left.unwrap_or(usize::MAX)))
}

/// A number behind a name at the beginning of a line.
fn number_behind(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What a limit leaves, where files' pages do not count, as they can go; `None` for `max`, no limit.
fn left_of_limit(max: &str, current: &str, stat: &str) -> Option<usize> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let used = number(current)?.saturating_sub(number_behind(stat, "file ")?);
    Some(number(max)?.saturating_sub(used))
}

/// [`BUFFER_BYTES`], or a quarter of the free memory where that is less; a multiple of
/// [`READ_CHUNK`].
fn buffer_bytes() -> usize {
    let quarter = available_memory().map_or(usize::MAX, |free| free / 4);
    (quarter.min(BUFFER_BYTES) / READ_CHUNK).max(1) * READ_CHUNK
}

/// The shortest of several runs after one that wakes threads and clock.
fn best_secs(mut run: impl FnMut()) -> f64 {
    run();
    let all = Instant::now();
    let mut best = f64::INFINITY;
    for count in 0..RUNS {
        if count >= 2 && all.elapsed().as_secs_f64() > PATIENCE_SECS {
            break;
        }
        let started = Instant::now();
        run();
        best = best.min(started.elapsed().as_secs_f64());
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_limit_leaves_what_is_not_used_or_files_pages() {
        let stat = "anon 50\nfile 300\nfile_mapped 200\n";
        assert_eq!(left_of_limit("1000\n", "400\n", stat), Some(900));
        assert_eq!(left_of_limit("max\n", "400\n", stat), None);
        assert_eq!(left_of_limit("50", "400", stat), Some(0));
        assert_eq!(left_of_limit("1000", "400", "anon 50"), None);
        assert_eq!(
            number_behind("MemFree: 3 kB\nMemAvailable:   12 kB\n", "MemAvailable:"),
            Some(12)
        );
    }

    #[test]
    fn limits_are_positive_and_wider_instructions_are_not_slower_by_half() {
        let limits = crate::with_threads(1, MachineLimits::measure);
        assert_eq!(limits.threads, 1);
        assert!(limits.read_bytes_per_sec > 1e8, "{limits:?}");
        for peak in &limits.peaks {
            assert!(peak.f32_flops_per_sec > 1e8, "{limits:?}");
            assert!(peak.int8_ops_per_sec > 0.5 * peak.f32_flops_per_sec, "{limits:?}");
        }
        if let [narrow, wide] = limits.peaks[..] {
            assert!(wide.f32_flops_per_sec > 0.5 * narrow.f32_flops_per_sec, "{limits:?}");
        }
    }
}
