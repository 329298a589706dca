//! Augmented views of images, rendered where the images lie.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::raw;
use crate::{Error, Result};

/// What is seen of one image: it is mirrored, moved, and a rectangle is erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct View {
    /// Rows and columns that the image moves up and left by; black moves in.
    pub shift: (isize, isize),
    /// Mirrored left to right, before it moves.
    pub flip: bool,
    /// Top, left, bottom, right of the erased rectangle, ends excluded, within the image.
    pub erased: (usize, usize, usize, usize),
}

/// Some of `images` \[all, h, w, c\] (u8), each through a view, its values through the tables of its channels: f32 `[n, h, w, c]`.
///
/// `indices` and `views` have n entries. `tables` \[c, 256\] say what a value of a channel becomes, f32 on the same device. No history.
///
/// # Errors
/// Other shapes or types; an index beyond the images.
pub fn render_views(images: &Tensor, indices: &[usize], views: &[View], tables: &Tensor) -> Result<Tensor> {
    const OP: &str = "render_views";
    let bad = |what: String| Error::Argument { op: OP, what };
    let &[all, h, w, c] = images.dims() else {
        return Err(raw::shape_error(OP, "images", "[n, h, w, c]", images));
    };
    if images.dtype() != DType::U8 || !images.is_contiguous() {
        return Err(bad(format!("images are contiguous u8, not {:?}", images.dtype())));
    }
    let tables = raw::prepare(OP, tables)?;
    raw::expect_shape(OP, "tables", &tables, &[c, 256])?;
    if indices.len() != views.len() {
        return Err(bad(format!("{} images and {} views", indices.len(), views.len())));
    }
    if let Some(beyond) = indices.iter().find(|i| **i >= all) {
        return Err(bad(format!("image {beyond} of {all}")));
    }
    raw::on_cuda!(images, {
        let all: Vec<[i32; 8]> = indices.iter().zip(views).map(|(i, view)| view.numbers(*i)).collect();
        crate::cuda::render_views(images, &all, &tables)
    });
    let (pixels, tables) = (images.flatten_all()?.to_vec1::<u8>()?, tables.to_vec2::<f32>()?);
    let len = h * w * c;
    let mut out = vec![0.0; indices.len() * len];
    out.par_chunks_mut(len.max(1)).zip(indices.par_iter().zip(views)).for_each(|(out, (index, view))| {
        view.render(&pixels[index * len..(index + 1) * len], (h, w), &tables, out);
    });
    Ok(Tensor::from_vec(out, (indices.len(), h, w, c), &Device::Cpu)?)
}

impl View {
    /// As the GPU's kernel reads it.
    #[cfg(feature = "cuda")]
    fn numbers(&self, index: usize) -> [i32; 8] {
        let (top, left, bottom, right) = self.erased;
        let [down, across] = [self.shift.0, self.shift.1].map(|v| v as i32);
        let [index, top, left, bottom, right] = [index, top, left, bottom, right].map(|v| v as i32);
        [index, down, across, i32::from(self.flip), top, left, bottom, right]
    }

    /// Writes the view of `image` \[height, width, channels\], each value through its channel's table of 256 entries.
    ///
    /// # Panics
    /// `image` or `out` is shorter than height x width x channels.
    pub fn render(&self, image: &[u8], (height, width): (usize, usize), tables: &[impl AsRef<[f32]>], out: &mut [f32]) {
        let channels = tables.len();
        let (top, left, bottom, right) = self.erased;
        for y in 0..height {
            let from_y = y as isize + self.shift.0;
            for x in 0..width {
                let x_before_shift = if self.flip { width - 1 - x } else { x };
                let from_x = x_before_shift as isize + self.shift.1;
                let inside = (0..height as isize).contains(&from_y) && (0..width as isize).contains(&from_x);
                let erased = (top..bottom).contains(&y) && (left..right).contains(&x);
                for (c, table) in tables.iter().enumerate() {
                    let value = if inside && !erased {
                        image[(from_y as usize * width + from_x as usize) * channels + c]
                    } else {
                        0
                    };
                    out[(y * width + x) * channels + c] = table.as_ref()[usize::from(value)];
                }
            }
        }
    }
}
