//! Conditioning of tokens by a vector of their sample, as in adaptive layer normalisation (Peebles and Xie 2023).

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use super::raw::{self, View};
use crate::{Result, tape};

/// y\[n, t, :\] = x\[n, t, :\] (1 + scale\[n, :\]) + shift\[n, :\], with x \[n, t, d\] and `scale_shift` \[n, 2 d\], scale first.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn modulate(x: &Tensor, scale_shift: &Tensor) -> Result<Tensor> {
    let (x, c) = (raw::prepare(MODULATE, x)?, raw::prepare(MODULATE, scale_shift)?);
    let tokens = Tokens::of(MODULATE, &x)?;
    raw::expect_shape(MODULATE, "scale and shift", &c, &[tokens.n, 2 * tokens.d])?;
    raw::on_cuda!(x, crate::cuda::modulate(&x, &c));
    Ok(tape::apply2(&x, &c, Modulate(tokens))?)
}

/// y\[n, t, :\] = x\[n, t, :\] + (1 + gate\[n, :\]) branch\[n, t, :\]: the end of a conditioned residual branch.
///
/// x and branch are \[n, t, d\], gate is \[n, d\].
///
/// # Errors
/// Shapes that do not fit each other.
pub fn gated_add(x: &Tensor, branch: &Tensor, gate: &Tensor) -> Result<Tensor> {
    let (x, b) = (raw::prepare(GATED, x)?, raw::prepare(GATED, branch)?);
    let g = raw::prepare(GATED, gate)?;
    let tokens = Tokens::of(GATED, &x)?;
    raw::expect_shape(GATED, "branch", &b, x.dims())?;
    raw::expect_shape(GATED, "gate", &g, &[tokens.n, tokens.d])?;
    raw::on_cuda!(x, crate::cuda::gated_add(&x, &b, &g));
    Ok(tape::apply3(&x, &b, &g, GatedAdd(tokens))?)
}

const MODULATE: &str = "modulate";
const GATED: &str = "gated_add";

#[derive(Clone, Copy)]
struct Tokens {
    n: usize,
    t: usize,
    d: usize,
}

impl Tokens {
    fn of(op: &'static str, x: &Tensor) -> Result<Self> {
        match *x.dims() {
            [n, t, d] if x.elem_count() > 0 => Ok(Self { n, t, d }),
            _ => Err(raw::shape_error(op, "input", "[samples, tokens, width], not empty", x)),
        }
    }

    fn shape(self) -> Shape {
        (self.n, self.t, self.d).into()
    }
}

struct Modulate(Tokens);

impl CustomOp2 for Modulate {
    fn name(&self) -> &'static str {
        MODULATE
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        c: &CpuStorage,
        lc: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let Tokens { t, d, .. } = self.0;
        let (x, c) = (raw::slice(MODULATE, x, lx)?, raw::slice(MODULATE, c, lc)?);
        let mut y = Vec::with_capacity(x.len());
        for (x, c) in x.chunks_exact(t * d).zip(c.chunks_exact(2 * d)) {
            let (scale, shift) = c.split_at(d);
            for x in x.chunks_exact(d) {
                y.extend(x.iter().zip(scale).zip(shift).map(|((x, scale), shift)| x * (1.0 + scale) + shift));
            }
        }
        raw::output(y, self.0.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        c: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let Tokens { n, t, d } = self.0;
        let dy = dy.contiguous()?;
        let (xs, cs, dys) = (View::new(MODULATE, x)?, View::new(MODULATE, c)?, View::new(MODULATE, &dy)?);
        let mut dx = Vec::with_capacity(xs.len());
        let mut dc = vec![0.0; n * 2 * d];
        for (i, dc) in dc.chunks_exact_mut(2 * d).enumerate() {
            let scale = &cs[i * 2 * d..][..d];
            let (dscale, dshift) = dc.split_at_mut(d);
            for row in i * t..(i + 1) * t {
                let (x, dy) = (&xs[row * d..][..d], &dys[row * d..][..d]);
                dx.extend(dy.iter().zip(scale).map(|(dy, scale)| dy * (1.0 + scale)));
                for (((dscale, dshift), x), dy) in dscale.iter_mut().zip(dshift.iter_mut()).zip(x).zip(dy) {
                    *dscale += x * dy;
                    *dshift += dy;
                }
            }
        }
        Ok((Some(raw::tensor(dx, x.dims())?), Some(raw::tensor(dc, &[n, 2 * d])?)))
    }
}

struct GatedAdd(Tokens);

impl CustomOp3 for GatedAdd {
    fn name(&self) -> &'static str {
        GATED
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        b: &CpuStorage,
        lb: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let Tokens { t, d, .. } = self.0;
        let (x, b, g) = (raw::slice(GATED, x, lx)?, raw::slice(GATED, b, lb)?, raw::slice(GATED, g, lg)?);
        let mut y = Vec::with_capacity(x.len());
        for ((x, b), gate) in x.chunks_exact(t * d).zip(b.chunks_exact(t * d)).zip(g.chunks_exact(d)) {
            for (x, b) in x.chunks_exact(d).zip(b.chunks_exact(d)) {
                y.extend(x.iter().zip(b).zip(gate).map(|((x, b), gate)| x + (1.0 + gate) * b));
            }
        }
        raw::output(y, self.0.shape())
    }

    fn bwd(
        &self,
        _: &Tensor,
        b: &Tensor,
        g: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Tokens { n, t, d } = self.0;
        let dy = dy.contiguous()?;
        let (bs, gs, dys) = (View::new(GATED, b)?, View::new(GATED, g)?, View::new(GATED, &dy)?);
        let mut db = Vec::with_capacity(bs.len());
        let mut dg = vec![0.0; n * d];
        for (i, dg) in dg.chunks_exact_mut(d).enumerate() {
            let gate = &gs[i * d..][..d];
            for row in i * t..(i + 1) * t {
                let (b, dy) = (&bs[row * d..][..d], &dys[row * d..][..d]);
                db.extend(dy.iter().zip(gate).map(|(dy, gate)| dy * (1.0 + gate)));
                dg.iter_mut().zip(b).zip(dy).for_each(|((dg, b), dy)| *dg += b * dy);
            }
        }
        let (db, dg) = (raw::tensor(db, b.dims())?, raw::tensor(dg, &[n, d])?);
        Ok((Some(dy.clone()), Some(db), Some(dg)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn var(seed: usize, shape: &[usize]) -> Var {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|i: usize| ((i * 29 + seed * 13) % 17) as f32 / 8.0 - 1.0).collect();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn assert_close(name: &str, a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a - b).abs() < 1e-5, "{name}[{i}]: {a}, expected {b}");
        }
    }

    /// Against the same formulas by broadcasting, whose gradients are candle's own.
    #[test]
    fn values_and_gradients_are_those_of_the_broadcast_formula() {
        let (n, t, d) = (3, 4, 5);
        let (x, b, g, c) = (var(1, &[n, t, d]), var(2, &[n, t, d]), var(3, &[n, d]), var(4, &[n, 2 * d]));
        let weights = var(5, &[n, t, d]);
        let (x, b, g, c) = (x.as_tensor(), b.as_tensor(), g.as_tensor(), c.as_tensor());
        let scale = ((c.narrow(1, 0, d).unwrap() + 1.0).unwrap()).unsqueeze(1).unwrap();
        let shift = c.narrow(1, d, d).unwrap().unsqueeze(1).unwrap();
        let modulated = x.broadcast_mul(&scale).unwrap().broadcast_add(&shift).unwrap();
        let gated = (x + b.broadcast_mul(&(g + 1.0).unwrap().unsqueeze(1).unwrap()).unwrap()).unwrap();
        for (name, ours, reference) in
            [(MODULATE, modulate(x, c).unwrap(), modulated), (GATED, gated_add(x, b, g).unwrap(), gated)]
        {
            assert_close(name, &values(&ours), &values(&reference));
            let grads = |y: &Tensor| (y * weights.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
            let (ours, reference) = (grads(&ours), grads(&reference));
            for (which, v) in [("x", x), ("branch", b), ("gate", g), ("scale_shift", c)] {
                if let Some(expected) = reference.get(v) {
                    assert_close(which, &values(ours.get(v).unwrap()), &values(expected));
                }
            }
        }
    }
}
