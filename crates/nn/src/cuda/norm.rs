//! Normalisations and softmax.

use candle_core::Tensor;

use super::elementwise::number;
use super::{BLOCK, Gpu, blocks, launch, looping, node, warps};
use crate::Result;
use crate::ops::{Activation, BatchStats};

const THREADS: (u32, u32, u32) = (BLOCK, 1, 1);

/// How sums over the rows of a matrix are shared among blocks.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    rows: i32,
    width: i32,
    /// Rows of a block.
    chunk: i32,
    chunks: usize,
    grid: (u32, u32, u32),
    block: (u32, u32, u32),
}

impl Columns {
    pub(super) fn new(rows: usize, width: usize) -> Self {
        let columns = width.min(64);
        let lanes = (BLOCK as usize / columns).max(1);
        let tiles = width.div_ceil(columns);
        // About two waves of blocks on a large GPU; 8 rows or more for each lane.
        let chunks = rows.div_ceil(8 * lanes).min((1056 / tiles).max(1)).max(1);
        let chunk = rows.div_ceil(chunks);
        let chunks = rows.div_ceil(chunk);
        Self {
            rows: rows as i32,
            width: width as i32,
            chunk: chunk as i32,
            chunks,
            grid: (tiles as u32, chunks as u32, 1),
            block: (columns as u32, lanes as u32, 1),
        }
    }

    fn shared(&self) -> u32 {
        8 * self.block.0 * self.block.1
    }

    fn parts(&self) -> usize {
        2 * self.width as usize * self.chunks
    }
}

/// Sums over the rows of x \[rows, width\].
pub(super) fn column_sums(gpu: &Gpu, x: &Tensor, width: usize) -> candle_core::Result<Tensor> {
    let k = Columns::new(x.elem_count() / width, width);
    let (part, out) = (gpu.alloc(k.parts())?, gpu.alloc(width)?);
    let at = gpu.address(&part);
    launch!(gpu, "column_sums", k.grid, k.block, k.shared(), gpu.f32(x)?, k.rows, k.width, k.chunk, at)?;
    launch!(gpu, "column_sums_finish", warps(width), THREADS, 0, at, k.chunks as i32, k.width, gpu.address(&out))?;
    Ok(gpu.tensor(out, width))
}

pub(crate) fn batch_norm_train(
    x: &Tensor,
    gamma_beta: Option<(&Tensor, &Tensor)>,
    eps: f64,
    act: Activation,
    width: usize,
) -> Result<(Tensor, BatchStats)> {
    let gpu = &Gpu::of(x)?;
    let k = Columns::new(x.elem_count() / width, width);
    let (part, stats) = (gpu.alloc(k.parts())?, gpu.alloc(3 * width)?);
    let (px, at) = (gpu.f32(x)?, gpu.address(&part));
    launch!(gpu, "moments", k.grid, k.block, k.shared(), px, k.rows, k.width, k.chunk, at)?;
    launch!(
        gpu,
        "moments_finish",
        warps(width),
        THREADS,
        0,
        at,
        k.chunks as i32,
        k.width,
        k.rows,
        px,
        eps as f32,
        gpu.address(&stats),
    )?;
    let stats = gpu.tensor(stats, (3, width));
    let found = BatchStats { mean: stats.get(0)?, var: stats.get(1)? };
    Ok((normalise(gpu, x, gamma_beta, stats, act, true, width)?, found))
}

/// Running mean and variance, moved towards those of a batch; `unbiased` is what the batch's variance is multiplied by.
pub(crate) fn move_statistics(
    [mean, var]: [&Tensor; 2],
    batch: &BatchStats,
    momentum: f64,
    unbiased: f64,
) -> Result<[Tensor; 2]> {
    let gpu = &Gpu::of(mean)?;
    let width = mean.elem_count();
    let out = gpu.alloc(2 * width)?;
    launch!(
        gpu,
        "move_statistics",
        blocks(width),
        THREADS,
        0,
        gpu.f32(mean)?,
        gpu.f32(var)?,
        gpu.f32(&batch.mean)?,
        gpu.f32(&batch.var)?,
        gpu.address(&out),
        width as i32,
        momentum as f32,
        unbiased as f32,
    )?;
    let out = gpu.tensor(out, (2, width));
    Ok([out.get(0)?, out.get(1)?])
}

pub(crate) fn batch_norm_eval(
    x: &Tensor,
    gamma_beta: Option<(&Tensor, &Tensor)>,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
    act: Activation,
    width: usize,
) -> Result<Tensor> {
    let gpu = &Gpu::of(x)?;
    let stats = gpu.alloc(3 * width)?;
    let (mean, var) = (gpu.f32(mean)?, gpu.f32(var)?);
    launch!(gpu, "given_stats", blocks(width), THREADS, 0, mean, var, eps as f32, gpu.address(&stats), width as i32)?;
    normalise(gpu, x, gamma_beta, gpu.tensor(stats, (3, width)), act, false, width)
}

/// `stats` \[3, width\]: mean, variance, 1 / deviation.
fn normalise(
    gpu: &Gpu,
    x: &Tensor,
    gamma_beta: Option<(&Tensor, &Tensor)>,
    stats: Tensor,
    act: Activation,
    from_batch: bool,
    width: usize,
) -> Result<Tensor> {
    let n = x.elem_count();
    let y = gpu.alloc(n)?;
    let (gamma, beta) = (gpu.optional(gamma_beta.map(|(g, _)| g))?, gpu.optional(gamma_beta.map(|(_, b)| b))?);
    launch!(
        gpu,
        "batch_norm",
        looping(n),
        THREADS,
        0,
        gpu.f32(x)?,
        gpu.f32(&stats)?,
        gamma,
        beta,
        gpu.address(&y),
        n as u64,
        width as i32,
        number(act),
    )?;
    let backward = move |args: &[&Tensor], _: &Tensor, dy: &Tensor| {
        let gpu = &Gpu::of(dy)?;
        let (x, gamma, beta) =
            (gpu.f32(args[0])?, gpu.optional(args.get(1).copied())?, gpu.optional(args.get(2).copied())?);
        let (pdy, stats) = (gpu.f32(dy)?, gpu.f32(&stats)?);
        let k = Columns::new(n / width, width);
        let (part, grads) = (gpu.alloc(k.parts())?, gpu.alloc(4 * width)?);
        let (part_at, grads_at) = (gpu.address(&part), gpu.address(&grads));
        launch!(
            gpu,
            "batch_norm_sums",
            k.grid,
            k.block,
            k.shared(),
            x,
            pdy,
            stats,
            gamma,
            beta,
            k.rows,
            k.width,
            k.chunk,
            number(act),
            part_at,
        )?;
        launch!(
            gpu,
            "batch_norm_sums_finish",
            warps(width),
            THREADS,
            0,
            part_at,
            k.chunks as i32,
            k.width,
            k.rows,
            stats,
            gamma,
            i32::from(from_batch),
            grads_at,
        )?;
        let dx = gpu.alloc(n)?;
        launch!(
            gpu,
            "batch_norm_dx",
            looping(n),
            THREADS,
            0,
            x,
            pdy,
            stats,
            gamma,
            beta,
            grads_at,
            gpu.address(&dx),
            n as u64,
            k.width,
            number(act),
        )?;
        let dx = Some(gpu.tensor(dx, args[0].shape()));
        if args.len() == 1 {
            return Ok(vec![dx]);
        }
        let grads = gpu.tensor(grads, (4, width));
        let wanted = |i: usize| args[1 + i].track_op().then(|| grads.get(i)).transpose();
        Ok(vec![dx, wanted(0)?, wanted(1)?])
    };
    match gamma_beta {
        None => node(gpu, "batch_norm", &[x], y, x.shape(), backward),
        Some((gamma, beta)) => node(gpu, "batch_norm", &[x, gamma, beta], y, x.shape(), backward),
    }
}

pub(crate) fn layer_norm(
    x: &Tensor,
    gamma: Option<&Tensor>,
    beta: Option<&Tensor>,
    eps: f64,
    width: usize,
) -> Result<Tensor> {
    let gpu = &Gpu::of(x)?;
    let rows = x.elem_count() / width;
    let y = gpu.alloc(rows * width)?;
    let (pg, pb) = (gpu.optional(gamma)?, gpu.optional(beta)?);
    let sizes = (rows as i32, width as i32);
    launch!(
        gpu,
        "layer_norm",
        warps(rows),
        THREADS,
        0,
        gpu.f32(x)?,
        pg,
        pb,
        eps as f32,
        gpu.address(&y),
        sizes.0,
        sizes.1,
    )?;
    let (with_gamma, with_beta) = (gamma.is_some(), beta.is_some());
    let arguments: Vec<&Tensor> = [Some(x), gamma, beta].into_iter().flatten().collect();
    node(gpu, "layer_norm", &arguments, y, x.shape(), move |args, _, dy| {
        let gpu = &Gpu::of(dy)?;
        let gamma = gpu.optional(with_gamma.then(|| args[1]))?;
        let (x, pdy) = (gpu.f32(args[0])?, gpu.f32(dy)?);
        let (dx, stats) = (gpu.alloc(rows * width)?, gpu.alloc(2 * rows)?);
        let stats_at = gpu.address(&stats);
        launch!(
            gpu,
            "layer_norm_dx",
            warps(rows),
            THREADS,
            0,
            x,
            pdy,
            gamma,
            eps as f32,
            gpu.address(&dx),
            stats_at,
            sizes.0,
            sizes.1,
        )?;
        let mut grads = vec![Some(gpu.tensor(dx, args[0].shape()))];
        if with_gamma || with_beta {
            let k = Columns::new(rows, width);
            let (part, sums) = (gpu.alloc(k.parts())?, gpu.alloc(2 * width)?);
            let at = gpu.address(&part);
            launch!(
                gpu,
                "layer_norm_sums",
                k.grid,
                k.block,
                k.shared(),
                x,
                pdy,
                stats_at,
                k.rows,
                k.width,
                k.chunk,
                at,
            )?;
            launch!(
                gpu,
                "both_sums_finish",
                warps(width),
                THREADS,
                0,
                at,
                k.chunks as i32,
                k.width,
                gpu.address(&sums)
            )?;
            let sums = gpu.tensor(sums, (2, width));
            if with_gamma {
                grads.push(Some(sums.get(0)?));
            }
            if with_beta {
                grads.push(Some(sums.get(1)?));
            }
        }
        Ok(grads)
    })
}

pub(crate) fn softmax(x: &Tensor, width: usize) -> Result<Tensor> {
    let gpu = &Gpu::of(x)?;
    let rows = x.elem_count() / width;
    let y = gpu.alloc(rows * width)?;
    let sizes = (rows as i32, width as i32);
    launch!(gpu, "softmax", warps(rows), THREADS, 0, gpu.f32(x)?, gpu.address(&y), sizes.0, sizes.1)?;
    node(gpu, "softmax", &[x], y, x.shape(), move |args, y, dy| {
        let gpu = &Gpu::of(dy)?;
        let dx = gpu.alloc(rows * width)?;
        launch!(
            gpu,
            "softmax_dx",
            warps(rows),
            THREADS,
            0,
            gpu.f32(y)?,
            gpu.f32(dy)?,
            gpu.address(&dx),
            sizes.0,
            sizes.1,
        )?;
        Ok(vec![Some(gpu.tensor(dx, args[0].shape()))])
    })
}
