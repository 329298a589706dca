//! Matrix products over slices.
//!
//! One register-tiled kernel: a tile of rows of the left factor times two vectors of columns of the right one, which is first
//! copied into panels of that width. Each element of the product is summed over the inner index in order, in blocks of a fixed
//! length, whatever the shapes and the number of threads: a row's result is the same bits alone and within any batch.

use rayon::prelude::*;

use crate::runtime::shares_work;
use crate::simd::{Kernel, Simd, dispatch};

/// A matrix within a slice, possibly a part of a wider one, possibly read as its transpose: one of its strides is 1.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// Where a product goes: row-major, possibly a part of a wider matrix.
pub(crate) struct Target<'a> {
    data: &'a mut [f32],
    row_stride: usize,
    /// Added to what is there instead of replacing it.
    add: bool,
}

impl<'a> Matrix<'a> {
    /// All of `data`, row-major.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::part(data, rows, columns, columns)
    }

    /// The first `columns` of rows that start `row_stride` apart.
    pub(crate) fn part(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || (rows - 1) * row_stride + columns <= data.len(), "a matrix within its slice");
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// target = scale x self x other (or added to it). With `parallel` on the rayon pool if it is worth it.
    pub(crate) fn times(self, other: Matrix<'_>, scale: f32, target: Target<'_>, parallel: bool) {
        assert_eq!(self.columns, other.rows, "inner sizes of a matrix product");
        let (m, n, k) = (self.rows, other.columns, self.columns);
        assert!(m == 0 || (m - 1) * target.row_stride + n <= target.data.len(), "a product within its slice");
        if m * n == 0 {
            return;
        }
        let parallel = parallel && m * n * k >= PARALLEL_FROM && shares_work();
        let Tile { rows, columns } = dispatch(TileSize);
        let panels = Panels::new(other, columns, m <= 2 * rows, parallel);
        let product = Product {
            a: self,
            panels: &panels,
            scale,
            add: target.add,
            out: Output(target.data.as_mut_ptr()),
            row_stride: target.row_stride,
        };
        let blocks = n.div_ceil(columns);
        if !parallel {
            return dispatch(product.part(0..m, 0..blocks));
        }
        let chunk = 4 * rows;
        let chunks = m.div_ceil(chunk);
        // Few rows: the columns are shared out as well.
        let split = if chunks < 2 * rayon::current_num_threads() { 1 } else { blocks };
        let groups = blocks.div_ceil(split);
        (0..chunks * groups).into_par_iter().for_each(|task| {
            let (row, column) = (task / groups * chunk, task % groups * split);
            dispatch(product.part(row..(row + chunk).min(m), column..(column + split).min(blocks)));
        });
    }
}

impl<'a> Target<'a> {
    /// Replaces rows that start `row_stride` apart.
    pub(crate) fn replace(data: &'a mut [f32], row_stride: usize) -> Self {
        Self { data, row_stride, add: false }
    }

    /// Adds to rows that start `row_stride` apart.
    pub(crate) fn add(data: &'a mut [f32], row_stride: usize) -> Self {
        Self { data, row_stride, add: true }
    }
}

/// Multiplications from which a product is shared among threads.
const PARALLEL_FROM: usize = 1 << 18;
/// Inner indices that are summed in registers before the sum goes to memory.
const INNER: usize = 512;

struct Tile {
    rows: usize,
    columns: usize,
}

struct TileSize;

impl Kernel for TileSize {
    type Out = Tile;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Tile {
        Tile { rows: S::TILE, columns: 2 * S::LANES }
    }
}

/// The right factor: columns in blocks of a tile's width, each block's rows one after the other.
struct Panels<'a> {
    data: std::borrow::Cow<'a, [f32]>,
    columns: usize,
    width: usize,
    row_stride: usize,
    block_stride: usize,
}

impl<'a> Panels<'a> {
    /// Copies `b`, unless it can be read where it is and `few` rows of the left factor would not pay for the copy.
    fn new(b: Matrix<'a>, width: usize, few: bool, parallel: bool) -> Self {
        let (k, n) = (b.rows, b.columns);
        if few && b.column_stride == 1 && n.is_multiple_of(width / 2) {
            return Self { data: b.data.into(), columns: n, width, row_stride: b.row_stride, block_stride: width };
        }
        let mut data = vec![0.0f32; n.div_ceil(width) * k * width];
        let fill = |(block, panel): (usize, &mut [f32])| {
            let first = block * width;
            let wanted = (n - first).min(width);
            if b.column_stride == 1 {
                for (row, panel) in panel.chunks_exact_mut(width).enumerate() {
                    let from = row * b.row_stride + first;
                    panel[..wanted].copy_from_slice(&b.data[from..from + wanted]);
                }
                return;
            }
            // A transposed factor: columns are contiguous, and read in runs short enough to write to few cache lines.
            for rows in (0..k).step_by(16) {
                for column in 0..wanted {
                    let from = (first + column) * b.column_stride + rows * b.row_stride;
                    for row in rows..(rows + 16).min(k) {
                        panel[row * width + column] = b.data[from + (row - rows) * b.row_stride];
                    }
                }
            }
        };
        // An inner size of zero leaves nothing to copy, and no size for the chunks.
        let size = (k * width).max(1);
        if parallel {
            data.par_chunks_mut(size).enumerate().for_each(fill);
        } else {
            data.chunks_mut(size).enumerate().for_each(fill);
        }
        Self { data: data.into(), columns: n, width, row_stride: width, block_stride: k * width }
    }
}

/// The product's elements, of which every task writes its own.
#[derive(Clone, Copy)]
struct Output(*mut f32);

// SAFETY: tasks write disjoint parts, see `Matrix::times`.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

#[derive(Clone, Copy)]
struct Product<'a> {
    a: Matrix<'a>,
    panels: &'a Panels<'a>,
    scale: f32,
    add: bool,
    out: Output,
    row_stride: usize,
}

/// Some rows and blocks of columns of a product.
struct Part<'a> {
    product: Product<'a>,
    rows: std::ops::Range<usize>,
    blocks: std::ops::Range<usize>,
}

impl<'a> Product<'a> {
    fn part(self, rows: std::ops::Range<usize>, blocks: std::ops::Range<usize>) -> Part<'a> {
        Part { product: self, rows, blocks }
    }
}

impl Kernel for Part<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { product, rows, blocks } = self;
        let Product { a, panels, scale, add, out, row_stride } = product;
        let mut start = 0;
        // At least one pass, so that an empty sum writes zeros.
        loop {
            let inner = (a.columns - start).min(INNER);
            for block in blocks.clone() {
                let first = block * panels.width;
                let wanted = (panels.columns - first).min(panels.width);
                for row in rows.clone().step_by(S::TILE) {
                    let tile = Operands {
                        a: a.data.as_ptr().wrapping_add(row * a.row_stride + start * a.column_stride),
                        a_row: a.row_stride,
                        a_column: a.column_stride,
                        b: panels.data.as_ptr().wrapping_add(block * panels.block_stride + start * panels.row_stride),
                        b_row: panels.row_stride,
                        inner,
                        out: out.0.wrapping_add(row * row_stride + first),
                        out_row: row_stride,
                        wanted,
                        scale,
                        add: add || start > 0,
                    };
                    let count = (rows.end - row).min(S::TILE);
                    // SAFETY: the constructors of `Matrix` and the assertions of `times` keep all rows and columns within
                    // their slices; a row of a panel has `wanted` rounded up to whole vectors of values.
                    unsafe {
                        match (wanted > S::LANES, a.column_stride == 1) {
                            (true, true) => by_count::<S, 2, true>(count, &tile),
                            (true, false) => by_count::<S, 2, false>(count, &tile),
                            (false, true) => by_count::<S, 1, true>(count, &tile),
                            (false, false) => by_count::<S, 1, false>(count, &tile),
                        }
                    }
                }
            }
            start += inner;
            if start >= a.columns {
                return;
            }
        }
    }
}

/// One tile's pointers and strides, in elements.
struct Operands {
    a: *const f32,
    a_row: usize,
    a_column: usize,
    b: *const f32,
    b_row: usize,
    inner: usize,
    out: *mut f32,
    out_row: usize,
    wanted: usize,
    scale: f32,
    add: bool,
}

#[inline(always)]
unsafe fn by_count<S: Simd, const V: usize, const BY_ROWS: bool>(count: usize, t: &Operands) {
    // SAFETY: the caller's.
    unsafe {
        match count {
            1 => tile::<S, 1, V, BY_ROWS>(t),
            2 => tile::<S, 2, V, BY_ROWS>(t),
            3 => tile::<S, 3, V, BY_ROWS>(t),
            4 => tile::<S, 4, V, BY_ROWS>(t),
            5 => tile::<S, 5, V, BY_ROWS>(t),
            6 => tile::<S, 6, V, BY_ROWS>(t),
            7 => tile::<S, 7, V, BY_ROWS>(t),
            8 => tile::<S, 8, V, BY_ROWS>(t),
            9 => tile::<S, 9, V, BY_ROWS>(t),
            10 => tile::<S, 10, V, BY_ROWS>(t),
            11 => tile::<S, 11, V, BY_ROWS>(t),
            12 => tile::<S, 12, V, BY_ROWS>(t),
            13 => tile::<S, 13, V, BY_ROWS>(t),
            14 => tile::<S, 14, V, BY_ROWS>(t),
            count => unreachable!("a tile of {count} rows"),
        }
    }
}

/// `P` rows x `V` vectors of columns, held in registers over the inner index. The left factor is contiguous along rows
/// (`BY_ROWS`) or along columns.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "through iterators the sums would not stay in registers")]
unsafe fn tile<S: Simd, const P: usize, const V: usize, const BY_ROWS: bool>(t: &Operands) {
    // SAFETY: the caller's, see `Part::run`.
    unsafe {
        let mut acc = [[S::splat(0.0); V]; P];
        let mut b = t.b;
        // Opaque, or the compiler derives each row's address from the one before, again and again.
        let rows: [*const f32; P] = std::hint::black_box(std::array::from_fn(|p| t.a.add(p * t.a_row)));
        let mut column = t.a;
        for i in 0..t.inner {
            let row: [S::V; V] = std::array::from_fn(|v| S::load(b.add(v * S::LANES)));
            for p in 0..P {
                let x = S::splat(if BY_ROWS { *rows[p].add(i) } else { *column.add(p) });
                for v in 0..V {
                    acc[p][v] = S::fma(x, row[v], acc[p][v]);
                }
            }
            b = b.wrapping_add(t.b_row);
            column = column.wrapping_add(t.a_column);
        }
        // By constant indices only: with a variable one the sums would be kept in memory from the start.
        let first: [S::V; P] = std::array::from_fn(|p| acc[p][0]);
        finish::<S, P>(t, 0, first);
        if V > 1 {
            let last: [S::V; P] = std::array::from_fn(|p| acc[p][V - 1]);
            finish::<S, P>(t, S::LANES, last);
        }
    }
}

/// Scales and stores one vector of each row of a tile, from `column` on.
#[inline(always)]
unsafe fn finish<S: Simd, const P: usize>(t: &Operands, column: usize, sums: [S::V; P]) {
    let rest = t.wanted - column;
    // SAFETY: the caller's, see `Part::run`.
    unsafe {
        let scale = S::splat(t.scale);
        for (p, sum) in sums.into_iter().enumerate() {
            let at = t.out.add(p * t.out_row + column);
            let value = if t.add { S::fma(sum, scale, S::load_n(at, rest)) } else { S::mul(sum, scale) };
            S::store_n(at, rest, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 11) % 19) as f32 - 9.0).collect()
    }

    /// Small integers: every order of summation is exact.
    #[test]
    fn products_of_all_shapes_strides_and_transpositions() {
        let sizes =
            [(1, 1, 1), (3, 5, 2), (14, 32, 4), (15, 33, 7), (29, 16, 600), (1, 48, 9), (130, 70, 65), (2, 3, 0)];
        for (m, n, k) in sizes {
            let (a, b) = (sequence(m * (k + 2), 1), sequence((n + 3) * (k + 3), 2));
            for transposed in 0..4 {
                let a = match transposed & 1 {
                    0 => Matrix::part(&a, m, k, k + 2),
                    _ => Matrix::new(&a, k, m).transposed(),
                };
                let b = match transposed & 2 {
                    0 => Matrix::part(&b, k, n, n + 3),
                    _ => Matrix::part(&b, n, k, k + 3).transposed(),
                };
                for (parallel, add) in [(false, false), (true, false), (true, true)] {
                    let mut out = vec![1.0; m * (n + 1)];
                    let target = if add { Target::add(&mut out, n + 1) } else { Target::replace(&mut out, n + 1) };
                    let target = Target { data: &mut target.data[..m * (n + 1) - 1], ..target };
                    a.times(b, 2.0, target, parallel);
                    for i in 0..m {
                        for j in 0..n {
                            let at =
                                |x: &Matrix<'_>, i: usize, j: usize| x.data[i * x.row_stride + j * x.column_stride];
                            let sum: f32 = (0..k).map(|c| at(&a, i, c) * at(&b, c, j)).sum();
                            let expected = 2.0 * sum + if add { 1.0 } else { 0.0 };
                            assert_eq!(out[i * (n + 1) + j], expected, "{m} {n} {k}: {i} {j}");
                        }
                        assert_eq!(out[i * (n + 1) + n], 1.0, "outside the product");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_is_the_same_bits_in_any_batch() {
        let (rows, inner, columns) = (200, 700, 50);
        let noise = |len: usize| -> Vec<f32> { (0..len).map(|i| ((i as f32) * 12.9898).sin()).collect() };
        let (a, b) = (noise(rows * inner), noise(inner * columns));
        let product = |a: &[f32]| {
            let mut out = vec![0.0; a.len() / inner * columns];
            let target = Target::replace(&mut out, columns);
            Matrix::new(a, a.len() / inner, inner).times(
                Matrix::new(&b, columns, inner).transposed(),
                1.0,
                target,
                true,
            );
            out
        };
        let all = product(&a);
        for row in [0, 13, 14, 199] {
            assert_eq!(product(&a[row * inner..(row + 1) * inner]), all[row * columns..(row + 1) * columns]);
        }
    }
}
