//! The content of one cell of a table, and how a person and a program read it. It does not know the table around it.

use serde::{Deserialize, Serialize};

/// The content of one cell of a table. Numbers keep full precision; `places` says how many decimals to show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A count.
    Count(u64),
    /// A number.
    Number {
        /// Its value.
        value: f64,
        /// Decimals to show.
        places: u8,
    },
    /// A difference, shown with its sign.
    Difference {
        /// Its value.
        value: f64,
        /// Decimals to show.
        places: u8,
    },
    /// A share of a whole, from 0 to 1, shown in percent.
    Share {
        /// Its value.
        value: f64,
        /// Decimals of the percentage to show.
        places: u8,
    },
    /// Mean and sample standard deviation over several runs.
    Mean {
        /// The mean.
        value: f64,
        /// The standard deviation.
        sd: f64,
        /// Decimals to show.
        places: u8,
    },
    /// A value and the ends of its interval.
    Estimate {
        /// The value.
        value: f64,
        /// The interval's lower end.
        low: f64,
        /// Its upper end.
        high: f64,
        /// Decimals to show.
        places: u8,
    },
    /// The same of a share, shown in percent.
    ShareEstimate {
        /// The share.
        value: f64,
        /// The interval's lower end.
        low: f64,
        /// Its upper end.
        high: f64,
        /// Decimals of the percentage to show.
        places: u8,
    },
    /// The two ends of an interval.
    Interval {
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
        /// Decimals to show.
        places: u8,
    },
    /// A p-value; below 0.001 only that is shown.
    PValue(f64),
    /// Nothing to show, and why.
    Missing(String),
    /// Nothing to show, because there is no such thing.
    None,
}

impl Cell {
    /// The cell as a person reads it: thousands separated, true minus sign, an interval in brackets.
    pub fn shown(&self) -> String {
        match self.interval() {
            Some(interval) => format!("{} ({interval})", self.value()),
            None => self.value(),
        }
    }

    /// The cell, or why there is none where a number of it is not finite.
    pub(super) fn or_undefined(&self) -> Self {
        let numbers = match *self {
            Self::Number { value, .. } | Self::Difference { value, .. } | Self::Share { value, .. } => {
                [value, 0.0, 0.0]
            }
            Self::Mean { value, sd, .. } => [value, sd, 0.0],
            Self::Estimate { value, low, high, .. } | Self::ShareEstimate { value, low, high, .. } => {
                [value, low, high]
            }
            Self::Interval { low, high, .. } => [low, high, 0.0],
            Self::PValue(p) => [p, 0.0, 0.0],
            Self::Text(_) | Self::Count(_) | Self::Missing(_) | Self::None => [0.0; 3],
        };
        if numbers.iter().all(|number| number.is_finite()) {
            self.clone()
        } else {
            Self::Missing("undefined".to_owned())
        }
    }

    /// What [`Self::shown`] says without the interval of a value.
    pub(crate) fn value(&self) -> String {
        match self {
            Self::Text(text) | Self::Missing(text) => text.clone(),
            Self::Count(value) => thousands(*value),
            Self::Number { value, places } | Self::Estimate { value, places, .. } => {
                signed(*value, *places, "")
            }
            Self::Difference { value, places } => signed(*value, *places, "+"),
            Self::Share { value, places } | Self::ShareEstimate { value, places, .. } => {
                format!("{} %", signed(value * 100.0, *places, ""))
            }
            Self::Mean { value, sd, places } => {
                format!("{} ± {}", signed(*value, *places, ""), signed(*sd, *places, ""))
            }
            Self::Interval { low, high, places } => ends(*low, *high, *places),
            Self::PValue(p) if *p < 0.001 => "< 0.001".to_owned(),
            Self::PValue(p) => signed(*p, 3, ""),
            Self::None => "–".to_owned(),
        }
    }

    /// The interval of a value that has one.
    pub(super) fn interval(&self) -> Option<String> {
        match *self {
            Self::Estimate { low, high, places, .. } => Some(ends(low, high, places)),
            Self::ShareEstimate { low, high, places, .. } => Some(ends(low * 100.0, high * 100.0, places)),
            _ => None,
        }
    }

    /// The cell as a program reads it; empty when there is nothing.
    pub(super) fn raw(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(value) => value.to_string(),
            Self::Number { value, .. }
            | Self::Difference { value, .. }
            | Self::Share { value, .. }
            | Self::Estimate { value, .. }
            | Self::ShareEstimate { value, .. }
            | Self::Mean { value, .. } => value.to_string(),
            Self::PValue(p) => p.to_string(),
            Self::Interval { .. } | Self::Missing(_) | Self::None => String::new(),
        }
    }

    /// The endings of the CSV columns that the cell needs in addition to that of its value, and their values.
    pub(super) fn extra_columns(&self) -> Vec<(&'static str, f64)> {
        match self {
            Self::Mean { sd, .. } => vec![("_sd", *sd)],
            Self::Interval { low, high, .. }
            | Self::Estimate { low, high, .. }
            | Self::ShareEstimate { low, high, .. } => vec![("_low", *low), ("_high", *high)],
            _ => vec![],
        }
    }
}

/// `value` with a comma between groups of three digits.
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn ends(low: f64, high: f64, places: u8) -> String {
    format!("{} to {}", signed(low, places, ""), signed(high, places, ""))
}

/// `value` with a true minus sign; `plus` comes before what is not negative. What rounds to zero has no sign.
fn signed(value: f64, places: u8, plus: &str) -> String {
    let places = usize::from(places);
    let digits = format!("{:.places$}", value.abs());
    let zero = digits.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    let sign = match (zero, value < 0.0) {
        (true, _) => "",
        (false, true) => "\u{2212}",
        (false, false) => plus,
    };
    format!("{sign}{digits}")
}
