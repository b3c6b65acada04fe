//! Attention, forward and backward, against its definition.

use crate::support::*;

/// Products of 22 bits of each factor, sums of up to a few hundred of them, an exponential.
const PRODUCTS: f64 = 3e-6;
/// Scale times a product of rows, two of which a gradient is the difference of: with one key, their rounding is all that is left.
const DIFFERENCE: f64 = 0.3;

/// A problem: its shape, its inputs, and what must come out, all in double precision.
struct Case {
    queries: Sequences,
    keys: Sequences,
    heads: usize,
    width: usize,
    q_stride: usize,
    kv_stride: usize,
    scale: f32,
    mask: Mask,
    with_bias: bool,
    q: Buffer,
    k: Buffer,
    v: Buffer,
    bias: Buffer,
    grad: Buffer,
}

/// What must come out: context, logarithms of the rows' sums, delta, and the gradients of q, k and v, with the strides of q, k, v.
/// Sums and deltas are NaN where there is no query.
struct Expected {
    context: Vec<f64>,
    logsum: Vec<f64>,
    delta: Vec<f64>,
    grads: [Vec<f64>; 3],
}

impl Case {
    fn new(
        (queries, keys): (Sequences, Sequences),
        (heads, width): (usize, usize),
        more: usize,
        mask: Mask,
        random: &mut Random,
    ) -> Self {
        let hidden = heads * width;
        let (q_stride, kv_stride) = (hidden + more, hidden + 2 * more);
        let length = keys.length();
        let mut bias = random.values(keys.batch() * length).values().to_vec();
        // Some keys are masked, as padding is, never all of an entry; some by minus infinity.
        for (i, bias) in bias.iter_mut().enumerate() {
            match i % length {
                at if at % 7 == 3 => *bias = -10_000.0,
                at if at % 11 == 4 => *bias = f32::NEG_INFINITY,
                _ => {}
            }
        }
        Self {
            heads,
            width,
            q_stride,
            kv_stride,
            scale: 1.0 / (width as f32).sqrt(),
            mask,
            with_bias: more > 0 && !keys.is_packed(),
            q: random.values(queries.rows() * q_stride),
            k: random.values(keys.rows() * kv_stride),
            v: random.values(keys.rows() * kv_stride),
            bias: Buffer::new(&bias),
            grad: random.values(queries.rows() * hidden),
            queries,
            keys,
        }
    }

    /// The kernel for this width: `attention_forward@sm70` is `attention_forward_64@sm70`, for one.
    fn name(&self, kernel: &str) -> String {
        let padded = [16, 32, 64, 128].into_iter().find(|padded| *padded >= self.width).unwrap();
        let (name, suffix) = kernel.split_at(kernel.find('@').unwrap_or(kernel.len()));
        format!("{name}_{padded}{suffix}")
    }

    fn expected(&self) -> Expected {
        let Self { heads, width, .. } = *self;
        let (batch, queries, keys) = (self.queries.batch(), self.queries.length(), self.keys.length());
        let (q, k, v, grad, bias) =
            (self.q.wide(), self.k.wide(), self.v.wide(), self.grad.wide(), self.bias.wide());
        let (hidden, scale) = (heads * width, f64::from(self.scale));
        let mut found = Expected {
            context: vec![0.0; grad.len()],
            logsum: vec![f64::NAN; batch * heads * queries],
            delta: vec![f64::NAN; batch * heads * queries],
            grads: [&q, &k, &v].map(|of| vec![0.0; of.len()]),
        };
        for b in 0..batch {
            for head in 0..heads {
                let kv_at = |key: usize, c: usize| key * self.kv_stride + head * width + c;
                for (number, (query, position)) in self.queries.of(b).enumerate() {
                    let q_at = |c: usize| query * self.q_stride + head * width + c;
                    let at = |c: usize| query * hidden + head * width + c;
                    let of_keys = self.keys.of(b);
                    let score = |(key, position): (usize, usize)| {
                        let product: f64 = (0..width).map(|c| q[q_at(c)] * k[kv_at(key, c)]).sum();
                        product * scale + if self.with_bias { bias[b * keys + position] } else { 0.0 }
                    };
                    let scores: Vec<f64> = of_keys.clone().map(score).collect();
                    let total: f64 = scores.iter().map(|score| libm::exp(*score)).sum();
                    let line = ((b * heads + head) * queries + position) * keys;
                    let p = scores.iter().map(|score| libm::exp(*score) / total);
                    let of_keys: Vec<(usize, f64, f64, f64)> = of_keys
                        .zip(p)
                        .map(|((key, position), p)| {
                            let kept = self.mask.factor(line + position);
                            let grad: f64 = (0..width).map(|c| grad[at(c)] * v[kv_at(key, c)]).sum();
                            (key, p, kept, kept * grad)
                        })
                        .collect();
                    let along: f64 = of_keys.iter().map(|(_, p, _, grad)| p * grad).sum();
                    for (key, p, kept, grad_p) in of_keys {
                        let grad_score = p * (grad_p - along);
                        for c in 0..width {
                            found.context[at(c)] += kept * p * v[kv_at(key, c)];
                            found.grads[0][q_at(c)] += scale * grad_score * k[kv_at(key, c)];
                            found.grads[1][kv_at(key, c)] += scale * grad_score * q[q_at(c)];
                            found.grads[2][kv_at(key, c)] += kept * p * grad[at(c)];
                        }
                    }
                    let sum = (b * heads + head) * queries + number;
                    found.logsum[sum] = libm::log(total);
                    found.delta[sum] = (0..width).map(|c| grad[at(c)] * found.context[at(c)]).sum();
                }
            }
        }
        found
    }

    fn bias(&self) -> Arg {
        if self.with_bias { input(&self.bias) } else { NULL }
    }

    /// The mask, which rows there are, and the sizes.
    fn sizes(&self) -> Vec<Arg> {
        let Self { queries, keys, heads, width, q_stride, kv_stride, .. } = self;
        let sizes = [queries.length(), keys.length(), *heads, *width, *q_stride, *kv_stride].map(size);
        [&[self.mask.arg(), queries.arg(), keys.arg()], &sizes[..]].concat()
    }

    /// Values in rows of a stride, between which nothing is written.
    fn close_rows(&self, what: &str, found: &Buffer, expected: &[f64], stride: usize) -> Checked {
        let is_gap = |at: usize| at % stride >= self.heads * self.width;
        close_but(DIFFERENCE, what, found, expected, is_gap, PRODUCTS)
    }
}

/// Values of a head's rows, some of which are not there.
fn close_sums(what: &str, found: &Buffer, expected: &[f64], tolerance: f64) -> Checked {
    close_but(f64::MIN_POSITIVE, what, found, expected, |at| expected[at].is_nan(), tolerance)
}

/// Whether all values are close, as [`close_of`] says, but those that must not be written.
fn close_but(
    size: f64,
    what: &str,
    found: &Buffer,
    expected: &[f64],
    is_gap: impl Fn(usize) -> bool,
    tolerance: f64,
) -> Checked {
    if found.values().iter().enumerate().any(|(at, value)| is_gap(at) && !value.is_nan()) {
        return Err(format!("{what}: written where there is nothing"));
    }
    found.guard_is_whole().map_err(|error| format!("{what}: {error}"))?;
    let there = |at: &usize| !is_gap(*at);
    let found_there: Vec<f32> = (0..expected.len()).filter(there).map(|at| found.values()[at]).collect();
    let expected: Vec<f64> = (0..expected.len()).filter(there).map(|at| expected[at]).collect();
    close_of(size, what, &Buffer::new(&found_there), &expected, tolerance)
}

/// Queries and keys, heads and width, and the values between two rows of q; with dropout and without it.
fn cases(random: &mut Random) -> Vec<Case> {
    let padded = Sequences::padded;
    // A full sequence, one of one row, one with a gap; blocks of queries and of keys without rows, and some with few.
    let long = Sequences::packed(70, &[&[70], &[1], &[3, 40, 6]]);
    let short = Sequences::packed(19, &[&[4, 3, 5], &[19], &[1, 7, 1]]);
    let shapes = [
        ((padded(2, 3), padded(2, 5)), (2, 4), 0),
        ((padded(1, 35), padded(1, 50)), (2, 16), 4),
        ((padded(2, 1), padded(2, 40)), (1, 20), 8),
        ((padded(1, 70), padded(1, 37)), (1, 64), 12),
        ((padded(1, 20), padded(1, 33)), (1, 100), 4),
        ((padded(1, 33), padded(1, 17)), (1, 128), 0),
        ((long.clone(), long.clone()), (2, 5), 4),
        ((long.clone(), short.clone()), (1, 20), 0),
        ((short.clone(), padded(3, 7)), (2, 40), 4),
        ((padded(3, 1), short.clone()), (1, 64), 0),
        ((short, long), (1, 65), 4),
    ];
    let both = |(sequences, sizes, more): ((Sequences, Sequences), _, _)| {
        [THIRD, NONE].map(|mask| (sequences.clone(), sizes, more, mask))
    };
    let of = |(sequences, sizes, more, mask)| Case::new(sequences, sizes, more, mask, random);
    shapes.into_iter().flat_map(both).map(of).collect()
}

pub fn forward(kernel: &str, seed: u64) -> Checked {
    for case in cases(&mut Random::new(seed)) {
        let expected = case.expected();
        let mut context = Buffer::poisoned(expected.context.len());
        let mut logsum = Buffer::poisoned(expected.logsum.len());
        for keep in [true, false] {
            let kept = if keep { output(&mut logsum) } else { NULL };
            let inputs = [input(&case.q), input(&case.k), input(&case.v), case.bias()];
            let args = [&[output(&mut context), kept], &inputs[..], &case.sizes(), &[real(case.scale)]];
            let grid = [case.queries.length().div_ceil(64), case.heads, case.queries.batch()];
            launch(&case.name(kernel), (grid, 128), &args.concat(), seed)?;
            close("context", &context, &expected.context, PRODUCTS)?;
        }
        close_sums("logsum", &logsum, &expected.logsum, PRODUCTS)?;
    }
    all_keys_masked(kernel, seed)
}

/// A softmax of minus infinities alone is NaN. A first tile of them does not spoil the others.
fn all_keys_masked(kernel: &str, seed: u64) -> Checked {
    for (masked, is_nan) in [(40, true), (39, false)] {
        let sequences = (Sequences::padded(1, 2), Sequences::padded(1, 40));
        let mut case = Case::new(sequences, (1, 16), 4, NONE, &mut Random::new(seed));
        let bias: Vec<f32> = (0..40).map(|key| if key < masked { f32::NEG_INFINITY } else { 0.0 }).collect();
        case.bias = Buffer::new(&bias);
        let mut context = Buffer::new(&[0.0; 32]);
        let inputs = [input(&case.q), input(&case.k), input(&case.v), case.bias()];
        let args =
            [&[output(&mut context), NULL], &inputs[..], &case.sizes()[..], &[real(case.scale)]].concat();
        launch(&case.name(kernel), ([1, 1, 1], 128), &args, seed)?;
        if is_nan && !context.values().iter().all(|value| value.is_nan()) {
            return Err(format!("all masked: {:?}", context.values()));
        }
        if !is_nan {
            // Only the last key is left.
            let last = (0..32).map(|at| case.v.at(39 * case.kv_stride + at % 16)).collect::<Vec<_>>();
            close("one key left", &context, &last, PRODUCTS)?;
        }
    }
    Ok(())
}

pub fn delta(kernel: &str, seed: u64) -> Checked {
    for case in cases(&mut Random::new(seed)) {
        let expected = case.expected();
        let context = Buffer::new(&expected.context.iter().map(|value| *value as f32).collect::<Vec<_>>());
        let (mut delta, count) = (Buffer::poisoned(expected.delta.len()), case.queries.rows());
        let sizes = [count, case.queries.length(), case.heads, case.width].map(size);
        let inputs = [input(&case.grad), input(&context), case.queries.arg()];
        let args = [&[output(&mut delta)], &inputs[..], &sizes].concat();
        launch(kernel, rows(count * case.heads), &args, seed)?;
        // A sum of up to 128 products.
        close_sums("delta", &delta, &expected.delta, 1e-6)?;
    }
    Ok(())
}

/// What a backward kernel reads, its outputs, and the rows of its grid.
fn run_backward(
    case: &Case,
    kernel: &str,
    expected: &Expected,
    outputs: &[Arg],
    stride: usize,
    sequences: &Sequences,
    seed: u64,
) -> Checked {
    let narrow = |values: &[f64]| Buffer::new(&values.iter().map(|value| *value as f32).collect::<Vec<_>>());
    let (logsum, delta) = (narrow(&expected.logsum), narrow(&expected.delta));
    let args = [
        outputs,
        &[
            input(&case.q),
            input(&case.k),
            input(&case.v),
            case.bias(),
            input(&logsum),
            input(&delta),
            input(&case.grad),
        ],
        &case.sizes(),
        &[size(stride), real(case.scale)],
    ];
    let (at_once, block) = if case.width > 64 { (32, 64) } else { (64, 128) };
    let grid = [sequences.length().div_ceil(at_once), case.heads, sequences.batch()];
    launch(&case.name(kernel), (grid, block), &args.concat(), seed)
}

pub fn backward_queries(kernel: &str, seed: u64) -> Checked {
    for case in cases(&mut Random::new(seed)) {
        let expected = case.expected();
        let mut grad_q = Buffer::poisoned(expected.grads[0].len());
        let outputs = [output(&mut grad_q)];
        run_backward(&case, kernel, &expected, &outputs, case.q_stride, &case.queries, seed)?;
        case.close_rows("gradient of q", &grad_q, &expected.grads[0], case.q_stride)?;
    }
    Ok(())
}

pub fn backward_keys(kernel: &str, seed: u64) -> Checked {
    for case in cases(&mut Random::new(seed)) {
        let expected = case.expected();
        let [mut grad_k, mut grad_v] = [1, 2].map(|of| Buffer::poisoned(expected.grads[of].len()));
        let outputs = [output(&mut grad_k), output(&mut grad_v)];
        run_backward(&case, kernel, &expected, &outputs, case.kv_stride, &case.keys, seed)?;
        case.close_rows("gradient of k", &grad_k, &expected.grads[1], case.kv_stride)?;
        case.close_rows("gradient of v", &grad_v, &expected.grads[2], case.kv_stride)?;
    }
    Ok(())
}
