//! Tensors cut along an axis, and numbers spread along a new one.

use candle_core::{D, Tensor, Var};

use super::raw;
use crate::{Error, Result, tape};

const SPLIT: &str = "split";
const SPREAD: &str = "spread";

/// `x` in `count` parts of equal length along `axis`.
///
/// # Errors
/// No such axis, or one that `count` does not divide.
pub fn split(x: &Tensor, axis: usize, count: usize) -> Result<Vec<Tensor>> {
    let x = raw::prepare(SPLIT, x)?;
    let length = match x.dims().get(axis) {
        Some(length) if count > 0 && length.is_multiple_of(count) => length / count,
        _ => {
            let what = format!("{:?} does not divide into {count} parts along axis {axis}", x.dims());
            return Err(Error::Argument { op: SPLIT, what });
        }
    };
    parts(&x, axis, length, |part| Ok(part.contiguous()?))
}

/// The rows \[..\] of a table \[rows, ..\].
///
/// # Errors
/// A scalar.
pub fn rows(table: &Tensor) -> Result<Vec<Tensor>> {
    let table = raw::prepare(SPLIT, table)?;
    if table.rank() == 0 {
        return Err(raw::shape_error(SPLIT, "table", "[rows, ..]", &table));
    }
    parts(&table, 0, 1, |row| Ok(row.squeeze(0)?))
}

fn parts(x: &Tensor, axis: usize, length: usize, form: impl Fn(Tensor) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    let (recorded, plain) = (tape::records(&[x]), x.detach());
    let part = |start: usize| {
        if !recorded {
            return form(x.narrow(axis, start, length)?);
        }
        let copy = Var::from_tensor(&plain.narrow(axis, start, length).map_err(Error::from).and_then(&form)?)?;
        Ok(tape::record_slice(x, axis, start, copy))
    };
    (0..x.dims()[axis]).step_by(length.max(1)).map(part).collect()
}

/// Each element of `x` \[..\] `channels` times, \[.., channels\].
///
/// # Errors
/// Another type than f32.
pub fn spread(x: &Tensor, channels: usize) -> Result<Tensor> {
    let x = raw::prepare(SPREAD, x)?;
    let wide = |x: &Tensor| x.unsqueeze(D::Minus1)?.broadcast_as([x.dims(), &[channels]].concat());
    if !tape::records(&[&x]) {
        return Ok(wide(&x)?.contiguous()?);
    }
    let result = Var::from_tensor(&wide(&x.detach())?)?;
    Ok(tape::record_variable(&[&x], result, |_, _, grad| Ok(vec![Some(grad.sum(D::Minus1)?)])))
}
