//! The rules by which a claim is judged. They know numbers and their intervals, not where these come from.

use crate::metrics::bootstrap::Interval;
use crate::reports::paper_results::Quoted;

/// Two modes are close whose ROC-AUCs differ by no more than this: the paper's own gap between PE and Full-FT on Hateful
/// Memes, 0.0158, to one digit.
pub const CLOSE: f64 = 0.02;

/// What becomes of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It does not hold.
    Fails,
    /// The interval speaks neither for it nor against it.
    Open,
    /// It speaks of the paper's rows, and these are others.
    OtherData,
    /// What it is about was not measured here.
    NotMeasured,
}

impl Verdict {
    /// The verdict as tables have it.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "does not hold",
            Self::Open => "undecided at this sample size",
            Self::OtherData => "not on the paper's data",
            Self::NotMeasured => "not measured here",
        }
    }
}

/// A count is exact: it holds when it is printed as quoted.
pub fn exact(value: f64, quoted: Quoted) -> Verdict {
    if (value - quoted.value).abs() <= quoted.rounding() { Verdict::Holds } else { Verdict::Fails }
}

/// An estimate against a quoted size. It does not hold where the interval misses the quoted value, as far as its digits
/// go; where the interval meets it, it holds, unless the interval meets `nothing` too: the value if there were no effect.
pub fn sized(interval: Interval, quoted: Quoted, nothing: Option<f64>) -> Verdict {
    let meets = |value: f64, slack: f64| interval.low <= value + slack && value - slack <= interval.high;
    match (meets(quoted.value, quoted.rounding()), nothing) {
        (false, _) => Verdict::Fails,
        (true, Some(nothing)) if meets(nothing, 0.0) => Verdict::Open,
        (true, _) => Verdict::Holds,
    }
}

/// Whether a difference is small: it holds where the interval is within ±[`CLOSE`], does not where it is outside.
pub fn close(interval: Interval) -> Verdict {
    if interval.low >= -CLOSE && interval.high <= CLOSE {
        Verdict::Holds
    } else if interval.low > CLOSE || interval.high < -CLOSE {
        Verdict::Fails
    } else {
        Verdict::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &str) -> Quoted {
        Quoted::try_from(text.to_owned()).unwrap()
    }

    fn interval(low: f64, high: f64) -> Interval {
        Interval { low, high }
    }

    #[test]
    fn a_count_holds_when_it_is_printed_as_quoted() {
        // 1 − 2,004,626 / 112,044,290 and 1,410,960 / 113,455,250.
        assert_eq!(exact(0.982_108, quoted("0.98")), Verdict::Holds);
        assert_eq!(exact(0.012_436, quoted("0.0124")), Verdict::Holds);
        assert_eq!(exact(0.012_593, quoted("0.0124")), Verdict::Fails);
        assert_eq!(exact(0.975, quoted("0.98")), Verdict::Holds);
        assert_eq!(exact(0.974, quoted("0.98")), Verdict::Fails);
    }

    #[test]
    fn a_size_holds_where_the_interval_meets_it_and_not_nothing() {
        let gain = quoted("0.21");
        assert_eq!(sized(interval(0.1, 0.3), gain, Some(0.0)), Verdict::Holds);
        assert_eq!(sized(interval(-0.1, 0.3), gain, Some(0.0)), Verdict::Open);
        assert_eq!(sized(interval(0.0, 0.2), gain, Some(0.0)), Verdict::Fails);
        assert_eq!(sized(interval(0.22, 0.4), gain, Some(0.0)), Verdict::Fails);
        // 0.205 is printed as 0.21.
        assert_eq!(sized(interval(0.1, 0.205), gain, Some(0.0)), Verdict::Holds);
        assert_eq!(sized(interval(-0.1, 0.3), gain, None), Verdict::Holds);
    }

    #[test]
    fn close_is_decided_only_by_an_interval_on_one_side_of_the_margin() {
        assert_eq!(close(interval(-0.0082, 0.0002)), Verdict::Holds);
        assert_eq!(close(interval(-0.0428, 0.0287)), Verdict::Open);
        assert_eq!(close(interval(-0.09, -0.03)), Verdict::Fails);
        assert_eq!(close(interval(0.03, 0.09)), Verdict::Fails);
        assert_eq!(close(interval(f64::NAN, f64::NAN)), Verdict::Open);
    }
}
