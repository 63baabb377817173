//! Attention to pages of f16 and 8-bit values, in tiles of bfloat16.
//!
//! Each factor is the sum of two bfloat16, `x = h + l`: keys and values of f16 exactly, 8-bit ones,
//! queries and weights to 2^-16. Tiles sum up `h l'`, `h h'` and `l h'`; `l l'`, at most 2^-16 of a product
//! and of either sign, is left out. All of it is far below what rounding keys and values to f16 costs. A
//! single query gets the same bits as one among many: rows of a tile do not depend on each other.
//!
//! Keys are transposed in their page, and values are rows of features: pairs of rows, zipped, are the
//! right-hand tiles of both products.

mod sums;

use super::{Config, ROWS, Tiles, WORDS};
use crate::attention::{
    self, Expanded, Halfs, HeadPage, HeadTask, KV_PAGE, KvPage, KvType, PageKernel, Rows, Scratch,
    Singles, Values,
};
use crate::kernels::Kernels;
use crate::line::Line;
use crate::math;
use crate::simd::{Avx512Bf16, LANES, Simd};
use std::arch::x86_64::{
    __m512, __m512i, _mm512_loadu_si512, _mm512_permutex2var_epi16, _mm512_ternarylogic_epi32,
};
use std::ops::Range;
use sums::{Sums, add, begin};

/// Columns of outputs that are computed together: four tiles.
const COLS: usize = 4 * WORDS;

/// Elements of a row of a left-hand tile: twice the rows of a right-hand one, which are pairs.
const STEP: usize = 2 * WORDS;

/// Bits of the larger bfloat16 of a float, cut off.
const HIGH: i32 = -0x1_0000;

/// The high words of two vectors, in order.
static HIGH_WORDS: [u16; 32] = {
    let mut words = [0; 32];
    let mut i = 0;
    while i < 32 {
        words[i] = 2 * i as u16 + 1;
        i += 1;
    }
    words
};

/// Runs a task: in tiles if its pages do not hold f32.
///
/// # Safety
/// As for [`attention::attend`]; this machine must have AMX, and `avx512` be its table.
pub(crate) unsafe fn attend(avx512: &Kernels, task: &HeadTask) {
    // SAFETY: by contract.
    unsafe {
        match task.kv_type() {
            KvType::F32 => avx512.attend(task),
            KvType::F16 | KvType::Q8_0 => attend_in_tiles(task),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
unsafe fn attend_in_tiles(task: &HeadTask) {
    let rows = (task.count().min(ROWS) as u8, 64);
    let all = (ROWS as u8, 64);
    let config = Config::new([rows, rows, rows, rows, rows, rows, all, all]);
    // SAFETY: by contract.
    unsafe {
        let _tiles = Tiles::configure(&config);
        attention::attend_by::<_, InTiles>(Avx512Bf16::assume(), task);
    }
}

/// Some rows of bfloat16 or of pairs of them: of each the large parts and the small ones behind. So both
/// parts use all of a cache, and loads of a page are not taken for loads of what was stored just before,
/// as they would be if their addresses were equal in twelve bits.
#[derive(Clone, Copy)]
struct Digits {
    at: *mut u8,
    /// Bytes from row to row.
    row: usize,
    /// Bytes from large parts to small ones.
    low: usize,
}

impl Digits {
    fn from(self, byte: usize) -> Self {
        Self { at: self.at.wrapping_add(byte), ..self }
    }

    /// # Safety
    /// Both parts must be writable there.
    #[inline(always)]
    unsafe fn store(self, s: Avx512Bf16, byte: usize, [high, low]: [__m512i; 2]) {
        // SAFETY: by contract.
        unsafe {
            s.store_i(self.at.add(byte), high);
            s.store_i(self.at.add(byte + self.low), low);
        }
    }
}

/// Where the parts of the scratch lie.
struct Places {
    dim: usize,
    padded: usize,
    /// Features in whole steps, and in whole rows of outputs.
    steps: usize,
    wide: usize,
    /// Groups of 16 rows that are taken together.
    groups: usize,
}

impl Places {
    fn new(task: &HeadTask<'_>) -> Self {
        let (dim, padded) = task.dims();
        let (steps, wide) = (dim.next_multiple_of(STEP), dim.next_multiple_of(COLS));
        Self { dim, padded, steps, wide, groups: task.count().div_ceil(ROWS).min(2) }
    }

    /// Rows that are taken together: a unit.
    fn rows(&self) -> usize {
        self.groups * ROWS
    }

    /// A unit's queries.
    fn queries(&self, scratch: &Scratch, unit: usize) -> Digits {
        let at = scratch.q.wrapping_add(unit * self.rows() * self.steps).cast();
        Digits { at, row: 4 * self.steps, low: 2 * self.steps }
    }

    /// `[D / 2][64]` pairs of features.
    fn keys(&self, scratch: &Scratch) -> Digits {
        Digits { at: scratch.page.cast(), row: 8 * KV_PAGE, low: 4 * KV_PAGE }
    }

    /// `[64 / 2][D]` pairs of keys.
    fn values(&self, scratch: &Scratch) -> Digits {
        let at = scratch.page.wrapping_add(self.steps * KV_PAGE).cast();
        Digits { at, row: 8 * self.wide, low: 4 * self.wide }
    }

    /// A page as f32.
    fn floats(&self, scratch: &Scratch) -> *mut f32 {
        scratch.page.wrapping_add((self.steps + self.wide) * KV_PAGE)
    }

    /// `[rows][64]`, scores of a unit.
    fn scores(&self, scratch: &Scratch, unit: usize) -> *mut f32 {
        scratch.more.wrapping_add(unit * self.rows() * KV_PAGE)
    }

    /// A unit's weights, which take the place of their scores: a row's large parts and its small ones.
    fn weights(&self, scratch: &Scratch, unit: usize) -> Digits {
        Digits { at: self.scores(scratch, unit).cast(), row: 4 * KV_PAGE, low: 2 * KV_PAGE }
    }

    /// `[rows][wide]`, sums of a single row.
    fn sums(&self, scratch: &Scratch, task: &HeadTask<'_>) -> *mut f32 {
        scratch.more.wrapping_add(task.count().next_multiple_of(self.rows()) * KV_PAGE)
    }
}

struct InTiles;

impl PageKernel<Avx512Bf16> for InTiles {
    fn sizes(task: &HeadTask<'_>) -> [usize; 3] {
        let places = Places::new(task);
        let Places { dim, padded, steps, wide, .. } = places;
        let floats = if task.kv_type() == KvType::Q8_0 { dim + padded } else { 0 };
        let rows = task.count().next_multiple_of(places.rows());
        [rows * steps, (steps + wide + floats) * KV_PAGE, rows * KV_PAGE + places.rows() * wide]
    }

    fn row(task: &HeadTask<'_>) -> usize {
        Places::new(task).wide
    }

    #[inline(always)]
    unsafe fn pack(s: Avx512Bf16, task: &HeadTask<'_>, scratch: &Scratch) {
        let places = Places::new(task);
        let scale = s.splat(task.scores().scale);
        for r in 0..task.count() {
            let to = places.queries(scratch, r / places.rows());
            for (index, q) in task.query(r).chunks(STEP).enumerate() {
                let mut step = [0f32; STEP];
                let mut from = q.as_ptr();
                if q.len() < STEP {
                    step[..q.len()].copy_from_slice(q);
                    from = step.as_ptr();
                }
                // SAFETY: rows of the task, whole steps.
                unsafe {
                    let (a, b) =
                        (s.mul(s.load(from), scale), s.mul(s.load(from.add(LANES)), scale));
                    to.store(s, r % places.rows() * to.row + index * 2 * STEP, in_order(s, a, b));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn attend(
        s: Avx512Bf16,
        task: &HeadTask<'_>,
        scratch: &Scratch,
        pages: (&KvPage, &KvPage),
        visible: &[Range<usize>],
    ) {
        let places = Places::new(task);
        let few = places.groups == 1;
        // SAFETY: by contract.
        unsafe {
            let to = (scratch, &places);
            match attention::expand(s, task, pages, places.floats(scratch), (true, true)) {
                Expanded::Singles(page) if few => {
                    attend_page::<Singles, 1>(s, task, to, page, visible);
                }
                Expanded::Halfs(page) if few => {
                    attend_page::<Halfs, 1>(s, task, to, page, visible);
                }
                Expanded::Singles(page) => attend_page::<Singles, 2>(s, task, to, page, visible),
                Expanded::Halfs(page) => attend_page::<Halfs, 2>(s, task, to, page, visible),
            }
        }
    }
}

/// The sum of two bfloat16 per lane, those of `a`, then those of `b`; the larger ones are rounded, so that
/// the smaller ones have either sign.
#[inline(always)]
fn in_order(s: Avx512Bf16, a: __m512, b: __m512) -> [__m512i; 2] {
    let (half, upper) = (s.splat_i(0x8000), s.splat_i(HIGH));
    let a_high = s.and_i(s.add_i(s.bits(a), half), upper);
    let b_high = s.and_i(s.add_i(s.bits(b), half), upper);
    // SAFETY: the instructions exist, as `s` shows.
    let high = unsafe {
        let order = _mm512_loadu_si512(HIGH_WORDS.as_ptr().cast());
        _mm512_permutex2var_epi16(a_high, order, b_high)
    };
    [high, s.round_bf16(s.sub(a, s.of_bits(a_high)), s.sub(b, s.of_bits(b_high)))]
}

/// The same, cut off: those of `a` in the low halves of words and those of `b` in the high ones. What is
/// left of an f16 by its larger part fits into the smaller one.
#[inline(always)]
fn in_pairs(s: Avx512Bf16, a: __m512, b: __m512) -> [__m512i; 2] {
    let upper = s.splat_i(HIGH);
    let (a_bits, b_bits) = (s.bits(a), s.bits(b));
    let a_low = s.bits(s.sub(a, s.of_bits(s.and_i(a_bits, upper))));
    let b_low = s.bits(s.sub(b, s.of_bits(s.and_i(b_bits, upper))));
    // SAFETY: the instructions exist, as `s` shows.
    unsafe {
        [
            _mm512_ternarylogic_epi32::<0xca>(upper, b_bits, s.shr_i(a_bits, 16)),
            _mm512_ternarylogic_epi32::<0xca>(upper, b_low, s.shr_i(a_low, 16)),
        ]
    }
}

/// All rows against a page, units of `G` times 16.
///
/// # Safety
/// As for [`PageKernel::attend`]; the page is the task's.
#[inline(always)]
unsafe fn attend_page<E: Values<Avx512Bf16>, const G: usize>(
    s: Avx512Bf16,
    task: &HeadTask<'_>,
    (scratch, places): (&Scratch, &Places),
    page: HeadPage,
    visible: &[Range<usize>],
) {
    let seen = visible.iter().filter(|seen| !seen.is_empty());
    let first = seen.clone().map(|seen| seen.start).min().unwrap_or(0);
    let all = first..seen.map(|seen| seen.end).max().unwrap_or(0);
    let same = visible.iter().all(|seen| *seen == all);
    let page = Operand { page, places, keys: places.keys(scratch), values: places.values(scratch) };
    // Few rows take a page step by step, from the first-level cache; for many it is made ready once.
    let by_steps = G == 1 && same;
    let rows = places.rows();
    let units =
        || visible.chunks(rows).enumerate().filter(|(_, seen)| !seen.iter().all(Range::is_empty));
    // SAFETY: by contract; the scratch has room for all of it.
    unsafe {
        if !by_steps {
            page.pair_keys::<E>(s, 0..places.steps);
        }
        for (unit, _) in units() {
            let to = places.scores(scratch, unit);
            page.score::<E, G>(s, places.queries(scratch, unit), by_steps, to);
        }
        for (unit, visible) in units() {
            for (group, visible) in visible.chunks(ROWS).enumerate() {
                weigh(s, task, (scratch, places), unit * rows + group * ROWS, visible);
            }
        }
        let mut finite = true;
        if !by_steps {
            let largest = page.pair_values::<E>(s, (0..KV_PAGE, 0..places.padded), &all);
            finite = same || f32::from_bits(largest).is_finite();
        }
        for (unit, visible) in units() {
            let weights = places.weights(scratch, unit);
            let out = scratch.out.add(unit * rows * places.wide);
            if finite {
                page.mix::<E, G>(s, weights, by_steps.then_some(&all), out);
                continue;
            }
            for (r, seen) in visible.iter().enumerate() {
                let to = (out.add(r * places.wide), places.sums(scratch, task));
                page.mix_alone::<E, G>(s, (weights, r), seen, to);
            }
        }
    }
}

/// Turns scores of up to 16 rows, the first of which is row `first` of the task, into weights, and brings
/// their sums so far to the new maxima.
///
/// # Safety
/// As for [`attend_page`].
#[inline(always)]
unsafe fn weigh(
    s: Avx512Bf16,
    task: &HeadTask<'_>,
    (scratch, places): (&Scratch, &Places),
    first: usize,
    visible: &[Range<usize>],
) {
    let mut seen = [const { 0..0 }; ROWS];
    seen[..visible.len()].clone_from_slice(visible);
    // SAFETY: by contract.
    unsafe {
        let (out, scores) =
            (scratch.out.add(first * places.wide), places.scores(scratch, 0).add(first * KV_PAGE));
        let to = places.weights(scratch, 0).from(first * 4 * KV_PAGE);
        let (max, sum) = (scratch.max.add(first), scratch.sum.add(first * LANES));
        let rows = Rows { q: scratch.q, weights: scores, out, max, sum, visible: &seen };
        let (corrections, shifts) = attention::maxima::<_, ROWS>(s, &rows, task.scores());
        for (r, seen) in visible.iter().enumerate() {
            let mut weights = [s.splat(0.0); KV_PAGE / LANES];
            if !seen.is_empty() {
                let (correction, shift) = (s.splat(corrections[r]), s.splat(shifts[r]));
                let sum = sum.add(r * LANES);
                let mut total = s.mul(s.load(sum), correction);
                for (v, weight) in weights.iter_mut().enumerate() {
                    let score = s.load(scores.add(r * KV_PAGE + v * LANES));
                    *weight = math::exp(s, s.sub(score, shift));
                    total = s.add(total, *weight);
                }
                s.store(sum, total);
                if corrections[r] != 1.0 {
                    let out = out.add(r * places.wide);
                    for at in (0..places.padded).step_by(LANES) {
                        s.store(out.add(at), s.mul(s.load(out.add(at)), correction));
                    }
                }
            }
            let [a, b, c, d] = weights;
            to.store(s, r * to.row, in_order(s, a, b));
            to.store(s, r * to.row + 2 * STEP, in_order(s, c, d));
        }
    }
}

/// Lane vectors of a row of a page.
#[derive(Clone, Copy)]
struct Vectors {
    at: *const u8,
    /// Bytes from one to the next.
    step: usize,
}

impl Vectors {
    /// Zeros where the row is not one.
    #[inline(always)]
    fn new<E: Values<Avx512Bf16>>(row: *const u8, is_one: bool) -> Self {
        static ZEROS: Line = Line::ZERO;
        if is_one {
            Self { at: row, step: LANES * E::BYTES }
        } else {
            Self { at: (&raw const ZEROS).cast(), step: 0 }
        }
    }

    /// # Safety
    /// The row must be readable.
    #[inline(always)]
    unsafe fn load<E: Values<Avx512Bf16>>(self, s: Avx512Bf16, v: usize) -> __m512 {
        // SAFETY: by contract.
        unsafe { E::load(s, self.at.add(v * self.step)) }
    }
}

/// A page as right-hand operands.
struct Operand<'a> {
    page: HeadPage,
    places: &'a Places,
    keys: Digits,
    values: Digits,
}

impl Operand<'_> {
    /// Some rows of K^T, which are features, in pairs; zeros behind the last one.
    ///
    /// # Safety
    /// The page must be readable, and the pairs have room.
    #[inline(always)]
    unsafe fn pair_keys<E: Values<Avx512Bf16>>(&self, s: Avx512Bf16, features: Range<usize>) {
        let (ahead, bytes) = (self.page.ahead.0, self.page.ahead.2);
        // SAFETY: by contract; any address may be fetched.
        unsafe {
            for d in features.clone().step_by(2) {
                for line in 0..2 * KV_PAGE * bytes / 64 {
                    s.prefetch(ahead.wrapping_add(d * KV_PAGE * bytes + 64 * line));
                }
                let [a, b] = [d, d + 1].map(|d| {
                    let row = self.page.k.wrapping_add(d * KV_PAGE * E::BYTES);
                    Vectors::new::<E>(row, d < self.places.dim)
                });
                let to = self.keys.from((d - features.start) / 2 * self.keys.row);
                for v in 0..KV_PAGE / LANES {
                    to.store(s, 64 * v, in_pairs(s, a.load::<E>(s, v), b.load::<E>(s, v)));
                }
            }
        }
    }

    /// Some features of some rows of V, which are keys, in pairs; those that are not seen are zero. Returns
    /// the bits of the largest absolute value.
    ///
    /// # Safety
    /// As for [`Self::pair_keys`].
    #[inline(always)]
    unsafe fn pair_values<E: Values<Avx512Bf16>>(
        &self,
        s: Avx512Bf16,
        (keys, features): (Range<usize>, Range<usize>),
        seen: &Range<usize>,
    ) -> u32 {
        let (padded, to) = (self.places.padded, self.values);
        let (ahead, bytes) = (self.page.ahead.1, self.page.ahead.2);
        let (size, mut largest) = (s.splat_i(i32::MAX), s.splat_i(0));
        // SAFETY: by contract; any address may be fetched.
        unsafe {
            for key in keys.clone().step_by(2) {
                for line in 0..(2 * features.len() * bytes).div_ceil(64) {
                    let line = 2 * features.start * bytes + 64 * line;
                    s.prefetch(ahead.wrapping_add(key * padded * bytes + line));
                }
                let [a, b] = [key, key + 1].map(|key| {
                    let row = self.page.v.wrapping_add((key * padded + features.start) * E::BYTES);
                    Vectors::new::<E>(row, seen.contains(&key))
                });
                let to = to.from((key - keys.start) / 2 * to.row);
                for v in 0..features.len() / LANES {
                    let (a, b) = (a.load::<E>(s, v), b.load::<E>(s, v));
                    largest = s.max_i(largest, s.and_i(s.bits(a), size));
                    largest = s.max_i(largest, s.and_i(s.bits(b), size));
                    to.store(s, 64 * v, in_pairs(s, a, b));
                }
            }
        }
        s.reduce_max_i(largest).cast_unsigned()
    }

    /// A unit's queries times keys: `[rows][64]`.
    ///
    /// # Safety
    /// As for [`Self::pair_keys`]; where it is not taken by steps, keys are in pairs already.
    #[inline(always)]
    unsafe fn score<E: Values<Avx512Bf16>, const G: usize>(
        &self,
        s: Avx512Bf16,
        queries: Digits,
        by_steps: bool,
        to: *mut f32,
    ) {
        // SAFETY: by contract.
        unsafe {
            for part in 0..G {
                let to = Sums { at: to.add(part * COLS / G), row: KV_PAGE };
                begin();
                for step in 0..self.places.steps / STEP {
                    let mut keys = self.keys.from(part * 4 * COLS / G);
                    if by_steps {
                        self.pair_keys::<E>(s, step * STEP..(step + 1) * STEP);
                    } else {
                        keys = keys.from(step * ROWS * keys.row);
                    }
                    add::<G>(queries.from(step * 2 * STEP), keys);
                }
                to.store::<G>();
            }
        }
    }

    /// Adds a unit's weights times values to its sums. `seen` are the keys whose values have to be taken
    /// from the page; else they are in pairs already.
    ///
    /// # Safety
    /// As for [`Self::score`].
    #[inline(always)]
    unsafe fn mix<E: Values<Avx512Bf16>, const G: usize>(
        &self,
        s: Avx512Bf16,
        weights: Digits,
        seen: Option<&Range<usize>>,
        to: *mut f32,
    ) {
        let Places { padded, wide, .. } = *self.places;
        // SAFETY: by contract.
        unsafe {
            for at in (0..wide).step_by(COLS / G) {
                let to = Sums { at: to.add(at), row: wide };
                to.load::<G>();
                for step in 0..KV_PAGE / STEP {
                    let mut values = self.values;
                    if let Some(seen) = seen {
                        let features = at..padded.min(at + COLS / G).max(at);
                        self.pair_values::<E>(s, (step * STEP..(step + 1) * STEP, features), seen);
                    } else {
                        values = values.from(step * ROWS * values.row + 4 * at);
                    }
                    add::<G>(weights.from(step * 2 * STEP), values);
                }
                to.store::<G>();
            }
        }
    }

    /// The same for row `r` of the weights alone: a weight of zero does not hide a value that is not a number.
    /// `out` are its sums, `own` has room for a unit's.
    ///
    /// # Safety
    /// As for [`Self::mix`].
    #[inline(always)]
    unsafe fn mix_alone<E: Values<Avx512Bf16>, const G: usize>(
        &self,
        s: Avx512Bf16,
        (weights, r): (Digits, usize),
        seen: &Range<usize>,
        (out, own): (*mut f32, *mut f32),
    ) {
        // SAFETY: by contract.
        unsafe {
            let to = own.add(r * self.places.wide);
            std::ptr::copy_nonoverlapping(out, to, self.places.wide);
            self.mix::<E, G>(s, weights, Some(seen), own);
            std::ptr::copy_nonoverlapping(to, out, self.places.wide);
        }
    }
}
