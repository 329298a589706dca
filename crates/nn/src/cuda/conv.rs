//! Convolutions: see `kernels/conv.cuh`, and `kernels/conv_large.cuh` for those with many channels.

use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;

use super::{BLOCK, Gpu, blocks, launch, node, tf32};
use crate::Result;
use crate::ops::ConvGeometry;

/// Sizes of one convolution, as the kernels read them; channels of one group, and of all.
#[repr(C)]
#[derive(Clone, Copy)]
struct Conv {
    n: i32,
    h: i32,
    w: i32,
    cin: i32,
    ho: i32,
    wo: i32,
    cout: i32,
    kh: i32,
    kw: i32,
    stride: i32,
    padding: i32,
    dilation: i32,
    x_channels: i32,
    y_channels: i32,
}

// SAFETY: the same fields in the same order as the kernels' struct, all of them 32-bit integers.
unsafe impl DeviceRepr for Conv {}

/// How `kernels/conv_large.cuh` cuts a product.
struct Large {
    /// Rows and columns of a block's tile.
    tile: (usize, usize),
    threads: u32,
    /// Bytes of shared memory.
    shared: u32,
}

impl Large {
    const K: usize = 16;
    const STAGES: usize = 3;
    /// Fewer tiles would leave most of a large GPU idle, where smaller ones do not.
    const TILES: usize = 64;

    /// For gathered pixels by channels, the sum over taps and `depth` channels. `None` where the smaller tiles are to be used.
    fn pixels(g: &ConvGeometry, pixels: usize, depth: usize, columns: usize, addresses: &[u64]) -> Option<Self> {
        let tile = if Self::narrow(columns)? { (256, 64) } else { (128, 128) };
        let shared = Self::STAGES * (tile.0 + tile.1) * (Self::K + 4) * size_of::<f32>();
        let enough = depth >= Self::K && pixels.div_ceil(tile.0) * columns.div_ceil(tile.1) >= Self::TILES;
        let fits = enough && Self::serves(g, addresses);
        fits.then_some(Self { tile, threads: 128, shared: shared as u32 })
    }

    /// For a weight's gradient: taps and input channels by output channels, the sum over pixels.
    fn weights(g: &ConvGeometry, addresses: &[u64]) -> Option<Self> {
        let (tile, threads) = if Self::narrow(g.cout)? { ((192, 64), 96) } else { ((128, 128), 128) };
        let shared = Self::STAGES * (tile.0 + tile.1 + 16) * Self::K * size_of::<f32>();
        let enough = g.kh * g.kw * g.cin >= 64 && g.n * g.ho * g.wo >= Self::TILES * 128;
        let fits = enough && Self::serves(g, addresses);
        fits.then_some(Self { tile, threads, shared: shared as u32 })
    }

    /// Whether tiles of 64 columns compute fewer that are not there; `None` for so few columns that either wastes much.
    fn narrow(columns: usize) -> Option<bool> {
        (columns > 32).then(|| columns.next_multiple_of(64) < columns.next_multiple_of(128))
    }

    fn serves(g: &ConvGeometry, addresses: &[u64]) -> bool {
        let few = |len: usize| i32::try_from(len).is_ok();
        tf32()
            && g.spec.groups == 1
            && wide(g.cin, addresses)
            && wide(g.cout, addresses)
            && few(g.n * g.x_len())
            && few(g.n * g.y_len())
    }

    fn name(&self, narrow: &'static str, other: &'static str) -> &'static str {
        if self.tile.1 == 64 { narrow } else { other }
    }

    fn grid(&self, rows: usize, columns: usize, shares: usize) -> (u32, u32, u32) {
        (rows.div_ceil(self.tile.0) as u32, columns.div_ceil(self.tile.1) as u32, shares as u32)
    }

    fn block(&self) -> (u32, u32, u32) {
        (self.threads, 1, 1)
    }
}

const THREADS: (u32, u32, u32) = (BLOCK, 1, 1);
/// Rows of a block's tile of output: pixels of an image, or rows of a weight's gradient.
const PIXELS: usize = 128;
const WEIGHTS: usize = 64;
/// Pixels that a block sums at a time in a weight's gradient.
const STEP: usize = 16;
/// Blocks that fill a large GPU.
const FULL: usize = 132 * 4;

impl Conv {
    fn of(g: &ConvGeometry) -> Self {
        let spec = g.spec;
        Self {
            n: g.n as i32,
            h: g.h as i32,
            w: g.w as i32,
            cin: g.cin_per_group() as i32,
            ho: g.ho as i32,
            wo: g.wo as i32,
            cout: g.cout_per_group() as i32,
            kh: g.kh as i32,
            kw: g.kw as i32,
            stride: spec.stride as i32,
            padding: spec.padding as i32,
            dilation: spec.dilation as i32,
            x_channels: g.cin as i32,
            y_channels: g.cout as i32,
        }
    }
}

/// Whether rows of `channels` floats from the addresses on can be copied 16 bytes at a time.
fn wide(channels: usize, addresses: &[u64]) -> bool {
    channels.is_multiple_of(4) && addresses.iter().all(|at| at.is_multiple_of(16))
}

/// Columns of a tile.
fn tile(columns: usize) -> usize {
    if columns <= 32 { 32 } else { 64 }
}

/// The name of a kernel: `$base` with the width of the tile, those of the copies, and whether products are exact.
macro_rules! kernel {
    (@exact $exact:expr, $name:expr) => { if $exact { concat!($name, "_1") } else { concat!($name, "_0") } };
    ($base:literal, $tile:expr, $a:expr, $b:expr, $exact:expr) => {
        match ($tile, $a, $b) {
            (32, false, false) => kernel!(@exact $exact, concat!($base, "_32_1_1")),
            (32, false, true) => kernel!(@exact $exact, concat!($base, "_32_1_4")),
            (32, true, false) => kernel!(@exact $exact, concat!($base, "_32_4_1")),
            (32, true, true) => kernel!(@exact $exact, concat!($base, "_32_4_4")),
            (_, false, false) => kernel!(@exact $exact, concat!($base, "_64_1_1")),
            (_, false, true) => kernel!(@exact $exact, concat!($base, "_64_1_4")),
            (_, true, false) => kernel!(@exact $exact, concat!($base, "_64_4_1")),
            (_, true, true) => kernel!(@exact $exact, concat!($base, "_64_4_4")),
        }
    };
    ($base:literal, $tile:expr, $v:expr, $exact:expr) => {
        match ($tile, $v) {
            (32, false) => kernel!(@exact $exact, concat!($base, "_32_1")),
            (32, true) => kernel!(@exact $exact, concat!($base, "_32_4")),
            (_, false) => kernel!(@exact $exact, concat!($base, "_64_1")),
            (_, true) => kernel!(@exact $exact, concat!($base, "_64_4")),
        }
    };
}

/// x \[n, h, w, cin\], w \[kh, kw, cin / groups, cout\].
pub(crate) fn conv2d(x: &Tensor, w: &Tensor, g: ConvGeometry) -> Result<Tensor> {
    let gpu = &Gpu::of(x)?;
    let y = forward(gpu, &g, x, w, None, (f32::NEG_INFINITY, f32::INFINITY))?;
    node(gpu, "conv2d", &[x, w], y, (g.n, g.ho, g.wo, g.cout), move |args, _, dy| {
        let gpu = &Gpu::of(dy)?;
        let dx = args[0].track_op().then(|| input_gradient(gpu, &g, args[1], dy)).transpose()?;
        let dw = args[1].track_op().then(|| weight_gradient(gpu, &g, args[0], dy)).transpose()?;
        Ok(vec![dx, dw])
    })
}

/// Without history; the result plus a bias, between `low` and `high`.
pub(crate) fn conv2d_fused(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    clamp: Option<(f32, f32)>,
    g: ConvGeometry,
) -> Result<Tensor> {
    let gpu = &Gpu::of(x)?;
    let y = forward(gpu, &g, x, w, bias, clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY)))?;
    Ok(gpu.tensor(y, (g.n, g.ho, g.wo, g.cout)))
}

fn forward(
    gpu: &Gpu,
    g: &ConvGeometry,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    (low, high): (f32, f32),
) -> candle_core::Result<candle_core::cuda_backend::cudarc::driver::CudaSlice<f32>> {
    let sizes = Conv::of(g);
    let y = gpu.alloc(g.n * g.y_len())?;
    let (px, pw, pb, py) = (gpu.f32(x)?, gpu.f32(w)?, gpu.optional(bias)?, gpu.address(&y));
    if g.is_depthwise() {
        let lanes = if wide(g.cin, &[px, pw, py]) { 4 } else { 1 };
        let name = if lanes == 4 { "depthwise_4" } else { "depthwise_1" };
        launch!(gpu, name, blocks(g.n * g.y_len() / lanes), THREADS, 0, px, pw, pb, py, sizes, low, high)?;
        return Ok(y);
    }
    let pixels = g.n * g.ho * g.wo;
    if let Some(large) = Large::pixels(g, pixels, g.cin, g.cout, &[px, pw, pb, py]) {
        let turned = gpu.alloc(g.w_len())?;
        let tiles = (g.cout.div_ceil(32) as u32, g.cin.div_ceil(32) as u32, (g.kh * g.kw) as u32);
        let turned_at = gpu.address(&turned);
        launch!(gpu, "transpose_taps", tiles, (32, 8, 1), 0, pw, turned_at, g.cin as i32, g.cout as i32)?;
        let (name, grid) = (large.name("conv_large_64", "conv_large_128"), large.grid(pixels, g.cout, 1));
        launch!(gpu, name, grid, large.block(), large.shared, px, turned_at, pb, py, sizes, low, high)?;
        return Ok(y);
    }
    let tile = tile(g.cout_per_group());
    let (a, b) = (wide(g.cin_per_group(), &[px]), wide(g.cout_per_group(), &[pw]));
    let name = kernel!("conv_forward", tile, a, b, !tf32());
    let grid = (pixels.div_ceil(PIXELS) as u32, g.cout_per_group().div_ceil(tile) as u32, g.spec.groups as u32);
    launch!(gpu, name, grid, THREADS, 0, px, pw, pb, py, sizes, low, high)?;
    Ok(y)
}

fn input_gradient(gpu: &Gpu, g: &ConvGeometry, w: &Tensor, dy: &Tensor) -> candle_core::Result<Tensor> {
    let sizes = Conv::of(g);
    let dx = gpu.alloc(g.n * g.x_len())?;
    let (pdy, pw, to) = (gpu.f32(dy)?, gpu.f32(w)?, gpu.address(&dx));
    if g.is_depthwise() {
        let lanes = if wide(g.cin, &[pdy, pw, to]) { 4 } else { 1 };
        let name = if lanes == 4 { "depthwise_dx_4" } else { "depthwise_dx_1" };
        launch!(gpu, name, blocks(g.n * g.x_len() / lanes), THREADS, 0, pdy, pw, to, sizes)?;
    } else if let Some(large) = Large::pixels(g, g.n * g.h * g.w, g.cout, g.cin, &[pdy, pw, to]) {
        let (name, grid) = (large.name("conv_large_dx_64", "conv_large_dx_128"), large.grid(g.n * g.h * g.w, g.cin, 1));
        launch!(gpu, name, grid, large.block(), large.shared, pdy, pw, to, sizes)?;
    } else {
        let tile = tile(g.cin_per_group());
        let name = kernel!("conv_dx", tile, wide(g.cout_per_group(), &[pdy, pw]), !tf32());
        let rows = (g.n * g.h * g.w).div_ceil(PIXELS);
        let grid = (rows as u32, g.cin_per_group().div_ceil(tile) as u32, g.spec.groups as u32);
        launch!(gpu, name, grid, THREADS, 0, pdy, pw, to, sizes)?;
    }
    Ok(gpu.tensor(dx, (g.n, g.h, g.w, g.cin)))
}

fn weight_gradient(gpu: &Gpu, g: &ConvGeometry, x: &Tensor, dy: &Tensor) -> candle_core::Result<Tensor> {
    let sizes = Conv::of(g);
    let (px, pdy) = (gpu.f32(x)?, gpu.f32(dy)?);
    let pixels = g.n * g.ho * g.wo;
    let (part, splits) = if g.is_depthwise() {
        let tiles = g.cin.div_ceil(32);
        let splits = pixels.div_ceil(128).min((2 * FULL / tiles).max(1)).max(1);
        let chunk = pixels.div_ceil(splits);
        let splits = pixels.div_ceil(chunk);
        let part = gpu.alloc(splits * g.w_len())?;
        let name = match g.kw {
            3 => "depthwise_dw_3",
            5 => "depthwise_dw_5",
            _ => "depthwise_dw_1",
        };
        let grid = (tiles as u32, splits as u32, 1);
        launch!(gpu, name, grid, (32, 8, 1), 0, px, pdy, gpu.address(&part), sizes, chunk as i32)?;
        (part, splits)
    } else if let Some(large) = Large::weights(g, &[px, pdy]) {
        let rows = g.kh * g.kw * g.cin;
        let tiles = large.grid(rows, g.cout, 1);
        let splits = (FULL / (tiles.0 * tiles.1) as usize).clamp(1, pixels.div_ceil(8 * STEP));
        let part = gpu.alloc(splits * g.w_len())?;
        let (name, grid) = (large.name("conv_large_dw_64", "conv_large_dw_128"), large.grid(rows, g.cout, splits));
        let at = gpu.address(&part);
        launch!(gpu, name, grid, large.block(), large.shared, px, pdy, at, sizes, splits as i32)?;
        (part, splits)
    } else {
        let rows = g.kh * g.kw * g.cin_per_group();
        let tile = tile(g.cout_per_group());
        let grid = (rows.div_ceil(WEIGHTS), g.cout_per_group().div_ceil(tile));
        let steps = pixels.div_ceil(STEP);
        let splits = (2 * FULL / (grid.0 * grid.1 * g.spec.groups)).clamp(1, steps.div_ceil(8));
        let part = gpu.alloc(splits * g.w_len())?;
        let (a, b) = (wide(g.cin_per_group(), &[px]), wide(g.cout_per_group(), &[pdy]));
        let name = kernel!("conv_dw", tile, a, b, !tf32());
        let grid = (grid.0 as u32, grid.1 as u32, (g.spec.groups * splits) as u32);
        launch!(gpu, name, grid, THREADS, 0, px, pdy, gpu.address(&part), sizes, splits as i32)?;
        (part, splits)
    };
    let shape = (g.kh, g.kw, g.cin_per_group(), g.cout);
    if splits == 1 {
        return Ok(gpu.tensor(part, shape));
    }
    let len = g.w_len();
    let dw = gpu.alloc(len)?;
    let grid = (len.div_ceil(32) as u32, 1, 1);
    launch!(gpu, "sum_splits", grid, (32, 8, 1), 0, gpu.address(&part), gpu.address(&dw), len as u32, splits as i32)?;
    Ok(gpu.tensor(dw, shape))
}
