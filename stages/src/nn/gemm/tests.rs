//! Products against their definition, by every kernel, shape and order.

use super::*;

fn values(count: usize, factor: usize) -> Vec<f32> {
    (0..count).map(|i| (i * factor % 101) as f32 / 50.0 - 1.0).collect()
}

/// An element by the definition at the head of this file.
fn expected(a: Matrix, b: Matrix, (row, column): (usize, usize), scale: f32, before: Option<f32>) -> f32 {
    let at = |matrix: Matrix, i: usize, j: usize| {
        if matrix.is_row_major() { matrix.row(i)[j] } else { matrix.t().row(j)[i] }
    };
    let k = a.columns;
    let depth = k.div_ceil(k.div_ceil(384));
    let mut value = before;
    for first in (0..k).step_by(depth) {
        let steps = first..(first + depth).min(k);
        let sum = steps.fold(0f32, |sum, step| at(a, row, step).mul_add(at(b, step, column), sum));
        value = Some(value.map_or(sum * scale, |value| sum.mul_add(scale, value)));
    }
    value.unwrap_or(0.0)
}

/// What a product is added to.
#[derive(Clone, Copy)]
enum Plus<'a> {
    Nothing,
    Result,
    Row(&'a [f32]),
}

/// The product by every kernel that this CPU can run.
#[allow(unsafe_code, reason = "kernels are called past the choice between them")]
fn by_all(
    is_shared: bool,
    out: &[f32],
    stride: usize,
    a: Matrix,
    b: Matrix,
    (scale, plus): (f32, Plus),
) -> Vec<Vec<f32>> {
    let run = |set: InstructionSet| {
        let mut out = out.to_vec();
        let place = Place { at: out.as_mut_ptr(), stride };
        let plus = match plus {
            Plus::Nothing => None,
            Plus::Result => Some(place),
            Plus::Row(row) => Some(Place { at: row.as_ptr().cast_mut(), stride: 0 }),
        };
        let how = How { scale, plus };
        // SAFETY: the CPU supports the kernel, and `out` has room for all rows.
        unsafe {
            match set {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => multiply_with::<kernel::Avx512>(is_shared, place, a, b, how, None),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => multiply_with::<kernel::Avx2>(is_shared, place, a, b, how, None),
                _ => multiply_with::<Scalar>(is_shared, place, a, b, how, None),
            }
        }
        out
    };
    InstructionSet::supported().map(run).collect()
}

#[test]
fn every_kernel_gives_the_bits_of_the_definition_for_every_shape_and_order() {
    // Below, at and above tiles, parts of tiles, blocks and depths, and what is packed and what is not.
    let shapes = [
        (1, 1, 1),
        (12, 32, 384),
        (13, 33, 385),
        (11, 47, 769),
        (7, 17, 30),
        (5, 1100, 3),
        (200, 15, 800),
        (199, 1070, 11),
        (26, 700, 1024),
        (30, 1070, 771),
        (700, 60, 800),
        (120, 800, 700),
    ];
    for (m, n, k) in shapes {
        for (order, gap) in (0..4).zip([0, 5, 0, 3]) {
            let (stride, is_a_row_major, is_b_row_major) = (n + 3, order % 2 == 0, order < 2);
            let (a, b) = (values((m + gap) * (k + gap), 37), values((k + gap) * (n + gap), 53));
            let a = if is_a_row_major {
                Matrix::new(&a, m, k, k + gap)
            } else {
                Matrix::new(&a, k, m, m + gap).t()
            };
            let b = if is_b_row_major {
                Matrix::new(&b, k, n, n + gap)
            } else {
                Matrix::new(&b, n, k, k + gap).t()
            };
            let bias = values(n, 29);
            for (is_shared, plus) in [(false, Plus::Nothing), (true, Plus::Result), (true, Plus::Row(&bias))]
            {
                let scale = 0.3;
                let before = vec![0.5f32; m * stride];
                for (kernel, out) in
                    by_all(is_shared, &before, stride, a, b, (scale, plus)).iter().enumerate()
                {
                    for (row, line) in out.chunks(stride).enumerate() {
                        assert_eq!(line[n..], [0.5; 3], "{m} x {n} x {k} wrote past its columns");
                        // Every element of a small one, some of a large one, the last always.
                        for column in (row % 5..n).step_by(n / 20 + 1).chain([n - 1]) {
                            let before = match plus {
                                Plus::Nothing => None,
                                Plus::Result => Some(0.5),
                                Plus::Row(bias) => Some(bias[column]),
                            };
                            let value = expected(a, b, (row, column), scale, before);
                            let found = line[column];
                            assert!(
                                value.to_bits() == found.to_bits(),
                                "{m} x {n} x {k}, order {order}, kernel {kernel}, at {row}, {column}: {found}, not {value}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn some_steps_of_a_longer_inner_dimension_give_its_bits() {
    // Of 1300 steps, of which blocks of 325 are summed, those that are no multiple of 3, and none of the third block.
    let (m, n, k) = (14, 35, 1300);
    let is_left = |step: &usize| !step.is_multiple_of(3) && !(650..975).contains(step);
    let steps: Vec<usize> = (0..k).filter(is_left).collect();
    let ends: Vec<usize> = block_ends(k).map(|end| steps.partition_point(|step| *step < end)).collect();
    assert_eq!(ends, [216, 433, 433, 649]);
    let mut a = values(m * k, 37);
    a.iter_mut().enumerate().filter(|(at, _)| !is_left(&(at % k))).for_each(|(_, a)| *a = 0.0);
    let b = values(k * n, 53);
    let a_left: Vec<f32> = (0..m)
        .flat_map(|row| steps.iter().map(move |step| (row, step)))
        .map(|(row, step)| a[row * k + step])
        .collect();
    let b_left: Vec<f32> = steps.iter().flat_map(|step| &b[step * n..][..n]).copied().collect();
    let whole = new_product(usize::MAX, Matrix::new(&a, m, k, k), Matrix::new(&b, k, n, n));
    let (a_left, b_left) =
        (Matrix::new(&a_left, m, steps.len(), steps.len()), Matrix::new(&b_left, steps.len(), n, n));
    assert_eq!(new_product(usize::MAX, a_left.in_blocks(&ends), b_left), whole);
    assert_ne!(new_product(usize::MAX, a_left, b_left), whole);
}

#[test]
fn a_product_is_finished_once_all_of_its_steps_are_added() {
    // Rows or columns are shared out, of several blocks of steps.
    for (m, n, k) in [(150, 130, 1300), (20, 4000, 400), (5, 7, 3)] {
        let (a, b, bias, addend) = (values(m * k, 37), values(k * n, 53), values(m, 29), values(m * n, 41));
        let (a, b) = (Matrix::new(&a, m, k, k), Matrix::new(&b, k, n, n));
        let sums = new_product(WORTH_SHARING, a, b);
        for (addend, relu) in [(None, false), (None, true), (Some(&addend[..]), true)] {
            let then = Epilogue { bias: &bias, addend, relu, plane: n };
            let mut out = vec![MaybeUninit::new(f32::NAN); m * n];
            product_then(WORTH_SHARING, &mut out, a, b, then);
            for (at, (found, sum)) in out.iter().zip(&sums).enumerate() {
                let value = sum + addend.map_or(bias[at / n], |addend| addend[at] + bias[at / n]);
                let value = if relu && value <= 0.0 { 0.0 } else { value };
                // SAFETY: all values were set from the beginning.
                #[allow(unsafe_code)]
                let found = unsafe { found.assume_init() };
                assert_eq!(found.to_bits(), value.to_bits(), "{m} x {n} x {k}, {relu}, at {at}");
            }
        }
    }
}

#[test]
fn multiplies_parts_of_wider_matrices() {
    // a = [[1, 2], [3, 4]] and b = [[5, 6], [7, 8]] as the first columns of wider matrices.
    let a = [1.0, 2.0, 99.0, 3.0, 4.0, 99.0];
    let b = [5.0, 6.0, 99.0, 7.0, 8.0];
    let (a, b) = (Matrix::new(&a, 2, 2, 3), Matrix::new(&b, 2, 2, 3));
    let mut out = [1.0, 1.0, -1.0, 1.0, 1.0];
    product(&mut out, 3, a, b, 1.0, false);
    assert_eq!(out, [19.0, 22.0, -1.0, 43.0, 50.0]);
    product(&mut out, 3, a.t(), b, 2.0, true);
    assert_eq!(out, [19.0 + 52.0, 22.0 + 60.0, -1.0, 43.0 + 76.0, 50.0 + 88.0]);
    product(&mut out, 3, a, b.t(), 1.0, false);
    assert_eq!(out, [17.0, 23.0, -1.0, 39.0, 53.0]);
}

#[test]
fn products_of_one_matrix_lie_side_by_side_each_with_its_row_added() {
    let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
    let (a, b) = (Matrix::new(&a, 2, 2, 2), Matrix::new(&b, 2, 2, 2));
    let c = Matrix::new(&[1.0, -1.0], 2, 1, 1);
    let expected = [0.5 - 1.0, 19.25, 22.5, 0.5 - 1.0, 43.25, 50.5];
    assert_eq!(new_affine(0, a, &[(c, &[0.5]), (b, &[0.25, 0.5])]), expected);
}

#[test]
fn an_empty_sum_is_zero_and_no_rows_are_no_result() {
    let (a, b) = (Matrix::new(&[], 2, 0, 0), Matrix::new(&[], 0, 3, 3));
    assert_eq!(new_product(0, a, b), [0.0; 6]);
    let mut out = [1.0; 6];
    product(&mut out, 3, a, b, 1.0, true);
    assert_eq!(out, [1.0; 6]);
    assert!(new_product(0, Matrix::new(&[], 0, 2, 2), Matrix::new(&[0.0; 6], 2, 3, 3)).is_empty());
}

#[test]
fn threads_change_no_bit() {
    // Large enough to be shared, with an inner dimension of several blocks; rows or columns are shared out, b is packed or not.
    for (m, n, k) in [(150, 130, 1300), (150, 500, 1300), (20, 4000, 400), (300, 200, 1024)] {
        let (a, b) = (values(m * k, 37), values(k * n, 53));
        let run = |threads: usize, order: usize| {
            let mut out = vec![0f32; m * n];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let a =
                if order.is_multiple_of(2) { Matrix::new(&a, m, k, k) } else { Matrix::new(&a, k, m, m).t() };
            let b = if order < 2 { Matrix::new(&b, k, n, n) } else { Matrix::new(&b, n, k, k).t() };
            pool.install(|| product(&mut out, n, a, b, 1.0, false));
            out
        };
        for order in 0..4 {
            let one = run(1, order);
            assert!(one.iter().any(|&value| value != 0.0));
            assert!(one == run(2, order) && one == run(3, order), "{m} x {n} x {k}, order {order}");
        }
    }
}

#[test]
fn parts_are_whole_tiles_and_cover_everything_once() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    pool.install(|| {
        assert_eq!((tasks(64 * 64 * 64), tasks(128 * 128 * 128), tasks(1 << 30)), (1, 2, 12));
        for (length, parts) in [(1, 4), (12, 1), (13, 2), (100, 12), (3648, 12)] {
            let seen = std::sync::Mutex::new(vec![0; length]);
            each_part(length, parts, 12, |first, count| {
                assert!(first % 12 == 0 && (count % 12 == 0 || first + count == length));
                seen.lock().unwrap()[first..first + count].iter_mut().for_each(|seen| *seen += 1);
            });
            assert_eq!(seen.into_inner().unwrap(), vec![1; length], "{length} in {parts}");
        }
    });
}

#[test]
#[should_panic(expected = "too short")]
fn refuses_to_read_past_the_end() {
    let a = [0.0; 3];
    product(&mut [0.0; 4], 2, Matrix::new(&a, 2, 2, 2), Matrix::new(&a, 2, 2, 2), 1.0, false);
}
