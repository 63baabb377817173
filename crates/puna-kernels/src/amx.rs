//! AMX: products of whole tiles (Sapphire Rapids and later), beside AVX-512 for everything else.
//!
//! A tile is a register of up to 16 rows of 64 bytes. `tdpbf16ps` adds the product of 16 rows of 32
//! bfloat16 with 32 rows of 16 to a tile of 16 x 16 float32, in sixteen cycles: fifteen times the
//! speed of float32, and thirty times that of `vdpbf16ps` where both were measured. The instructions
//! are written out (`asm!`), as the compiler has no stable names for them. It never uses tiles itself,
//! so their configuration lasts from one block to the next.
//!
//! The system hands tiles out on request ([`is_available`]); a process that may not have them, such
//! as one behind a filter of system calls, goes on with AVX-512.

mod attention;
mod bf16;
mod fixed;
mod int8;
mod peak;
mod superblock;

pub(crate) use attention::attend;
pub(crate) use bf16::gemm_block;
pub(crate) use fixed::KERNELS as FIXED;
pub(crate) use int8::panel_tile;
pub(crate) use peak::{peak_bf16, peak_int8};

use std::arch::asm;

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;

/// Words of 32 bits in a row of a tile.
pub(crate) const WORDS: usize = 16;

/// Whether the processor has AMX for bfloat16 and bytes and the system lets this process use it.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *AVAILABLE.get_or_init(|| !cfg!(miri) && has_instructions() && request())
}

/// Intel's manual, volume 1, 18.2: leaf 7 names the instructions, XCR0 what the system saves.
fn has_instructions() -> bool {
    /// Leaf 7, register EDX: AMX-BF16, AMX-TILE, AMX-INT8.
    const INSTRUCTIONS: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    /// XCR0: the configuration of tiles and their contents.
    const STATES: u64 = 1 << 17 | 1 << 18;
    if !is_x86_feature_detected!("xsave") {
        return false;
    }
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    // SAFETY: the feature is checked above.
    leaf.edx & INSTRUCTIONS == INSTRUCTIONS && unsafe { saved_states() } & STATES == STATES
}

/// # Safety
/// The processor must have XSAVE.
#[target_feature(enable = "xsave")]
unsafe fn saved_states() -> u64 {
    // SAFETY: as this function has its feature; register 0 exists wherever XSAVE does.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}

/// Asks the system for the 8 KiB per thread that tiles take.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn request() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call reads two numbers.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn request() -> bool {
    false
}

/// Bytes per row and rows of every tile.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Eight tiles with these numbers of rows and bytes per row.
    const fn new(tiles: [(u8, u16); 8]) -> Self {
        let mut rows = [0; 16];
        let mut row_bytes = [0; 16];
        let mut tile = 0;
        while tile < 8 {
            rows[tile] = tiles[tile].0;
            row_bytes[tile] = if tiles[tile].0 > 0 { tiles[tile].1 } else { 0 };
            tile += 1;
        }
        Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    }
}

/// Tiles that this thread uses; given back when dropped, so that switches of threads need not save
/// them.
struct Tiles(());

/// All tiles full.
static FULL: Config = Config::new([(16, 64); 8]);

impl Tiles {
    /// # Safety
    /// [`is_available`], and the thread holds no other.
    unsafe fn configure(config: &Config) -> Self {
        // SAFETY: by contract; the 64 bytes are a valid configuration.
        unsafe {
            asm!(
                "ldtilecfg [{0}]", in(reg) config,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly)
            );
        }
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: this thread has configured tiles.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}
