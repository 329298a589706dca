//! Activations, sums, conditioning of tokens, pools, views of images.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{DType, Tensor};

use super::{BLOCK, Gpu, blocks, launch, looping, node};
use crate::Result;
use crate::ops::Activation;

const THREADS: (u32, u32, u32) = (BLOCK, 1, 1);

/// As the kernels number them.
pub(super) fn number(act: Activation) -> i32 {
    match act {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Relu6 => 2,
        Activation::Gelu => 3,
    }
}

/// f'(z) dy
fn slope_times(gpu: &Gpu, act: Activation, z: &Tensor, dy: &Tensor) -> candle_core::Result<Tensor> {
    let n = z.elem_count();
    let dx = gpu.alloc(n)?;
    launch!(
        gpu,
        "slope_times",
        looping(n),
        THREADS,
        0,
        gpu.f32(z)?,
        gpu.f32(dy)?,
        gpu.address(&dx),
        n as u64,
        number(act)
    )?;
    Ok(gpu.tensor(dx, z.shape()))
}

pub(crate) fn activate(x: &Tensor, act: Activation) -> Result<Tensor> {
    let gpu = &Gpu::of(x)?;
    let n = x.elem_count();
    let y = gpu.alloc(n)?;
    launch!(gpu, "activate", looping(n), THREADS, 0, gpu.f32(x)?, gpu.address(&y), n as u64, number(act))?;
    node(gpu, "activate", &[x], y, x.shape(), move |args, _, dy| {
        Ok(vec![Some(slope_times(&Gpu::of(dy)?, act, args[0], dy)?)])
    })
}

pub(crate) fn add_activate(a: &Tensor, b: &Tensor, act: Activation) -> Result<Tensor> {
    let gpu = &Gpu::of(a)?;
    let n = a.elem_count();
    let y = gpu.alloc(n)?;
    launch!(
        gpu,
        "add_activate",
        looping(n),
        THREADS,
        0,
        gpu.f32(a)?,
        gpu.f32(b)?,
        gpu.address(&y),
        n as u64,
        number(act)
    )?;
    node(gpu, "add_activate", &[a, b], y, a.shape(), move |args, y, dy| {
        let gpu = &Gpu::of(dy)?;
        let d = match act {
            Activation::Identity => dy.clone(),
            // The slope at f(z) is that at z.
            Activation::Relu | Activation::Relu6 => slope_times(gpu, act, y, dy)?,
            Activation::Gelu => {
                let n = y.elem_count();
                let dx = gpu.alloc(n)?;
                let (a, b) = (gpu.f32(args[0])?, gpu.f32(args[1])?);
                launch!(
                    gpu,
                    "add_slope_times",
                    looping(n),
                    THREADS,
                    0,
                    a,
                    b,
                    gpu.f32(dy)?,
                    gpu.address(&dx),
                    n as u64,
                    number(act)
                )?;
                gpu.tensor(dx, y.shape())
            }
        };
        Ok(vec![Some(d.clone()), Some(d)])
    })
}

pub(crate) fn add3(a: &Tensor, b: &Tensor, c: &Tensor) -> Result<Tensor> {
    let gpu = &Gpu::of(a)?;
    let n = a.elem_count();
    let y = gpu.alloc(n)?;
    launch!(gpu, "add3", looping(n), THREADS, 0, gpu.f32(a)?, gpu.f32(b)?, gpu.f32(c)?, gpu.address(&y), n as u64)?;
    node(gpu, "add3", &[a, b, c], y, a.shape(), |_, _, dy| {
        Ok(vec![Some(dy.clone()), Some(dy.clone()), Some(dy.clone())])
    })
}

/// x \[n, t, d\], c \[n, 2 d\]
pub(crate) fn modulate(x: &Tensor, c: &Tensor) -> Result<Tensor> {
    let gpu = &Gpu::of(x)?;
    let (n, t, d) = x.dims3()?;
    let len = n * t * d;
    let y = gpu.alloc(len)?;
    let sizes = ((t * d) as u32, d as u32);
    launch!(
        gpu,
        "modulate",
        looping(len),
        THREADS,
        0,
        gpu.f32(x)?,
        gpu.f32(c)?,
        gpu.address(&y),
        len as u64,
        sizes.0,
        sizes.1
    )?;
    node(gpu, "modulate", &[x, c], y, x.shape(), move |args, _, dy| {
        let gpu = &Gpu::of(dy)?;
        let (dx, dc) = (gpu.alloc(len)?, gpu.alloc(2 * n * d)?);
        let (x, c, dy) = (gpu.f32(args[0])?, gpu.f32(args[1])?, gpu.f32(dy)?);
        launch!(gpu, "modulate_dx", looping(len), THREADS, 0, dy, c, gpu.address(&dx), len as u64, sizes.0, sizes.1)?;
        launch!(gpu, "modulate_dc", blocks(n * d), THREADS, 0, x, dy, gpu.address(&dc), n as u32, t as u32, d as u32)?;
        Ok(vec![Some(gpu.tensor(dx, (n, t, d))), Some(gpu.tensor(dc, (n, 2 * d)))])
    })
}

/// x and b \[n, t, d\], g \[n, d\]
pub(crate) fn gated_add(x: &Tensor, b: &Tensor, g: &Tensor) -> Result<Tensor> {
    let gpu = &Gpu::of(x)?;
    let (n, t, d) = x.dims3()?;
    let len = n * t * d;
    let y = gpu.alloc(len)?;
    let sizes = ((t * d) as u32, d as u32);
    let (px, pb, pg) = (gpu.f32(x)?, gpu.f32(b)?, gpu.f32(g)?);
    launch!(gpu, "gated_add", looping(len), THREADS, 0, px, pb, pg, gpu.address(&y), len as u64, sizes.0, sizes.1)?;
    node(gpu, "gated_add", &[x, b, g], y, x.shape(), move |args, _, dy| {
        let gpu = &Gpu::of(dy)?;
        let (db, dg) = (gpu.alloc(len)?, gpu.alloc(n * d)?);
        let (b, g, d_out) = (gpu.f32(args[1])?, gpu.f32(args[2])?, gpu.f32(dy)?);
        launch!(gpu, "gated_db", looping(len), THREADS, 0, d_out, g, gpu.address(&db), len as u64, sizes.0, sizes.1)?;
        launch!(gpu, "gated_dg", blocks(n * d), THREADS, 0, b, d_out, gpu.address(&dg), n as u32, t as u32, d as u32)?;
        Ok(vec![Some(dy.clone()), Some(gpu.tensor(db, (n, t, d))), Some(gpu.tensor(dg, (n, d)))])
    })
}

/// Sizes of one pooling, as the kernels read them.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub(crate) kernel: i32,
    pub(crate) stride: i32,
    pub(crate) padding: i32,
    pub(crate) n: i32,
    pub(crate) h: i32,
    pub(crate) w: i32,
    pub(crate) c: i32,
    pub(crate) oh: i32,
    pub(crate) ow: i32,
}

// SAFETY: the same fields in the same order as the kernels' struct, all of them 32-bit integers.
unsafe impl DeviceRepr for Window {}

impl Window {
    fn outputs(&self) -> (usize, usize, usize, usize) {
        (self.n as usize, self.oh as usize, self.ow as usize, self.c as usize)
    }
}

pub(crate) fn max_pool2d(x: &Tensor, window: Window) -> Result<Tensor> {
    let gpu = &Gpu::of(x)?;
    let shape = window.outputs();
    let y = gpu.alloc(shape.0 * shape.1 * shape.2 * shape.3)?;
    launch!(gpu, "max_pool", blocks(y.len()), THREADS, 0, gpu.f32(x)?, gpu.address(&y), window)?;
    node(gpu, "max_pool2d", &[x], y, shape, move |args, y, dy| {
        let gpu = &Gpu::of(dy)?;
        let n = args[0].elem_count();
        let dx = gpu.alloc(n)?;
        let (x, y, dy) = (gpu.f32(args[0])?, gpu.f32(y)?, gpu.f32(dy)?);
        launch!(gpu, "max_pool_dx", blocks(n), THREADS, 0, x, y, dy, gpu.address(&dx), window)?;
        Ok(vec![Some(gpu.tensor(dx, args[0].shape()))])
    })
}

pub(crate) fn avg_pool2d(x: &Tensor, window: Window) -> Result<Tensor> {
    let gpu = &Gpu::of(x)?;
    let shape = window.outputs();
    let y = gpu.alloc(shape.0 * shape.1 * shape.2 * shape.3)?;
    launch!(gpu, "avg_pool", blocks(y.len()), THREADS, 0, gpu.f32(x)?, gpu.address(&y), window)?;
    node(gpu, "avg_pool2d", &[x], y, shape, move |args, _, dy| {
        let gpu = &Gpu::of(dy)?;
        let n = args[0].elem_count();
        let dx = gpu.alloc(n)?;
        launch!(gpu, "avg_pool_dx", blocks(n), THREADS, 0, gpu.f32(dy)?, gpu.address(&dx), window)?;
        Ok(vec![Some(gpu.tensor(dx, args[0].shape()))])
    })
}

pub(crate) fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    let gpu = &Gpu::of(x)?;
    let (n, h, w, c) = x.dims4()?;
    let y = gpu.alloc(n * c)?;
    let (pixels, channels) = ((h * w) as u32, c as u32);
    launch!(gpu, "global_avg", blocks(n * c), THREADS, 0, gpu.f32(x)?, gpu.address(&y), n as u32, pixels, channels)?;
    node(gpu, "global_avg_pool", &[x], y, (n, c), move |args, _, dy| {
        let gpu = &Gpu::of(dy)?;
        let len = args[0].elem_count();
        let dx = gpu.alloc(len)?;
        launch!(
            gpu,
            "global_avg_dx",
            blocks(len),
            THREADS,
            0,
            gpu.f32(dy)?,
            gpu.address(&dx),
            len as u64,
            pixels,
            channels
        )?;
        Ok(vec![Some(gpu.tensor(dx, args[0].shape()))])
    })
}

/// See [`crate::ops::render_views`].
pub(crate) fn render_views(images: &Tensor, views: &[[i32; 8]], tables: &Tensor) -> Result<Tensor> {
    let gpu = &Gpu::of(images)?;
    let (_, h, w, c) = images.dims4()?;
    debug_assert_eq!(images.dtype(), DType::U8);
    let n = views.len();
    let len = n * h * w * c;
    let (views, out) = (gpu.upload(views.as_flattened())?, gpu.alloc(len)?);
    let (images, tables) = (gpu.at::<u8>(images)?, gpu.f32(tables)?);
    let sizes = (h as i32, w as i32, c as i32);
    launch!(
        gpu,
        "render_views",
        blocks(len),
        THREADS,
        0,
        images,
        gpu.address(&views),
        tables,
        gpu.address(&out),
        n as u32,
        sizes.0,
        sizes.1,
        sizes.2,
    )?;
    Ok(gpu.tensor(out, (n, h, w, c)))
}
