//! Matrix products over slices.

use gemm::Parallelism;

/// A matrix within a slice, possibly a part of a wider one, possibly read as its transpose.
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

    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// target = scale x self x other (or added to it). With `parallel` on the rayon pool if it is large enough.
    pub(crate) fn times(self, other: Matrix<'_>, scale: f32, target: Target<'_>, parallel: bool) {
        assert_eq!(self.columns, other.rows, "inner sizes of a matrix product");
        let Target { data, row_stride, add } = target;
        let (m, n) = (self.rows, other.columns);
        assert!(m == 0 || (m - 1) * row_stride + n <= data.len(), "a product within its slice");
        // SAFETY: the strides describe matrices that lie within their slices, by the assertions here and in `part`.
        unsafe {
            gemm::gemm(
                m,
                n,
                self.columns,
                data.as_mut_ptr(),
                1,
                row_stride as isize,
                add,
                self.data.as_ptr(),
                self.column_stride as isize,
                self.row_stride as isize,
                other.data.as_ptr(),
                other.column_stride as isize,
                other.row_stride as isize,
                1.0,
                scale,
                false,
                false,
                false,
                if parallel { Parallelism::Rayon(0) } else { Parallelism::None },
            );
        }
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
