//! Ridge regression in double precision. It does not know what the numbers stand for.
//!
//! A fit by the normal equations is as sensitive to rounding as they are ill-conditioned, and columns of features that a ReLU
//! made are nearly dependent. So inputs and targets are centred, multiplied and solved for in double precision. The penalty bounds
//! the condition number whatever the inputs: the largest eigenvalue is at most the sum of all variances, `d` times their mean, and
//! the smallest is at least `penalty` times their mean, so it is at most `d / penalty + 1`.

use candle_core::{Device, Error, Result, Tensor};

use super::gram::Panels;
use crate::nn::cpu_tensor::with_cpu_values;

/// Added to the penalty: inputs that do not vary at all have a solution, too.
const LEAST_PENALTY: f64 = 1e-12;
const NOT_FINITE: &str = "the inputs or targets of a least-squares fit are not finite";

/// Weight `[k, d]` and bias `[k]` that predict `targets` `[n, k]` from `inputs` `[n, d]` with the least
/// (weighted) squared error, plus `penalty` times the inputs' mean variance on the squared weights; the bias is
/// free.
///
/// # Errors
/// Shapes that do not fit; inputs or targets that are not finite.
pub(super) fn ridge(
    inputs: &Tensor,
    targets: &Tensor,
    weights: Option<&[f32]>,
    penalty: f64,
) -> Result<(Tensor, Tensor)> {
    #[cfg(test)]
    observe::note(inputs, targets, weights, penalty)?;
    let mut equations = NormalEquations::new(inputs, targets, weights)?;
    equations.penalise(penalty);
    equations.solve()
}

/// `gram · x = right`, of centred inputs and targets.
struct NormalEquations {
    /// Inputs, and columns of the targets.
    d: usize,
    k: usize,
    /// `[d, d]`, symmetric: the inputs' covariances.
    gram: Vec<f64>,
    /// `[d, k]`: covariances of inputs and targets.
    right: Vec<f64>,
    input_mean: Vec<f64>,
    target_mean: Vec<f64>,
}

impl NormalEquations {
    fn new(inputs: &Tensor, targets: &Tensor, weights: Option<&[f32]>) -> Result<Self> {
        let ((n, d), (rows, k)) = (inputs.dims2()?, targets.dims2()?);
        if rows != n || weights.is_some_and(|weights| weights.len() != n) {
            let weights = weights.map(<[f32]>::len);
            return Err(Error::Msg(format!(
                "a fit of {n} rows of inputs, {rows} rows of targets, weights of {weights:?} rows"
            )));
        }
        let mut shares =
            weights.map_or(vec![1.0; n], |weights| weights.iter().copied().map(f64::from).collect());
        let total: f64 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= total);
        // A row's share is the product of its two roots, so the covariances come out symmetric.
        let roots: Vec<f64> = shares.iter().map(|share| share.sqrt()).collect();
        let centred = |tensor: &Tensor, columns: usize| {
            with_cpu_values(&tensor.contiguous()?, |values| {
                let mean = weighted_mean(values, columns, &shares);
                (Panels::new(values, &mean, &roots), mean)
            })
        };
        let ((x, input_mean), (y, target_mean)) = (centred(inputs, d)?, centred(targets, k)?);
        Ok(Self { d, k, gram: x.gram(), right: x.products(&y), input_mean, target_mean })
    }

    /// Adds `penalty` times the inputs' mean variance to the diagonal.
    fn penalise(&mut self, penalty: f64) {
        let diagonal = |i: usize| i * self.d + i;
        let variance = (0..self.d).map(|i| self.gram[diagonal(i)]).sum::<f64>() / self.d as f64;
        (0..self.d).for_each(|i| self.gram[diagonal(i)] += penalty * variance + LEAST_PENALTY);
    }

    /// Weight `[k, d]` and bias `[k]`.
    fn solve(mut self) -> Result<(Tensor, Tensor)> {
        let (d, k) = (self.d, self.k);
        factorise(&mut self.gram, d)?;
        substitute(&self.gram, &mut self.right, d, k);
        if self.right.iter().any(|value| !value.is_finite()) {
            return Err(Error::Msg(NOT_FINITE.to_owned()));
        }
        let mut weight = vec![0f32; k * d];
        for (i, solution) in self.right.chunks_exact(k).enumerate() {
            solution.iter().enumerate().for_each(|(column, value)| weight[column * d + i] = *value as f32);
        }
        // From the weights as they are kept, so that the bias takes their rounding back.
        let bias = weight.chunks_exact(d).zip(&self.target_mean).map(|(weight, target)| {
            let predicted =
                weight.iter().zip(&self.input_mean).map(|(weight, mean)| f64::from(*weight) * mean);
            (target - predicted.sum::<f64>()) as f32
        });
        let bias = bias.collect::<Vec<f32>>();
        Ok((Tensor::from_vec(weight, (k, d), &Device::Cpu)?, Tensor::from_vec(bias, k, &Device::Cpu)?))
    }
}

/// The mean of each column of row-major `values`, with a share for each row.
fn weighted_mean(values: &[f32], columns: usize, shares: &[f64]) -> Vec<f64> {
    let mut mean = vec![0.0; columns];
    for (row, share) in values.chunks_exact(columns).zip(shares) {
        mean.iter_mut().zip(row).for_each(|(mean, &value)| *mean += share * f64::from(value));
    }
    mean
}

/// Cholesky: the upper triangle of the symmetric positive definite `a` (`d × d`) becomes `r` with `rᵀ r = a`. Each element is
/// the difference of products in the order of the rows above.
fn factorise(a: &mut [f64], d: usize) -> Result<()> {
    for row in 0..d {
        let (above, rest) = a.split_at_mut(row * d);
        let current = &mut rest[row..d];
        for above in above.chunks_exact(d) {
            subtract(current, above[row], &above[row..]);
        }
        let pivot = current[0];
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(Error::Msg(NOT_FINITE.to_owned()));
        }
        let root = pivot.sqrt();
        current.iter_mut().for_each(|value| *value /= root);
    }
    Ok(())
}

/// Solves `rᵀ r · x = b` for the upper triangle `r`; `b` (`d × k`) becomes `x`.
fn substitute(r: &[f64], b: &mut [f64], d: usize, k: usize) {
    for row in 0..d {
        let (known, rest) = b.split_at_mut((row + 1) * k);
        let known = &mut known[row * k..];
        known.iter_mut().for_each(|value| *value /= r[row * d + row]);
        for (rest, factor) in rest.chunks_exact_mut(k).zip(&r[row * d + row + 1..]) {
            subtract(rest, *factor, known);
        }
    }
    for row in (0..d).rev() {
        let (rest, known) = b.split_at_mut((row + 1) * k);
        let current = &mut rest[row * k..];
        for (known, factor) in known.chunks_exact(k).zip(&r[row * d + row + 1..]) {
            subtract(current, *factor, known);
        }
        current.iter_mut().for_each(|value| *value /= r[row * d + row]);
    }
}

/// Takes `factor` times `from` from `to`.
fn subtract(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to -= factor * from);
}

#[cfg(test)]
pub(super) mod observe {
    //! What a test can learn of the fits that other code makes: see [`fits`].

    use std::cell::RefCell;

    use super::*;
    use crate::nn::cpu_tensor::cpu_vec;

    /// A fit that was computed.
    #[derive(Debug)]
    pub struct Fit {
        /// Rows, inputs and columns of targets.
        pub sizes: [usize; 3],
        /// Condition number of the covariances, and of what is solved.
        pub conditions: [f64; 2],
        /// How much weight and bias move when every input moves by a unit in the last place, as shares of their norms.
        pub moved: [f64; 2],
    }

    thread_local! {
        static FITS: RefCell<Option<Vec<Fit>>> = const { RefCell::new(None) };
    }

    impl std::fmt::Display for Fit {
        fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            let ([rows, inputs, outputs], [before, after], [weight, bias]) =
                (self.sizes, self.conditions, self.moved);
            write!(
                f,
                "{rows} rows, {inputs} inputs, {outputs} outputs: condition number {before:.1e}, {after:.1e} with the \
                 penalty; a unit in the last place moves the weight by {weight:.1e}, the bias by {bias:.1e}"
            )
        }
    }

    /// The fits that `f` makes on this thread.
    pub fn fits(f: impl FnOnce()) -> Vec<Fit> {
        FITS.set(Some(Vec::new()));
        f();
        FITS.take().unwrap()
    }

    pub fn note(inputs: &Tensor, targets: &Tensor, weights: Option<&[f32]>, penalty: f64) -> Result<()> {
        if FITS.with_borrow(Option::is_none) {
            return Ok(());
        }
        let mut fits = FITS.take().unwrap();
        let mut equations = NormalEquations::new(inputs, targets, weights)?;
        let before = equations.condition();
        equations.penalise(penalty);
        let conditions = [before, equations.condition()];
        let (sizes, solution) = ([inputs.dim(0)?, equations.d, equations.k], equations.solve()?);
        let moved = ridge(&by_a_unit(inputs), targets, weights, penalty)?;
        let moved = [off(&moved.0, &solution.0), off(&moved.1, &solution.1)];
        fits.push(Fit { sizes, conditions, moved });
        FITS.set(Some(fits));
        Ok(())
    }

    /// Every value up or down by a unit in the last place, as a hash of its number decides.
    pub fn by_a_unit(tensor: &Tensor) -> Tensor {
        let values = cpu_vec(tensor).unwrap().into_iter().zip(0u64..).map(|(value, at)| {
            let up = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & 1 == 0;
            if value == 0.0 {
                value
            } else if up {
                value.next_up()
            } else {
                value.next_down()
            }
        });
        Tensor::from_vec(values.collect::<Vec<_>>(), tensor.shape(), &Device::Cpu).unwrap()
    }

    /// The norm of the difference as a share of the norm of what is expected.
    pub fn off(found: &Tensor, expected: &Tensor) -> f64 {
        let (found, expected) = (cpu_vec(found).unwrap(), cpu_vec(expected).unwrap());
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let mut differences = found.iter().zip(&expected).map(|(a, b)| f64::from(*a) - f64::from(*b));
        norm(&mut differences) / norm(&mut expected.iter().copied().map(f64::from))
    }

    impl NormalEquations {
        /// The largest eigenvalue over the smallest, by power iteration on the matrix and on its inverse. Infinite where the
        /// matrix is not positive definite in double precision.
        pub fn condition(&self) -> f64 {
            let d = self.d;
            let mut factor = self.gram.clone();
            if factorise(&mut factor, d).is_err() {
                return f64::INFINITY;
            }
            let largest = largest_eigenvalue(d, |x| {
                let rows = self.gram.chunks_exact(d);
                rows.map(|row| row.iter().zip(&*x).map(|(a, b)| a * b).sum()).collect()
            });
            let inverse = largest_eigenvalue(d, |x| {
                let mut x = x.to_vec();
                substitute(&factor, &mut x, d, 1);
                x
            });
            largest * inverse
        }
    }

    fn largest_eigenvalue(d: usize, apply: impl Fn(&[f64]) -> Vec<f64>) -> f64 {
        let mut x: Vec<f64> = (0..d).map(|i| 1.0 + (i * 7 % 11) as f64).collect();
        let mut eigenvalue = 0.0;
        for _ in 0..200 {
            let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            x.iter_mut().for_each(|x| *x /= norm);
            let next = apply(&x);
            eigenvalue = x.iter().zip(&next).map(|(a, b)| a * b).sum();
            x = next;
        }
        eigenvalue
    }
}

#[cfg(test)]
// The figures are worth a look: see `tests.rs` next to this file.
#[allow(clippy::print_stdout)]
mod tests {
    use super::observe::{by_a_unit, off};
    use super::*;
    use crate::nn::cpu_tensor::cpu_vec;

    #[test]
    fn ridge_finds_an_exact_linear_map() {
        let x: Vec<f32> = (0..60).map(|i| libm::sinf((i * i) as f32 * 1.7)).collect();
        let y: Vec<f32> = x.chunks(3).flat_map(|x| [2.0 * x[0] - x[2] + 0.5, x[1] - 3.0]).collect();
        let x = Tensor::from_vec(x, (20, 3), &Device::Cpu).unwrap();
        let y = Tensor::from_vec(y, (20, 2), &Device::Cpu).unwrap();
        let weights: Vec<f32> = (0..20).map(|i| 1.0 + (i % 3) as f32).collect();
        for weights in [None, Some(weights.as_slice())] {
            let (weight, bias) = ridge(&x, &y, weights, 1e-9).unwrap();
            let found = [cpu_vec(&weight).unwrap(), cpu_vec(&bias).unwrap()].concat();
            for (found, expected) in found.iter().zip([2.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.5, -3.0]) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_row_of_weight_two_counts_twice() {
        let (x, y) = nearly_dependent();
        let rows = x.dim(0).unwrap() as u32;
        let twice: Vec<u32> = (0..rows).flat_map(|row| vec![row; 1 + row as usize % 2]).collect();
        let twice = Tensor::from_vec(twice.clone(), twice.len(), &Device::Cpu).unwrap();
        let [more_x, more_y] = [&x, &y].map(|tensor| tensor.index_select(&twice, 0).unwrap());
        let weights: Vec<f32> = (0..rows).map(|row| 1.0 + (row % 2) as f32).collect();
        let weighted = ridge(&x, &y, Some(&weights), 1e-2).unwrap();
        let repeated = ridge(&more_x, &more_y, None, 1e-2).unwrap();
        assert!(off(&weighted.0, &repeated.0) < 1e-7 && off(&weighted.1, &repeated.1) < 1e-7);
    }

    #[test]
    fn ridge_refuses_what_is_not_finite_and_what_does_not_fit() {
        let nan = Tensor::from_slice(&[f32::NAN, 1.0], (2, 1), &Device::Cpu).unwrap();
        let x = Tensor::from_slice(&[2.0f32, 1.0], (2, 1), &Device::Cpu).unwrap();
        for (x, y) in [(&nan, &x), (&x, &nan)] {
            assert!(ridge(x, y, None, 1.0).unwrap_err().to_string().contains("not finite"));
        }
        assert!(ridge(&x, &x, Some(&[1.0]), 1.0).unwrap_err().to_string().contains("rows"));
    }

    /// Features that a random layer makes of four inputs, cut off as by a ReLU, about a mean of 1: nearly dependent columns.
    fn nearly_dependent() -> (Tensor, Tensor) {
        let (n, d) = (500, 48);
        let drawn = |i: usize| ((i as u32).wrapping_mul(0x9e37_79b9) >> 8) as f32 / 16_777_216.0 - 0.5;
        let feature = |row: usize, column: usize| {
            let sum: f32 = (0..4).map(|i| drawn(4 * row + i + 1) * drawn(9000 + 4 * column + i)).sum();
            1.0 + sum.max(-0.05) + 1e-3 * drawn(77_777 + d * row + column)
        };
        let x = (0..n * d).map(|i| feature(i / d, i % d)).collect::<Vec<f32>>();
        let y = (0..n).map(|row| f32::from(drawn(4 * row + 1) > drawn(4 * row + 2))).collect::<Vec<f32>>();
        (
            Tensor::from_vec(x, (n, d), &Device::Cpu).unwrap(),
            Tensor::from_vec(y, (n, 1), &Device::Cpu).unwrap(),
        )
    }

    #[test]
    fn nearly_dependent_inputs_do_not_blow_up_rounding() {
        let (x, y) = nearly_dependent();
        let mut equations = NormalEquations::new(&x, &y, None).unwrap();
        let before = equations.condition();
        equations.penalise(1e-2);
        let after = equations.condition();
        println!("condition number {before:.1e}, with the penalty {after:.1e}");
        assert!(before > 1e5 && after <= 48.0 / 1e-2 + 1.0, "{before} {after}");
        let (weight, bias) = ridge(&x, &y, None, 1e-2).unwrap();
        let moved = ridge(&by_a_unit(&x), &y, None, 1e-2).unwrap();
        let moved = [off(&moved.0, &weight), off(&moved.1, &bias)];
        let [weight, bias] = moved;
        println!(
            "inputs moved by a unit in the last place move the weight by {weight:.1e}, the bias by {bias:.1e}"
        );
        assert!(moved.iter().all(|&moved| moved < 1e-5), "{moved:?}");
    }

    #[test]
    fn threads_change_no_bit() {
        let (x, y) = nearly_dependent();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (weight, bias) = pool.install(|| ridge(&x, &y, None, 1e-2)).unwrap();
            [cpu_vec(&weight).unwrap(), cpu_vec(&bias).unwrap()].concat()
        };
        assert!(run(1) == run(3));
    }
}
