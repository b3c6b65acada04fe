//! Round numbers for axes. It does not know where on the page they go.

/// Round values from `low` to `high`, both of which they enclose or meet, about `about` of them, and how many
/// decimals they need. Equal or unusable bounds are widened.
pub fn enclosing(low: f64, high: f64, about: usize) -> (Vec<f64>, usize) {
    let (low, high) = usable(low, high);
    let step = step((high - low) / about.max(1) as f64);
    // A hundred-thousandth of a step of slack keeps a bound that is round already from gaining a step.
    let first = (low / step + 1e-5).floor() as i64;
    let last = (high / step - 1e-5).ceil() as i64;
    ((first..=last).map(|tick| tick as f64 * step).collect(), places(step))
}

/// Values of the series 1, 2, 3, 5, 7, 10, … that enclose or meet `low` and `high`, both above 0, and the decimals they
/// need.
pub fn enclosing_ratio(low: f64, high: f64) -> (Vec<f64>, usize) {
    const SERIES: [f64; 5] = [1.0, 2.0, 3.0, 5.0, 7.0];
    let value =
        |place: i32| SERIES[place.rem_euclid(5) as usize] * libm::exp10(f64::from(place.div_euclid(5)));
    let start = 5 * libm::log10(low).floor() as i32;
    let first = (start..).find(|&place| value(place + 1) > low * 1.000_01).unwrap_or(start);
    let last = (first + 1..).find(|&place| value(place) >= high * 0.999_99).unwrap_or(first + 1);
    ((first..=last).map(value).collect(), places(value(first)))
}

/// Round values within `0..=end`, starting at 0, about `about` of them, and the decimals they need.
pub fn within(end: f64, about: usize) -> (Vec<f64>, usize) {
    let (_, end) = usable(0.0, end);
    let step = step(end / about.max(1) as f64);
    let last = (end / step + 1e-5).floor() as i64;
    ((0..=last).map(|tick| tick as f64 * step).collect(), places(step))
}

fn usable(low: f64, high: f64) -> (f64, f64) {
    match (low.is_finite() && high.is_finite(), high - low > 1e-9) {
        (true, true) => (low, high),
        (true, false) => (low - 0.5, low + 0.5),
        (false, _) => (0.0, 1.0),
    }
}

/// The round number (1, 2 or 5 times a power of ten) nearest above `raw`.
fn step(raw: f64) -> f64 {
    let power = libm::exp10(libm::log10(raw).floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= raw * 0.999).unwrap_or(10.0);
    factor * power
}

fn places(step: f64) -> usize {
    (-libm::log10(step * 1.001).floor()).max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown((ticks, places): (Vec<f64>, usize)) -> String {
        ticks.iter().map(|tick| format!("{tick:.places$}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round_and_enclose_the_data() {
        assert_eq!(shown(enclosing(0.5, 0.7439, 5)), "0.50 0.55 0.60 0.65 0.70 0.75");
        assert_eq!(shown(enclosing(0.0, 3.7, 5)), "0 1 2 3 4");
        assert_eq!(shown(enclosing(0.0, 0.73, 5)), "0.0 0.2 0.4 0.6 0.8");
        assert_eq!(shown(enclosing_ratio(0.45, 3.74)), "0.3 0.5 0.7 1.0 2.0 3.0 5.0");
        assert_eq!(shown(enclosing_ratio(0.5, 0.5)), "0.5 0.7");
        assert_eq!(shown(within(22_000.0, 5)), "0 5000 10000 15000 20000");
        assert_eq!(shown(within(600.0, 6)), "0 100 200 300 400 500 600");
        assert_eq!(shown(within(1.0, 5)), "0.0 0.2 0.4 0.6 0.8 1.0");
    }

    #[test]
    fn bounds_without_a_span_still_give_an_axis() {
        assert!(enclosing(0.5, 0.5, 5).0.len() > 1);
        assert!(enclosing(f64::INFINITY, f64::NEG_INFINITY, 5).0.len() > 1);
        assert!(!within(0.0, 5).0.is_empty());
    }
}
