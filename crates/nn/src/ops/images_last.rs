//! The layout for serving many images: 16 of them side by side.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::raw;
use crate::Result;

/// Images that lie side by side.
pub(crate) const IMAGES: usize = 16;

/// `[n, h, w, c]` to `[ceil(n / 16), h, w, c, 16]`: sixteen images side by side, the last group filled up with zeros.
///
/// Convolutions, pools, evaluated batch normalisations and everything that goes element by element take this layout as well and give for every image the same
/// result, at about half the cost if the groups are full; [`global_avg_pool`](super::global_avg_pool) returns from it to a row for each image. It has
/// no gradients.
pub fn images_last(x: &Tensor) -> Result<Tensor> {
    let x = raw::prepare(ImagesLast::NAME, x)?;
    if x.rank() != 4 || x.elem_count() == 0 {
        return Err(raw::shape_error(ImagesLast::NAME, "input", "[n, h, w, c], not empty", &x));
    }
    Ok(x.apply_op1_no_bwd(&ImagesLast)?)
}

/// Whether `x` has the layout of [`images_last`].
pub(crate) fn is_images_last(x: &Tensor) -> bool {
    matches!(x.dims(), [_, _, _, _, IMAGES])
}

/// `[n, h, w, c, 16]` as `[n, h, w, 16 c]`: the same to whatever treats channels alike.
pub(crate) fn as_channels(x: &Tensor) -> Result<Tensor> {
    let (n, h, w, c, images) = x.dims5()?;
    Ok(x.reshape((n, h, w, c * images))?)
}

/// Back from [`as_channels`].
pub(crate) fn from_channels(x: &Tensor) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    Ok(x.reshape((n, h, w, c / IMAGES, IMAGES))?)
}

struct ImagesLast;

impl ImagesLast {
    const NAME: &'static str = "images_last";
}

impl CustomOp1 for ImagesLast {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = raw::slice(Self::NAME, s, l)?;
        let (n, h, w, c) = l.shape().dims4()?;
        let (len, groups) = (h * w * c, n.div_ceil(IMAGES));
        let mut y = vec![0.0; groups * len * IMAGES];
        for (group, y) in x.chunks(len * IMAGES).zip(y.chunks_exact_mut(len * IMAGES)) {
            for (lane, image) in group.chunks_exact(len).enumerate() {
                for (y, x) in y.chunks_exact_mut(IMAGES).zip(image) {
                    y[lane] = *x;
                }
            }
        }
        raw::output(y, (groups, h, w, c, IMAGES))
    }
}
