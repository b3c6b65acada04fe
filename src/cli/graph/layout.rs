//! The positions of the boxes of a layered drawing and the routes of its lines: columns by the longest path, few
//! crossings, short lines (the method of Sugiyama, Tagawa and Toda, 1981). The same graph gives the same
//! drawing. It knows indices and sizes, no steps.

use std::collections::{BTreeMap, BTreeSet};

/// Rounds of reordering; the best order seen is kept.
const ORDER_ROUNDS: usize = 24;
/// Rounds of moving boxes towards their neighbours.
const PLACE_ROUNDS: usize = 12;
/// Between two boxes of a column, and around a line that passes through one.
const GAP: f64 = 12.0;
const LINE_GAP: f64 = 8.0;
/// Between two columns, more where many lines run.
const COLUMN_GAP: f64 = 56.0;

/// A box to place.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub width: f64,
    pub height: f64,
}

/// A drawing.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    /// The upper left corner of each box.
    pub boxes: Vec<(f64, f64)>,
    /// A line for each edge: the points that it goes through, from left to right.
    pub lines: Vec<Vec<(f64, f64)>>,
    pub width: f64,
    pub height: f64,
}

/// A box, or the place where the lines from one box pass through a column.
struct Vertex {
    layer: usize,
    size: Size,
    is_box: bool,
    before: Vec<usize>,
    after: Vec<usize>,
}

/// Lays out boxes of these sizes joined by `edges` (from, to), which hold no cycle.
pub fn layout(sizes: &[Size], edges: &[(usize, usize)]) -> Drawing {
    let layers = layers(sizes.len(), edges);
    let (vertices, passes) = vertices(sizes, edges, &layers);
    let mut columns = vec![Vec::new(); layers.iter().max().map_or(0, |last| last + 1)];
    for (at, vertex) in vertices.iter().enumerate() {
        columns[vertex.layer].push(at);
    }
    order(&vertices, &mut columns);
    let middles = place(&vertices, &columns);
    let mut left = 0.0;
    let mut column_left = Vec::new();
    let mut column_width = Vec::new();
    for column in &columns {
        let width = column.iter().map(|at| vertices[*at].size.width).fold(0.0, f64::max);
        let leaving: usize = column.iter().map(|at| vertices[*at].after.len()).sum();
        column_left.push(left);
        column_width.push(width);
        left += width + COLUMN_GAP + (leaving as f64 * 1.5).min(90.0);
    }
    let bottom = |at: usize| middles[at] + vertices[at].size.height / 2.0;
    let lines = edges
        .iter()
        .map(|&(from, to)| {
            let mut points = vec![(column_left[layers[from]] + sizes[from].width, middles[from])];
            for layer in layers[from] + 1..layers[to] {
                let middle = middles[passes[&(from, layer)]];
                points.push((column_left[layer], middle));
                points.push((column_left[layer] + column_width[layer], middle));
            }
            points.push((column_left[layers[to]], middles[to]));
            points
        })
        .collect();
    Drawing {
        boxes: (0..sizes.len())
            .map(|at| (column_left[layers[at]], middles[at] - sizes[at].height / 2.0))
            .collect(),
        lines,
        width: column_left.iter().zip(&column_width).map(|(left, width)| left + width).fold(0.0, f64::max),
        height: (0..vertices.len()).map(bottom).fold(0.0, f64::max),
    }
}

/// The column of each box: one after the last of what it reads; a step without inputs is right before its
/// first reader.
fn layers(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut layers = vec![0; count];
    // A path has fewer steps than there are boxes.
    for _ in 0..count {
        let mut is_settled = true;
        for &(from, to) in edges {
            if layers[to] <= layers[from] {
                layers[to] = layers[from] + 1;
                is_settled = false;
            }
        }
        if is_settled {
            break;
        }
    }
    for at in 0..count {
        if edges.iter().all(|(_, to)| *to != at)
            && let Some(first) = edges.iter().filter(|(from, _)| *from == at).map(|(_, to)| layers[*to]).min()
        {
            layers[at] = first - 1;
        }
    }
    layers
}

/// Boxes and passes. All lines from one box pass a column at one place, so that they part late.
fn vertices(
    sizes: &[Size],
    edges: &[(usize, usize)],
    layers: &[usize],
) -> (Vec<Vertex>, BTreeMap<(usize, usize), usize>) {
    let vertex = |layer, size, is_box| Vertex { layer, size, is_box, before: Vec::new(), after: Vec::new() };
    let mut all: Vec<Vertex> =
        sizes.iter().enumerate().map(|(at, size)| vertex(layers[at], *size, true)).collect();
    let mut passes = BTreeMap::new();
    let mut joined = BTreeSet::new();
    for &(from, to) in edges {
        let mut last = from;
        for layer in layers[from] + 1..layers[to] {
            let pass = *passes.entry((from, layer)).or_insert_with(|| {
                all.push(vertex(layer, Size { width: 0.0, height: 1.0 }, false));
                all.len() - 1
            });
            joined.insert((last, pass));
            last = pass;
        }
        joined.insert((last, to));
    }
    for (from, to) in joined {
        all[from].after.push(to);
        all[to].before.push(from);
    }
    (all, passes)
}

/// Sorts each column by the mean place of its neighbours, forth and back, and keeps the order with the fewest
/// crossings.
fn order(vertices: &[Vertex], columns: &mut Vec<Vec<usize>>) {
    let mut best = (crossings(vertices, columns), columns.clone());
    for round in 0..ORDER_ROUNDS {
        let forth = round % 2 == 0;
        let mut places = places(vertices.len(), columns);
        let number = columns.len();
        for step in 1..number {
            let at = if forth { step } else { number - 1 - step };
            let mean = |vertex: usize| {
                let near = if forth { &vertices[vertex].before } else { &vertices[vertex].after };
                match near.len() {
                    0 => places[vertex],
                    number => near.iter().map(|other| places[*other]).sum::<f64>() / number as f64,
                }
            };
            let mut column: Vec<(f64, usize)> = columns[at].iter().map(|v| (mean(*v), *v)).collect();
            // Equals keep their order: the sort is stable.
            column.sort_by(|a, b| a.0.total_cmp(&b.0));
            columns[at] = column.into_iter().map(|(_, vertex)| vertex).collect();
            for (place, vertex) in columns[at].iter().enumerate() {
                places[*vertex] = place as f64;
            }
        }
        let found = crossings(vertices, columns);
        if found < best.0 {
            best = (found, columns.clone());
        }
    }
    *columns = best.1;
}

fn places(count: usize, columns: &[Vec<usize>]) -> Vec<f64> {
    let mut places = vec![0.0; count];
    for column in columns {
        for (place, vertex) in column.iter().enumerate() {
            places[*vertex] = place as f64;
        }
    }
    places
}

/// How many pairs of lines cross between neighbouring columns.
fn crossings(vertices: &[Vertex], columns: &[Vec<usize>]) -> usize {
    let places = places(vertices.len(), columns);
    let mut found = 0;
    for column in columns {
        let mut ends: Vec<f64> = Vec::new();
        for vertex in column {
            let mut own: Vec<f64> = vertices[*vertex].after.iter().map(|to| places[*to]).collect();
            own.sort_by(f64::total_cmp);
            for end in &own {
                // Kept sorted: those that end below this one, though they begin above it, cross it.
                found += ends.len() - ends.partition_point(|other| other <= end);
            }
            for end in own {
                ends.insert(ends.partition_point(|other| *other <= end), end);
            }
        }
    }
    found
}

/// The middle of each vertex from top to bottom: near the mean of its neighbours, in the order of its column,
/// with room between.
fn place(vertices: &[Vertex], columns: &[Vec<usize>]) -> Vec<f64> {
    let mut middles = vec![0.0; vertices.len()];
    let room = |above: usize, below: usize| {
        let (above, below) = (&vertices[above], &vertices[below]);
        let gap = if above.is_box && below.is_box { GAP } else { LINE_GAP };
        (above.size.height + below.size.height) / 2.0 + gap
    };
    for column in columns {
        let mut at = 0.0;
        for (place, vertex) in column.iter().enumerate() {
            at += if place == 0 { 0.0 } else { room(column[place - 1], *vertex) };
            middles[*vertex] = at;
        }
    }
    for round in 0..PLACE_ROUNDS {
        let turn: Vec<&Vec<usize>> =
            if round % 2 == 0 { columns.iter().collect() } else { columns.iter().rev().collect() };
        for column in turn {
            let wished: Vec<f64> = column
                .iter()
                .map(|vertex| {
                    let near = vertices[*vertex].before.iter().chain(&vertices[*vertex].after);
                    let (sum, number) = near.fold((0.0, 0), |(sum, n), other| (sum + middles[*other], n + 1));
                    if number == 0 { middles[*vertex] } else { sum / f64::from(number) }
                })
                .collect();
            let rooms: Vec<f64> = column.windows(2).map(|pair| room(pair[0], pair[1])).collect();
            for (vertex, middle) in column.iter().zip(nearest_in_order(&wished, &rooms)) {
                middles[*vertex] = middle;
            }
        }
    }
    let top = |at: usize| middles[at] - vertices[at].size.height / 2.0;
    let highest = (0..vertices.len()).map(top).fold(f64::INFINITY, f64::min);
    if highest.is_finite() {
        middles.iter_mut().for_each(|middle| *middle -= highest);
    }
    middles
}

/// The places nearest to the wished ones (by squares) that keep order and distance: pool adjacent violators.
fn nearest_in_order(wished: &[f64], rooms: &[f64]) -> Vec<f64> {
    let mut offset = 0.0;
    let mut offsets = Vec::with_capacity(wished.len());
    for at in 0..wished.len() {
        offset += if at == 0 { 0.0 } else { rooms[at - 1] };
        offsets.push(offset);
    }
    // Without the distances the places only have to rise: neighbours that do not are pooled at their mean.
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for (wish, offset) in wished.iter().zip(&offsets) {
        pools.push((wish - offset, 1));
        while let [.., (above, m), (below, n)] = pools[..]
            && above > below
        {
            pools.truncate(pools.len() - 2);
            pools.push(((above * m as f64 + below * n as f64) / (m + n) as f64, m + n));
        }
    }
    let means = pools.iter().flat_map(|(mean, number)| std::iter::repeat_n(*mean, *number));
    means.zip(offsets).map(|(mean, offset)| mean + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: Size = Size { width: 100.0, height: 30.0 };

    #[test]
    fn boxes_stand_right_of_what_they_read_and_never_on_each_other() {
        let edges = [(0, 1), (1, 2), (0, 2), (3, 2), (0, 4), (4, 5), (2, 5), (1, 5)];
        let drawing = layout(&[BOX; 6], &edges);
        for (from, to) in edges {
            assert!(drawing.boxes[from].0 + BOX.width < drawing.boxes[to].0, "{from} -> {to}");
        }
        for a in 0..6 {
            for b in 0..a {
                let (a, b) = (drawing.boxes[a], drawing.boxes[b]);
                assert!(a.0 != b.0 || (a.1 - b.1).abs() >= BOX.height + GAP - 1e-9, "{a:?} {b:?}");
            }
        }
        assert_eq!(drawing.boxes[3].0, drawing.boxes[1].0, "a source is right before its reader");
        assert_eq!(drawing, layout(&[BOX; 6], &edges));
    }

    #[test]
    fn what_can_be_drawn_without_crossings_is() {
        // Two chains given crosswise.
        let edges = [(0, 3), (1, 2), (3, 4), (2, 5)];
        let (vertices, _) = vertices(&[BOX; 6], &edges, &layers(6, &edges));
        let mut columns = vec![vec![0, 1], vec![2, 3], vec![4, 5]];
        assert!(crossings(&vertices, &columns) > 0);
        order(&vertices, &mut columns);
        assert_eq!(crossings(&vertices, &columns), 0);
    }

    #[test]
    fn an_empty_graph_is_an_empty_drawing() {
        assert_eq!(layout(&[], &[]).boxes, []);
    }

    #[test]
    fn places_are_the_nearest_that_keep_the_distance() {
        assert_eq!(nearest_in_order(&[0.0, 0.0], &[10.0]), [-5.0, 5.0]);
        assert_eq!(nearest_in_order(&[0.0, 50.0, 40.0], &[10.0, 10.0]), [0.0, 40.0, 50.0]);
    }
}
