//! Attention, forward and backward, against its definition.

use crate::support::*;

/// Products of 22 bits of each factor, sums of up to a few hundred of them, an exponential.
const PRODUCTS: f64 = 3e-6;

/// A problem: its shape, its inputs, and what must come out, all in double precision.
struct Case {
    batch: usize,
    queries: usize,
    keys: usize,
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
struct Expected {
    context: Vec<f64>,
    logsum: Vec<f64>,
    delta: Vec<f64>,
    grads: [Vec<f64>; 3],
}

impl Case {
    fn new(
        (batch, queries, keys, heads, width): (usize, usize, usize, usize, usize),
        more: usize,
        mask: Mask,
        random: &mut Random,
    ) -> Self {
        let hidden = heads * width;
        let (q_stride, kv_stride) = (hidden + more, hidden + 2 * more);
        let mut bias = random.values(batch * keys).values().to_vec();
        // Some keys are masked, as padding is, never all of an entry; some by minus infinity.
        for (i, bias) in bias.iter_mut().enumerate() {
            match i % keys {
                at if at % 7 == 3 => *bias = -10_000.0,
                at if at % 11 == 4 => *bias = f32::NEG_INFINITY,
                _ => {}
            }
        }
        Self {
            batch,
            queries,
            keys,
            heads,
            width,
            q_stride,
            kv_stride,
            scale: 1.0 / (width as f32).sqrt(),
            mask,
            with_bias: more > 0,
            q: random.values(batch * queries * q_stride),
            k: random.values(batch * keys * kv_stride),
            v: random.values(batch * keys * kv_stride),
            bias: Buffer::new(&bias),
            grad: random.values(batch * queries * hidden),
        }
    }

    /// The kernel for this width: `attention_forward@sm70` is `attention_forward_64@sm70`, for one.
    fn name(&self, kernel: &str) -> String {
        let padded = [16, 32, 64, 128].into_iter().find(|padded| *padded >= self.width).unwrap();
        let (name, suffix) = kernel.split_at(kernel.find('@').unwrap_or(kernel.len()));
        format!("{name}_{padded}{suffix}")
    }

    fn expected(&self) -> Expected {
        let Self { batch, queries, keys, heads, width, .. } = *self;
        let (q, k, v, grad, bias) =
            (self.q.wide(), self.k.wide(), self.v.wide(), self.grad.wide(), self.bias.wide());
        let (hidden, scale) = (heads * width, f64::from(self.scale));
        let mut found = Expected {
            context: vec![0.0; batch * queries * hidden],
            logsum: Vec::new(),
            delta: Vec::new(),
            grads: [&q, &k, &v].map(|of| vec![0.0; of.len()]),
        };
        for b in 0..batch {
            for head in 0..heads {
                let kv_at = |key: usize, c: usize| (b * keys + key) * self.kv_stride + head * width + c;
                for query in 0..queries {
                    let line = (b * heads + head) * queries + query;
                    let q_at = |c: usize| (b * queries + query) * self.q_stride + head * width + c;
                    let at = |c: usize| (b * queries + query) * hidden + head * width + c;
                    let score = |key: usize| {
                        let product: f64 = (0..width).map(|c| q[q_at(c)] * k[kv_at(key, c)]).sum();
                        product * scale + if self.with_bias { bias[b * keys + key] } else { 0.0 }
                    };
                    let scores: Vec<f64> = (0..keys).map(score).collect();
                    let total: f64 = scores.iter().map(|score| libm::exp(*score)).sum();
                    let p: Vec<f64> = scores.iter().map(|score| libm::exp(*score) / total).collect();
                    let kept: Vec<f64> = (0..keys).map(|key| self.mask.factor(line * keys + key)).collect();
                    let grad_p: Vec<f64> = (0..keys)
                        .map(|key| {
                            kept[key] * (0..width).map(|c| grad[at(c)] * v[kv_at(key, c)]).sum::<f64>()
                        })
                        .collect();
                    let along: f64 = p.iter().zip(&grad_p).map(|(p, grad)| p * grad).sum();
                    for key in 0..keys {
                        let grad_score = p[key] * (grad_p[key] - along);
                        for c in 0..width {
                            found.context[at(c)] += kept[key] * p[key] * v[kv_at(key, c)];
                            found.grads[0][q_at(c)] += scale * grad_score * k[kv_at(key, c)];
                            found.grads[1][kv_at(key, c)] += scale * grad_score * q[q_at(c)];
                            found.grads[2][kv_at(key, c)] += kept[key] * p[key] * grad[at(c)];
                        }
                    }
                    found.logsum.push(libm::log(total));
                    found.delta.push((0..width).map(|c| grad[at(c)] * found.context[at(c)]).sum());
                }
            }
        }
        found
    }

    fn bias(&self) -> Arg {
        if self.with_bias { input(&self.bias) } else { NULL }
    }

    fn sizes(&self) -> [Arg; 6] {
        [self.queries, self.keys, self.heads, self.width, self.q_stride, self.kv_stride].map(size)
    }

    /// Where an output with a stride has values between its rows, which are not written.
    fn gaps(&self, values: &[f64], stride: usize) -> Vec<bool> {
        (0..values.len()).map(|at| at % stride >= self.heads * self.width).collect()
    }

    fn close_rows(&self, what: &str, found: &Buffer, expected: &[f64], stride: usize) -> Checked {
        let gaps = self.gaps(expected, stride);
        if found.values().iter().zip(&gaps).any(|(value, gap)| *gap && !value.is_nan()) {
            return Err(format!("{what}: written between its rows"));
        }
        let filled: Vec<f32> =
            found.values().iter().zip(&gaps).map(|(value, gap)| if *gap { 0.0 } else { *value }).collect();
        close(what, &Buffer::new(&filled), expected, PRODUCTS)
    }
}

/// Batch, queries, keys, heads, width; and the values between two rows of q.
fn cases(random: &mut Random) -> Vec<Case> {
    let shapes = [
        ((2, 3, 5, 2, 4), 0),
        ((1, 35, 50, 2, 16), 4),
        ((2, 1, 40, 1, 20), 8),
        ((1, 70, 37, 1, 64), 12),
        ((1, 20, 33, 1, 100), 4),
        ((1, 33, 17, 1, 128), 0),
    ];
    let of = |((shape, more), mask): (_, Mask)| Case::new(shape, more, mask, random);
    shapes.into_iter().flat_map(|shape| [(shape, THIRD), (shape, NONE)]).map(of).collect()
}

pub fn forward(kernel: &str, seed: u64) -> Checked {
    for case in cases(&mut Random::new(seed)) {
        let expected = case.expected();
        let mut context = Buffer::poisoned(expected.context.len());
        let mut logsum = Buffer::poisoned(expected.logsum.len());
        for keep in [true, false] {
            let kept = if keep { output(&mut logsum) } else { NULL };
            let args = [
                &[
                    output(&mut context),
                    kept,
                    input(&case.q),
                    input(&case.k),
                    input(&case.v),
                    case.bias(),
                    case.mask.arg(),
                ],
                &case.sizes()[..],
                &[real(case.scale)],
            ];
            let grid = [case.queries.div_ceil(64), case.heads, case.batch];
            launch(&case.name(kernel), (grid, 128), &args.concat(), seed)?;
            close("context", &context, &expected.context, PRODUCTS)?;
        }
        close("logsum", &logsum, &expected.logsum, PRODUCTS)?;
    }
    all_keys_masked(kernel, seed)
}

/// A softmax of minus infinities alone is NaN. A first tile of them does not spoil the others.
fn all_keys_masked(kernel: &str, seed: u64) -> Checked {
    for (masked, is_nan) in [(40, true), (39, false)] {
        let mut case = Case::new((1, 2, 40, 1, 16), 4, NONE, &mut Random::new(seed));
        let bias: Vec<f32> = (0..40).map(|key| if key < masked { f32::NEG_INFINITY } else { 0.0 }).collect();
        case.bias = Buffer::new(&bias);
        let mut context = Buffer::new(&[0.0; 32]);
        let q = [
            output(&mut context),
            NULL,
            input(&case.q),
            input(&case.k),
            input(&case.v),
            case.bias(),
            case.mask.arg(),
        ];
        let args = [&q, &case.sizes()[..], &[real(case.scale)]].concat();
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
        let (mut delta, count) = (Buffer::poisoned(expected.delta.len()), case.batch * case.queries);
        let sizes = [count, case.queries, case.heads, case.width].map(size);
        let args = [&[output(&mut delta), input(&case.grad), input(&context)], &sizes[..]].concat();
        launch(kernel, rows(count * case.heads), &args, seed)?;
        // A sum of up to 128 products.
        close("delta", &delta, &expected.delta, 1e-6)?;
    }
    Ok(())
}

/// What a backward kernel reads, its outputs, and the columns and blocks of its grid.
fn run_backward(
    case: &Case,
    kernel: &str,
    expected: &Expected,
    outputs: &[Arg],
    stride: usize,
    count: usize,
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
        &[case.mask.arg()],
        &case.sizes(),
        &[size(stride), real(case.scale)],
    ];
    let (at_once, block) = if case.width > 64 { (32, 64) } else { (64, 128) };
    let grid = [count.div_ceil(at_once), case.heads, case.batch];
    launch(&case.name(kernel), (grid, block), &args.concat(), seed)
}

pub fn backward_queries(kernel: &str, seed: u64) -> Checked {
    for case in cases(&mut Random::new(seed)) {
        let expected = case.expected();
        let mut grad_q = Buffer::poisoned(expected.grads[0].len());
        let outputs = [output(&mut grad_q)];
        run_backward(&case, kernel, &expected, &outputs, case.q_stride, case.queries, seed)?;
        case.close_rows("gradient of q", &grad_q, &expected.grads[0], case.q_stride)?;
    }
    Ok(())
}

pub fn backward_keys(kernel: &str, seed: u64) -> Checked {
    for case in cases(&mut Random::new(seed)) {
        let expected = case.expected();
        let [mut grad_k, mut grad_v] = [1, 2].map(|of| Buffer::poisoned(expected.grads[of].len()));
        let outputs = [output(&mut grad_k), output(&mut grad_v)];
        run_backward(&case, kernel, &expected, &outputs, case.kv_stride, case.keys, seed)?;
        case.close_rows("gradient of k", &grad_k, &expected.grads[1], case.kv_stride)?;
        case.close_rows("gradient of v", &grad_v, &expected.grads[2], case.kv_stride)?;
    }
    Ok(())
}
